"""Does a class rely on what surrounds its objects? Borders of its images, pasted onto others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from PIL import Image
from rich.console import Group, RenderableType
from scipy.stats import t as student

from semlens.analysis.classes import class_name, find_class, true_classes
from semlens.analysis.result import Chart, Result
from semlens.data.images import Images
from semlens.draw.text_table import titled_table
from semlens.errors import DataError
from semlens.models.forward import logits
from semlens.progress import report_progress
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import as_list

WIDTHS = (0.15, 0.25)
"""Widths of the border, as shares of the image's sides."""
ALPHA = 0.05
"""Family-wise error rate, over classes and widths."""
LEAST_CLASSES = 5
"""Classes that are needed to know how much gains vary where there is nothing to find."""
SHOWN = 6
"""Pasted images in a plot."""
SIDE = 96
"""Pixels of a pasted image in a plot."""


@dataclass(frozen=True, eq=False, repr=False)
class BorderSwap(Result):
    """How much the borders of each class's images raise the class's logit on other images.

    Parameters
    ----------
    frame
        One row per class and width, smallest p-value first: ``class``, ``logit``, ``width``,
        ``gain`` (mean over the pairs, in units of the logit), ``p_value``, ``adjusted``
        (Bonferroni over all rows) and ``detected``.
    images
        Images per class.
    pasted
        Examples for the first row: an image of another class, and the same with the border.
    """

    frame: pd.DataFrame
    images: int
    pasted: tuple[tuple[Image.Image, Image.Image], ...] = field(default=())

    @property
    def detected(self) -> list[str]:
        """Names of the classes that rely on their surroundings, strongest evidence first."""
        return list(dict.fromkeys(self.frame.loc[self.frame["detected"], "class"]))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "detected": self.detected,
            "images": self.images,
            "classes": self.frame.to_dict("records"),
        }

    @property
    def summary(self) -> str:
        """What was detected, in a sentence."""
        count = self.frame["class"].nunique()
        named = ", ".join(self.detected) or "none"
        return f"Classes that rely on their surroundings (of {count}, family-wise 5 %): {named}"

    def plot(self) -> Chart:
        """Draw the gain of every class, and pasted images of the first one."""
        from semlens.draw.contrast_plots import border_swap_plot

        return border_swap_plot(self.frame, self.summary, self.pasted)

    def __rich__(self) -> RenderableType:
        """Return the classes with the smallest p-values."""
        shown = self.frame.head(12)
        written = {name: shown[name].map("{:.4f}".format) for name in ("p_value", "adjusted")}
        return Group(*titled_table(self.summary, shown.assign(**written)))


@question(
    "model", "images", panel="Audit", example="border-swap r18.semlens --save border-swap.png"
)
def border_swap(
    database: Database,
    target: Annotated[
        int | str | Sequence[int | str] | None,
        setting("Class to test, by name or by the number of its logit [all classes with images]."),
    ] = None,
    *,
    width: Annotated[
        float | None,
        setting("Width of the border, as a share of the sides [0.15 and 0.25].", gt=0, lt=0.5),
    ] = None,
    count: Annotated[int, setting("Images of other classes, per class.", ge=8)] = 64,
    reference: Annotated[int, setting("Other classes to compare with, at most.", ge=5)] = 30,
    seed: Annotated[int, setting("Which images are drawn.", ge=0)] = 0,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
) -> BorderSwap:
    """Test whether a class relies on what surrounds its objects.

    The border of images of the class is pasted onto images of other classes. The gain is the
    mean rise of the class's logit over that with a border from a third class. It is tested
    against the gains of the other classes, as a new observation of their normal distribution.
    No embedder and no words are needed, so that artefacts are found which an embedder does not
    see. A mark in the middle of the image is not found.

    Parameters
    ----------
    target
        One class, or several.

    Raises
    ------
    DataError
        If too few classes have images.
    RelevanceError
        If there is no such class.
    """
    logit = true_classes(database)
    classes = np.unique(logit[~np.isnan(logit)]).astype(np.int64)
    if len(classes) < LEAST_CLASSES:
        raise DataError(
            f"The database has images of {len(classes)} classes.",
            f"Expected at least {LEAST_CLASSES}: a gain is compared with the other classes.",
            "Build it from images of more classes.",
        )
    tested = (
        [find_class(database, one) for one in as_list(target)] if target is not None else classes
    )
    for one in tested:
        if one not in classes:
            raise DataError(
                f"The class '{class_name(database, int(one))}' has no images in the database.",
                "Expected images to take borders from.",
                "Choose another class.",
            )
    random = np.random.default_rng(seed)
    others = random.permutation(np.setdiff1d(classes, tested))[:reference]
    measured = np.union1d(tested, others) if target is not None else classes
    draws = {int(c): _draw(logit, int(c), count, seed) for c in measured}
    rows: list[dict[str, Any]] = []
    widths = WIDTHS if width is None else (width,)
    for place, share in enumerate(widths):
        gains = np.zeros(len(measured))
        for i, c in enumerate(measured.tolist()):
            gains[i] = _gain(database, c, draws[c], share, batch_size)
            report_progress(
                "swapping borders", place * len(measured) + i + 1, len(widths) * len(measured)
            )
        p_values = leave_one_out(gains)
        rows += [
            {
                "class": class_name(database, c),
                "logit": c,
                "width": share,
                "gain": gain,
                "p_value": p,
            }
            for c, gain, p in zip(measured.tolist(), gains, p_values, strict=True)
            if c in set(map(int, tested))
        ]
    frame = pd.DataFrame(rows).sort_values(["p_value", "logit"], ignore_index=True)
    adjusted = np.minimum(frame["p_value"].to_numpy() * len(frame), 1.0)
    frame = frame.assign(adjusted=adjusted, detected=adjusted < ALPHA)
    first = frame.iloc[0]
    receivers, donors, _ = draws[int(first["logit"])]
    pasted = tuple(
        _small(database.images, int(a), int(b), float(first["width"]))
        for a, b in zip(receivers[:SHOWN], donors, strict=False)
    )
    return BorderSwap(frame, count, pasted)


