"""Contrast two groups of images: which components and logits tell them apart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float32
from rich.console import Group, RenderableType

from semlens.draw.text_table import titled_table
from semlens.figures import (
    ComponentRow,
    Components,
    FigureSpec,
    Panel,
    Series,
    Tone,
    Values,
)
from semlens.lens import lens
from semlens.lenses.arguments import AnyTarget
from semlens.lenses.class_relevance import mean_shares
from semlens.lenses.classes import class_name, find_class
from semlens.lenses.contrast.image_groups import (
    REMOTE_SAMPLES,
    GroupLike,
    ImageGroup,
    error_groups,
    given_groups,
    metadata_groups,
    pair_blocks,
)
from semlens.lenses.contrast.target_shift import TargetShift, target_shares, target_shift
from semlens.lenses.database_engine import by_component
from semlens.lenses.labelling.component_labels import NAMES, LabelSource, as_labels, label_of
from semlens.lenses.result import Result, Section
from semlens.lenses.statistics.separation import Separation, near_duplicates, separate
from semlens.models.forward import readouts_and_logits
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Component, Layers
from semlens.wording import p_text

DRAWS = 2000
"""Permutations; the smallest p-value is 0.0005."""
ALPHA = 0.05
"""Family-wise error rate at which components are counted as different."""
SHOWN = 8
"""Components and logits in a figure."""


@dataclass(frozen=True, eq=False, repr=False)
class Contrast(Result):
    """What tells two groups of images apart.

    Parameters
    ----------
    frame
        The components, most separating first: ``component``, ``label``, ``auroc`` (above 0.5:
        stronger in group a), ``low`` and ``high`` (95 % interval), ``p_value`` (family-wise over
        all components), ``relevance`` (mean share for the class; NaN where it is not known) and
        ``row``.
    logits
        The logits, largest shift first: ``logit``, ``class``, ``shift`` (mean in a minus mean in
        b), ``auroc``, ``low``, ``high`` and ``p_value`` (family-wise over all logits).
    pairs
        Number of pairs of images of equal name.
    target
        The class of the column ``relevance``; None if the model has no logits, or it is that of
        ``shift``.
    errors
        Whether the groups are the model's errors and its correct predictions.
    different_images
        Number of images that are no near-duplicates of one another, as frames of a video are: the
        test counts those as one.
    shift
        The target of the column ``relevance`` in both groups, if it is not one class; its share of
        relevance is computed on images of both.
    """

    database: Database
    a: ImageGroup
    b: ImageGroup
    frame: pd.DataFrame
    logits: pd.DataFrame
    pairs: int
    target: int | None
    errors: bool = False
    different_images: int = 0
    shift: TargetShift | None = None

    @property
    def components(self) -> list[Component]:
        """The components, most separating first."""
        return [Component.parse(name) for name in self.frame["component"]]

    @property
    def different(self) -> int:
        """Number of components that differ at a family-wise error rate of 5 %."""
        return int(np.count_nonzero(self.frame["p_value"] < ALPHA))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        groups = {"a": self.a, "b": self.b}
        return {
            "groups": {key: {"name": g.name, "images": len(g)} for key, g in groups.items()},
            "pairs": self.pairs,
            "class": None if self.target is None else class_name(self.database, self.target),
            "target": None if self.shift is None else vars(self.shift),
            "different": self.different,
            "components": self.frame.drop(columns="row").to_dict("records"),
            "logits": self.logits.to_dict("records"),
        }

    @cached_property
    def summary(self) -> str:
        """The groups, and how many components tell them apart, in a sentence."""
        paired = f", {self.pairs} pairs" if self.pairs else ""
        if 0 < self.different_images < len(self.a) + len(self.b):
            paired += f", of which {self.different_images} are no near-duplicates"
        return (
            f"{self.a.name} ({len(self.a)} images) against {self.b.name} ({len(self.b)})"
            f"{paired}: {self.different} of {len(self.frame)} components differ (p < {ALPHA})"
        )

    def figure(self) -> FigureSpec:
        """Return the most separating components, and the logits that shift most."""
        rows = [
            ComponentRow(
                Component.parse(row["component"]), row["auroc"], row["label"] or "(no label)",
                row["low"], row["high"], _tone(row["auroc"] - 0.5, row["p_value"]),
                p_text(row["p_value"]),
            )
            for row in self.frame.head(SHOWN).to_dict("records")
        ]  # fmt: skip
        axis = f"AUROC: above 0.5 stronger in {self.a.name}"
        panels: list[Panel] = [
            Components("Components that separate the groups", rows, axis, 0.5, (0.0, 1.0))
        ]
        if len(self.logits):
            shown = self.logits.head(SHOWN)
            records = shown.to_dict("records")
            series = Series(
                shown["shift"].tolist(),
                tones=[_tone(row["shift"], row["p_value"]) for row in records],
                notes=[p_text(row["p_value"]) for row in records],
            )
            axis = f"mean in {self.a.name} minus mean in {self.b.name}"
            panels.append(Values("Logits that shift", shown["class"].tolist(), [series], axis))
        return FigureSpec(self.summary, panels, columns=2)

    def section(self, target: str | None = None) -> Section:
        """Return the components that differ, and the logit that shifts most."""
        sentences = [f"{self.summary[0].upper()}{self.summary[1:]}."]
        if self.shift is not None:
            sentences.append(self.shift.sentence)
        if len(self.logits):
            first = self.logits.iloc[0]
            sentences.append(
                f"The logit of '{first['class']}' shifts most, by {first['shift']:+.2f} on average "
                f"({p_text(first['p_value'])}, family-wise over all logits)."
            )
        limits = (
            "This does not show which of the differences causes the errors. Components that "
            "support the class are weaker on errors by construction; those whose examples do not "
            "show the class deserve a look."
            if self.errors
            else "This does not show which of the differences matters to a decision."
        )
        return Section(sentences, self.figure(), self.frame.drop(columns="row"), limits)

    def __rich__(self) -> RenderableType:
        """Return the most separating components and the logits that shift most."""

        def table(title: str, frame: pd.DataFrame, count: int) -> list[RenderableType]:
            shown = frame.head(count)
            return titled_table(title, shown.assign(p_value=shown["p_value"].map("{:.4f}".format)))

        tables = table(self.summary, self.frame.drop(columns="row"), 20)
        if len(self.logits):
            tables += table("Logits, largest shift first", self.logits, 5)
        if self.shift is not None:
            tables.append(self.shift.sentence)
        return Group(*tables, f"AUROC above 0.5: stronger in {self.a.name}.")


@lens(
    "model", "images", "embedder", group="Compare",
    report="Contrast: what do the errors have in common?", about="errors",
    example="contrast r18.semlens --errors 'tabby cat' --save contrast.png",
)  # fmt: skip
def contrast(
    database: Database,
    a: Annotated[
        GroupLike | int | None,
        setting("Images: a folder, a picture, or a .txt or .csv list of the database's images."),
        REMOTE_SAMPLES,
    ] = None,
    b: Annotated[
        GroupLike | int | None,
        setting("Images to compare with [the database's other images]."),
        REMOTE_SAMPLES,
    ] = None,
    *,
    errors: Annotated[
        int | str | None,
        setting("Compare the model's errors on this class with its correct predictions."),
    ] = None,
    metadata: Annotated[
        Path | str | pd.DataFrame | None,
        setting("Table with a column path: a and b are then values of a column."),
    ] = None,
    column: Annotated[str | None, setting("Column of the metadata.", local=True)] = None,
    target: Annotated[
        AnyTarget,
        setting("Class or other target whose relevance is shown [the class that shifts most]."),
    ] = None,
    layers: Layers = None,
    concepts: LabelSource = NAMES,
    draws: Annotated[int, setting("Permutations of the test.", ge=100)] = DRAWS,
    samples: Annotated[int, setting("Images of a class at most, for errors.", ge=4)] = 1000,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
) -> Contrast:
    """Find the components and logits that tell two groups of images apart.

    A component's readouts on both groups give its AUROC; the readout is that of the database's
    recipe. P-values are family-wise over all components, by permutation of the images: between
    the groups, or within pairs where images of both have equal names (as marked and plain
    versions of a photograph do). Near-duplicates, such as frames of a video, are found by their
    readouts and change groups together. Components that differ tell what the model sees; the class
    relevance and the logits tell whether it matters to a decision.

    Parameters
    ----------
    a, b
        Groups of images: a folder or other SPEC, a list of pictures or paths, numbers of the
        database's samples, or the path of a list. Values of ``column`` with ``metadata``.

    Raises
    ------
    DataError
        If a group is missing, has fewer than two images, or shares images with the other.
    RelevanceError
        If there is no such target.
    """
    number = None if target is None else target.index
    names = database.layer_names(layers)
    if errors is not None:
        first, second = error_groups(database, errors, samples, batch_size)
        number = find_class(database, errors) if target is None else number
    elif metadata is not None:
        first, second = metadata_groups(database, metadata, column or "", a, b)
    else:
        first, second = given_groups(database, a, b)
    blocks, pairs = pair_blocks(first, second)
    (readouts_a, logits_a), (readouts_b, logits_b) = (
        _run(database, group, names, batch_size) for group in (first, second)
    )
    # images of a pair are in a group of their own, since pairs change groups together
    groups = np.where(blocks > 0, -1 - np.arange(len(blocks)), np.arange(len(blocks)) < len(first))
    bursts = near_duplicates(np.concatenate([readouts_a, readouts_b]), groups)
    logits = pd.DataFrame()
    if logits_a is not None and logits_b is not None:
        separated = separate(logits_a, logits_b, blocks, draws, bursts=bursts)
        logits = _logit_table(database, logits_a, logits_b, separated)
        number = int(logits["logit"].iloc[0]) if target is None and number is None else number
    rows = database.rows(names)
    separation = separate(readouts_a, readouts_b, blocks, draws, bursts=bursts)
    labels = as_labels(database, concepts, names)
    if target is None or number is not None:
        shares, shift = mean_shares(database, number), None
    else:
        shares = target_shares(database, target, (first, second), names)
        shift = target_shift(database, target, (first, second), blocks, draws, bursts, batch_size)
    frame = _component_table(database, rows, separation, shares, labels)
    count = len(np.unique(bursts))
    return Contrast(
        database, first, second, frame, logits, pairs, number, errors is not None, count, shift
    )


def _tone(difference: float, p_value: float) -> Tone:
    """Return the colour of a difference, pale unless it is beyond chance."""
    if not p_value < ALPHA:
        return "weak"
    return "for" if difference >= 0 else "against"


def _run(
    database: Database, group: ImageGroup, layers: list[str], batch_size: int
) -> tuple[Float32[np.ndarray, "n c"], Float32[np.ndarray, "n k"] | None]:
    """Return the readout of every component and the logits, from one pass over the images."""
    by_layer, logits = readouts_and_logits(
        database.model, group.images.read, group.samples, layers,
        database.manifest.recipe.readout, batch_size,
    )  # fmt: skip
    output = database.manifest.output
    is_embedding = output is not None and output.task == "embedding"  # its axes mean nothing
    return by_component(database, layers, by_layer), None if is_embedding else logits


def _component_table(
    database: Database, rows: np.ndarray, separation: Separation, shares: np.ndarray, labels: Any
) -> pd.DataFrame:
    components = [database.component(int(row)) for row in rows]
    names = [label_of(labels, component) for component in components]
    frame = pd.DataFrame(
        {
            "component": [str(component) for component in components],
            "label": pd.Series(names, dtype=object),  # otherwise None becomes NaN
            **vars(separation),
            "relevance": shares[rows],
            "row": rows,
        }
    )
    distance = -(frame["auroc"] - 0.5).abs()
    return frame.iloc[np.lexsort((rows, distance))].reset_index(drop=True)


def _logit_table(
    database: Database, first: np.ndarray, second: np.ndarray, separation: Separation
) -> pd.DataFrame:
    shift = first.astype(np.float64).mean(0) - second.astype(np.float64).mean(0)
    frame = pd.DataFrame(
        {
            "logit": np.arange(len(shift)),
            "class": [class_name(database, i) for i in range(len(shift))],
            "shift": shift,
            **vars(separation),
        }
    )
    return frame.iloc[np.argsort(-np.abs(shift), kind="stable")].reset_index(drop=True)
