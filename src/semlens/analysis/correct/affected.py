"""The samples that carry what some components stand for, to be left out of a training (4.3.3)."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64
from PIL import Image
from rich.console import Group, RenderableType

from semlens.analysis.reading import Progress, check_samples
from semlens.analysis.result import Result
from semlens.data.images import Images
from semlens.errors import DataError, LayerError
from semlens.models.forward import readouts
from semlens.models.subject import SubjectModel
from semlens.store.reader import Database
from semlens.types import Component

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SEEDS = 30
"""Samples with the strongest components, from which the threshold is learned."""
STRENGTH = 0.001
"""C of the support vector machine, on standardised readouts; chosen on the demo world."""
SHARED = 3
"""Without a model: a flagged sample is a concept example of so many of the components, or of half
of them where that is less; chosen on the demo world."""
SHOWN = 8
"""Samples on each side of the threshold that the plot shows."""
SIDE = 72
"""Pixels of a shown sample."""


@dataclass(frozen=True, repr=False)
class Affected(Result):
    """Samples with a score for an artefact; those above the threshold are flagged."""

    components: tuple[Component, ...]
    frame: pd.DataFrame
    """Columns ``sample``, ``path``, ``class``, ``score``, ``flagged``, highest score first."""
    threshold: float
    searched: int
    """Number of samples that were looked at: all, or the concept examples only."""
    from_model: bool
    """Whether the model was run; without it there are the concept examples only."""
    near: tuple[tuple[str, bytes], ...] = ()
    """Path and WebP of the samples around the threshold, highest score first."""

    @property
    def samples(self) -> list[int]:
        """Numbers of the flagged samples."""
        return self.frame.loc[self.frame["flagged"], "sample"].tolist()

    @property
    def paths(self) -> list[str]:
        """Paths of the flagged samples."""
        return self.frame.loc[self.frame["flagged"], "path"].tolist()

    def per_class(self) -> pd.DataFrame:
        """Return how many samples of each class are flagged."""
        named = self.frame.fillna({"class": "(no class)"}).groupby("class", sort=True)["flagged"]
        table = named.agg(["sum", "size"]).reset_index()
        table.columns = ["class", "flagged", "samples"]
        return table.sort_values(["flagged", "class"], ascending=[False, True], ignore_index=True)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per sample."""
        return self.frame.copy()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program; samples that are not flagged are left out."""
        flagged = self.frame.query("flagged")
        return {
            "components": [str(component) for component in self.components],
            "threshold": self.threshold,
            "searched": self.searched,
            "from_model": self.from_model,
            "flagged": flagged.drop(columns="flagged").to_dict("records"),
        }

    def plot(self) -> Figure:
        """Draw the scores, and the samples around the threshold."""
        from semlens.draw.affected_plot import affected_plot

        flagged = len(self.samples)
        scores = self.frame["score"].to_numpy()
        return affected_plot(scores, self.threshold, self.near, min(flagged, SHOWN), flagged)

    def __rich__(self) -> RenderableType:
        """Return the classes, and the strongest samples."""
        from semlens.draw.table import rich_table

        where = "samples" if self.from_model else "concept examples"
        head = f"{len(self.samples)} of {self.searched} {where} are affected"
        classes = self.per_class().query("flagged > 0")
        first = self.frame.query("flagged").head(5)
        return Group(
            head,
            rich_table(classes),
            "The strongest:",
            rich_table(first, "", ["path", "class", "score"]),
        )


def affected(
    database: Database,
    components: Sequence[Component],
    images: Images | None = None,
    model: SubjectModel | None = None,
    *,
    progress: Progress = lambda *_: None,
) -> Affected:
    """Find the samples that carry what some components have in common.

    With model and images, all samples are scored: a linear support vector machine tells the
    samples in which the components are strongest from all others, by the readouts of the
    components' layers and of the deepest layer (as a concept activation vector, Kim et al.
    2018). What lies on their side is flagged. Without a model there are only the concept
    examples: those that several of the components share are flagged.

    Raises
    ------
    LayerError
        If there is no component, or the database lacks one.
    DataError
        If only one of model and images is given, or there are too few samples.

    Examples
    --------
    >>> found = affected(db, db.search("watermark", top=8).components)   # doctest: +SKIP
    >>> found.paths                                                      # doctest: +SKIP
    """
    chosen = tuple(dict.fromkeys(components))
    if not chosen:
        raise LayerError("There is no component.", "Expected at least one.", "Name some.")
    rows = [database.row(component) for component in chosen]
    if (images is None) != (model is None):
        raise DataError(
            f"Only the {'model' if images is None else 'images'} are given.",
            "Expected both, or neither.",
            "Give both to score all samples.",
        )
    if images is None or model is None:
        return _from_examples(database, chosen, rows)
    database.check_model(model)
    check_samples(database, images)
    usable = np.flatnonzero(database.samples["error"].isna().to_numpy())
    if len(usable) < 4:
        raise DataError(
            f"There are {len(usable)} readable samples.", "Expected at least 4.", "Give more."
        )
    score = _scores(database, chosen, images, model, usable, progress)
    frame = _table(database, usable, score, score > 0)
    return Affected(chosen, frame, 0.0, len(usable), True, _near(frame, images))


def _from_examples(
    database: Database, components: tuple[Component, ...], rows: Sequence[int]
) -> Affected:
    examples = [{example.sample for example in database.examples_of(row)} for row in rows]
    found = np.array(sorted(set().union(*examples)), np.int64)
    score = np.array([sum(sample in part for part in examples) for sample in found], float)
    score = score / len(rows)
    threshold = min(SHARED, (len(rows) + 1) // 2) / len(rows)
    frame = _table(database, found, score, score >= threshold)
    return Affected(components, frame, threshold, len(found), False)


def _table(
    database: Database,
    samples: np.ndarray,
    score: Float64[np.ndarray, " n"],
    flagged: Bool[np.ndarray, " n"],
) -> pd.DataFrame:
    table = database.samples.iloc[samples]
    frame = pd.DataFrame(
        {
            "sample": samples,
            "path": table["path"].to_numpy(),
            "class": table["target"].to_numpy(),
            "score": score,
            "flagged": flagged,
        }
    )
    return frame.sort_values(["score", "sample"], ascending=[False, True], ignore_index=True)


def _scores(
    database: Database,
    components: Sequence[Component],
    images: Images,
    model: SubjectModel,
    samples: np.ndarray,
    progress: Progress,
) -> Float64[np.ndarray, " n"]:
    """Return each sample's distance from the plane that the machine has learned."""
    done = itertools.count(1)

    def read(sample: int) -> Image.Image:
        progress("reading activations", next(done), len(samples))
        return images.read(sample)

    layers = list(dict.fromkeys([*(c.layer for c in components), database.layers[-1]]))
    readout = database.manifest.recipe.readout
    found = readouts(model, read, samples.tolist(), layers, readout)
    standard = {name: standardised(values) for name, values in found.items()}
    strength = np.mean([c.sign * standard[c.layer][:, c.index] for c in components], axis=0)
    seeds = np.zeros(len(samples), bool)
    seeds[np.argsort(-strength, kind="stable")[: max(2, min(SEEDS, len(samples) // 4))]] = True
    return separated(np.concatenate([standard[name] for name in layers], axis=1), seeds)


def standardised(values: np.ndarray) -> Float64[np.ndarray, "n c"]:
    """Return columns with mean 0 and deviation 1; a constant one becomes 0."""
    values = values.astype(np.float64)
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > 0, spread, 1.0)


def separated(
    features: Float64[np.ndarray, "n c"], seeds: Bool[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Return the signed distances to the plane between some samples and the others."""
    from sklearn.svm import LinearSVC

    machine = LinearSVC(C=STRENGTH, class_weight="balanced", random_state=0, max_iter=20000)
    machine.fit(features, seeds)
    return machine.decision_function(features) / np.linalg.norm(machine.coef_)


def _near(frame: pd.DataFrame, images: Images) -> tuple[tuple[str, bytes], ...]:
    """Return small pictures of the samples on both sides of the threshold."""
    edge = int(np.count_nonzero(frame["flagged"].to_numpy(bool)))
    part = frame.iloc[max(0, edge - SHOWN) : edge + SHOWN]
    found: list[tuple[str, bytes]] = []
    for sample, path in zip(part["sample"].tolist(), part["path"], strict=True):
        picture = images.read(sample)
        picture.thumbnail((SIDE, SIDE))
        target = io.BytesIO()
        picture.save(target, "WEBP", quality=85)
        found.append((str(path), target.getvalue()))
    return tuple(found)