Draw = tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]


def _draw(logit: np.ndarray, target: int, count: int, seed: int) -> Draw:
    """Draw images of other classes, and for each one a donor of the class and one of a third."""
    random = np.random.default_rng([seed, target])
    other = np.flatnonzero(~np.isnan(logit) & (logit != target))
    receivers = random.choice(other, count, replace=len(other) < count)
    donors = random.choice(np.flatnonzero(logit == target), count)
    third = np.array([random.choice(other[logit[other] != logit[r]]) for r in receivers])
    return receivers, donors, third


def _gain(database: Database, target: int, draw: Draw, width: float, batch_size: int) -> float:
    """Return the mean rise of the class's logit through borders of its images."""
    receivers, donors, third = draw
    images = database.images

    def with_border(sources: np.ndarray) -> np.ndarray:
        def read(i: int) -> Image.Image:
            return paste_border(images.read(int(receivers[i])), images.read(int(sources[i])), width)

        return logits(database.model, read, range(len(receivers)), batch_size, None)[:, target]

    return float((with_border(donors) - with_border(third)).astype(np.float64).mean())


def paste_border(image: Image.Image, source: Image.Image, width: float) -> Image.Image:
    """Return an image whose border is that of another, resized to the same size."""
    framed = source.resize(image.size, Image.Resampling.BILINEAR)
    x, y = round(width * image.width), round(width * image.height)
    framed.paste(image.crop((x, y, image.width - x, image.height - y)), (x, y))
    return framed


def leave_one_out(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return for each value the probability that a new one of the others' kind is as large.

    By Student's prediction interval: the value less the others' mean, over the standard
    deviation of a new observation, has a t distribution with n - 2 degrees of freedom if all
    are normal.
    """
    n = len(values) - 1
    others = np.tile(values, (n + 1, 1))[~np.eye(n + 1, dtype=bool)].reshape(n + 1, n)
    excess = values - others.mean(1)
    spread = others.std(1, ddof=1) * np.sqrt(1 + 1 / n)
    # without spread no other class gains anything: then any gain is beyond chance
    beyond = np.where(excess > 1e-9 * np.abs(values).max(), np.inf, -np.inf)
    scores = np.divide(excess, spread, out=beyond, where=spread > 0)
    return student.sf(scores, n - 1)


def _small(
    images: Images, receiver: int, donor: int, width: float
) -> tuple[Image.Image, Image.Image]:
    """Return a picture of an image, and of the same with the border."""
    plain = images.read(receiver)
    both = (plain.copy(), paste_border(plain, images.read(donor), width))
    for picture in both:
        picture.thumbnail((SIDE, SIDE))
    return both
