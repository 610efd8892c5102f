"""Drift: how a model's concepts change over the checkpoints of a training run (paper, 4.1.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.draw.text_table import titled_table
from semlens.errors import RecipeError
from semlens.figures import FigureSpec, Matrix, Panel, Series, Values, colour_limits, histograms
from semlens.lens import lens
from semlens.lenses.arguments import OptionalConcepts
from semlens.lenses.compare.component_sets import (
    ComponentSet,
    as_databases,
    component_sets,
    difference_notes,
)
from semlens.lenses.compare.labels_and_scores import label_sets, set_scores
from semlens.lenses.compare.nearest_components import PairProgress, nearest_between_sets
from semlens.lenses.labelling.label import VOCABULARY, LabelThreshold
from semlens.lenses.result import Result, Section
from semlens.lenses.scores import MEASURES
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Layers, as_list

if TYPE_CHECKING:
    pass


StepLabels = Sequence[list[str | None]] | None
NO_MOVEMENT = pd.DataFrame(
    {"step": pd.Series(dtype=object), "component": pd.Series(dtype=object)}
    | {name: pd.Series(dtype=float) for name in ("moved", "from_last")}
)
"""The table of movements if components do not correspond."""


def component_movement(
    sets: Sequence[ComponentSet], names: Sequence[str], labels: StepLabels
) -> pd.DataFrame:
    """Return how far each component moved; NaN if it has a vector in only one of the steps."""
    frames: list[pd.DataFrame] = []
    for index, current in enumerate(sets):
        previous = sets[index - 1] if index else None
        frame = pd.DataFrame(
            {
                "step": names[index],
                "component": current.components,
                "moved": _distance(current, previous),
                "from_last": _distance(current, sets[-1]),
            }
        )
        if labels is not None:
            frame["label"] = pd.Series(labels[index], dtype=object)
            names_before = previous.components if previous is not None else []
            before = pd.Series(
                labels[index - 1] if names_before else [], names_before, dtype=object
            )
            before = before.reindex(current.components).fillna("").to_numpy()
            differs = (frame["label"].fillna("") != before).astype("boolean")
            frame["relabelled"] = differs.where(frame["component"].isin(names_before))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _distance(current: ComponentSet, other: ComponentSet | None) -> np.ndarray:
    """Return 1 - cosine of each component with itself in another step; NaN if it is missing."""
    distance = np.full(len(current), np.nan)
    if other is not None:
        match = pd.Index(other.components).get_indexer(pd.Index(current.components))
        in_both = match >= 0
        cosine = np.einsum(
            "nd,nd->n",
            current.unit_vectors[in_both],
            other.unit_vectors[match[in_both]],
            dtype=np.float64,
        )
        distance[in_both] = np.maximum(1 - cosine, 0)
    return distance


def mean_movement(moved: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return means over the components of each step: moved, moved_from_last, relabelled."""
    columns = ["moved", "from_last", "relabelled"]
    table = moved.reindex(columns=["step", *columns]).astype(dict.fromkeys(columns, float))
    means: Any = table.groupby("step")[columns].mean()
    return means.reindex(list(names)).rename(columns={"from_last": "moved_from_last"})


def label_changes(names: Sequence[str], labels: StepLabels) -> pd.DataFrame:
    """Count the labels of each step; ``change`` says if they were gained, lost or kept."""
    rows: list[dict[str, Any]] = []
    before: set[str] | None = None
    for step, step_labels in zip(names, labels or [], strict=False):
        counts = pd.Series(step_labels, dtype=object).value_counts()
        earlier = set(counts.index) if before is None else before
        rows += [
            {"step": step, "label": label, "count": int(count),
             "change": "kept" if label in earlier else "gained"}
            for label, count in counts.items()
        ]  # fmt: skip
        rows += [
            {"step": step, "label": label, "count": 0, "change": "lost"}
            for label in sorted((before or set()) - set(counts.index))
        ]
        before = set(counts.index)
    return pd.DataFrame(rows, columns=["step", "label", "count", "change"])


def label_summary(changes: pd.DataFrame, names: Sequence[str], labels: StepLabels) -> pd.DataFrame:
    """Return for each step: labelled share, number of labels, and labels gained and lost."""
    steps = list(names)
    if labels is None:
        return pd.DataFrame(np.nan, steps, ["labelled", "labels", "gained", "lost"])
    table = pd.crosstab(changes["step"], changes["change"])
    table = table.reindex(index=steps, columns=["kept", "gained", "lost"], fill_value=0)
    shares = [
        sum(label is not None for label in step_labels) / len(step_labels) for step_labels in labels
    ]
    table.insert(0, "labelled", shares)
    table.insert(1, "labels", table.pop("kept") + table["gained"])
    changed = table[["gained", "lost"]].astype(float)
    changed.iloc[0] = np.nan  # there is no previous step
    return table.assign(**changed)


_DIRECTIONS = {
    "previous_in_this": "from previous to this step",
    "this_in_previous": "from this to previous step",
    "this_in_last": "from this to last step",
    "last_in_this": "from last to this step",
}


@dataclass(frozen=True, eq=False, repr=False)
class Drift(Result):
    """Changes from checkpoint to checkpoint.

    Parameters
    ----------
    series
        One row per step: components, set similarity (Eq. 5) with the previous and the last step
        in both directions, ``moved`` and ``moved_from_last`` (mean of 1 - cosine of a
        component's vectors), ``relabelled`` (share of components whose label has changed),
        ``labelled``, ``labels``, ``gained``, ``lost``, and the mean of each measure.
    components
        One row per component and step: ``moved`` since the previous step, ``from_last``, and
        its ``label``; empty if components do not correspond.
    labels
        One row per step and label: ``count``, and ``change`` (gained, lost or kept).
    mismatch
        Why components do not correspond; empty if they do.
    """

    series: pd.DataFrame
    components: pd.DataFrame
    labels: pd.DataFrame
    mismatch: str
    notes: tuple[str, ...]

    def to_pandas(self) -> pd.DataFrame:
        """Return the series, one row per step."""
        return self.series.copy()

    def most_moved(self, top: int = 10) -> pd.DataFrame:
        """Return the components that moved farthest in one step."""
        return self.components.nlargest(top, ["moved"]).reset_index(drop=True)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON, with the components that moved farthest."""
        return {
            "series": self.series.to_dict("records"),
            "most_moved": self.most_moved().to_dict("records"),
            "labels": self.labels.to_dict("records"),
            "components_correspond": not self.mismatch,
            "notes": self._notices(),
        }

    def figure(self) -> FigureSpec:
        """Return the series over the steps."""
        series: Any = self.series
        steps = [str(step) for step in series["step"]]
        directions = series[list(_DIRECTIONS)].rename(columns=_DIRECTIONS)
        panels: list[Panel] = [_over_steps("Set similarity", steps, directions, "cosine")]
        components: Any = self.components
        moved = {
            str(step): rows["moved"].to_numpy(float)
            for step, rows in components.groupby("step", sort=False)
            if rows["moved"].notna().any()
        }
        if moved:
            axis = "1 - cosine with the previous step"
            panels.append(histograms("Movement of the components", moved, axis))
        if series["labels"].notna().any():
            signs = {"labels": ("different labels", 1), "gained": ("gained", 1)}
            counts = [
                Series([None if np.isnan(v) else sign * float(v) for v in series[column]], name)
                for column, (name, sign) in {**signs, "lost": ("lost", -1)}.items()
            ]
            panels.append(Values("Labels", steps, counts, "labels"))
        measured = [name for name in MEASURES if series[name].notna().any()]
        if measured:
            panels.append(_over_steps("Scores", steps, series[measured], "mean"))
        return FigureSpec(f"Drift over {len(steps)} steps", panels, columns=min(len(panels), 2))

    def section(self, target: str | None = None) -> Section:
        """Return in sentences what changed from the first to the last step."""
        sentences = [
            f"{row['step']}: a component has a cosine of {row['this_in_previous']:.3f} on average "
            f"with its nearest in the previous step."
            for row in self.series.iloc[1:].to_dict("records")
        ]
        moved = self.most_moved(1)
        if len(moved) and not np.isnan(moved["moved"].iat[0]):
            farthest = moved.iloc[0]
            sentences.append(
                f"{farthest['component']} moved farthest in one step, by {farthest['moved']:.3f} "
                f"(1 - cosine) to {farthest['step']}."
            )
        return Section(sentences, self.figure(), self.to_pandas(), " ".join(self._notices()))

    def __rich__(self) -> RenderableType:
        """Return the tables for a terminal."""
        groups = {
            "set similarity (Eq. 5)": ["components", *_DIRECTIONS],
            "movement of a component (1 - cosine, mean)": ["moved", "moved_from_last"],
            "labels": ["labelled", "labels", "gained", "lost", "relabelled"],
            "scores (means)": list(MEASURES),
        }
        frame = self.series.copy()
        for name in ("labels", "gained", "lost"):
            frame[name] = ["-" if np.isnan(v) else str(int(v)) for v in frame[name].astype(float)]
        parts: list[RenderableType] = []
        for title, columns in groups.items():
            if not np.isnan(self.series[columns].to_numpy(float)).all():
                parts += titled_table(title, frame, ["step", *columns])
        for step, rows in self.labels.groupby("step", sort=False):
            texts = [
                f"{change}: {', '.join(rows.loc[rows['change'] == change, 'label'].head(8))}"
                for change in ("gained", "lost")
                if change in set(rows["change"])
            ]
            if texts:
                parts.append(Text(f"{step}  " + ";  ".join(texts)))
        if len(self.components):
            columns = ["step", "component", "moved", "from_last"]
            columns += ["label"] * ("label" in self.components)
            parts += ["", *titled_table("moved farthest in one step", self.most_moved(5), columns)]
        return Group(*parts, *(Text(f"Notice: {note}") for note in self._notices()))

    def _notices(self) -> list[str]:
        return [*([self.mismatch] if self.mismatch else []), *self.notes]


@lens(
    "embedder", group="Compare",
    example="drift step1.semlens step2.semlens step3.semlens --step 1 --step 2 --step 3",
)  # fmt: skip
def drift(
    databases: Database | Sequence[Database],
    *others: Database,
    layers: Layers = None,
    steps: Annotated[
        Sequence[str] | None, setting("Names of the steps [names of the folders].")
    ] = None,
    concepts: OptionalConcepts = VOCABULARY,
    label_threshold: LabelThreshold = None,
    scores: Annotated[bool, setting("Also compare scores.")] = True,
) -> Drift:
    """Track components over the checkpoints of a training run, given in order.

    Components of different steps correspond if they have the same layer, index and sign. If the
    layers or their widths differ, only the sets are compared.

    Parameters
    ----------
    steps
        Names of the steps; by default the names of the folders.
    concepts
        Source of labels; None for no labels. There are no labels if the embedder does not embed
        texts.

    Raises
    ------
    StaleError
        If the embedders differ.
    RecipeError
        If there are fewer than two databases, one is given twice, or the names of the steps do
        not match the databases or are not unique.

    Examples
    --------
    >>> import semlens as sl
    >>> sl.open("step1.semlens").drift(*later).series  # doctest: +SKIP
    """
    checkpoints = as_databases(databases, others)
    sets = component_sets(checkpoints, layers=layers)
    names = _names(sets, steps)
    mismatch = _mismatch(sets)
    similar = _similarities(sets)
    labels, _, unreadable = label_sets(sets, concepts, label_threshold)
    changes = label_changes(names, labels)
    movement = NO_MOVEMENT if mismatch else component_movement(sets, names, labels)
    means = [set_scores(step_set)[list(MEASURES)].mean() for step_set in sets] if scores else []
    series = pd.DataFrame(
        {"step": names, "components": [len(step_set) for step_set in sets], **similar}
    )
    for table in (
        mean_movement(movement, names),
        label_summary(changes, names, labels),
        pd.DataFrame(means, names if scores else [], list(MEASURES)),
    ):
        series = series.join(table, on="step")
    return Drift(series, movement, changes, mismatch, (*difference_notes(checkpoints), *unreadable))


def _over_steps(title: str, steps: Sequence[str], table: pd.DataFrame, axis: str) -> Matrix:
    """Return some columns of the series as rows of a matrix; NaN is left out."""
    values = [[None if np.isnan(v) else float(v) for v in table[name]] for name in table]
    return Matrix(title, [str(name) for name in table], steps, values, axis, colour_limits(values))


def _names(sets: Sequence[ComponentSet], steps: Sequence[str] | None) -> list[str]:
    if len(sets) < 2:
        raise RecipeError(
            f"There is only one checkpoint, '{sets[0].name}'.",
            "Expected at least two, in the order of training.",
            "Give another database.",
        )
    names = [step_set.name for step_set in sets] if steps is None else as_list(steps)
    if len(names) != len(sets) or len(set(names)) < len(names):
        raise RecipeError(
            f"The names of the steps are {', '.join(names)}.",
            f"Expected {len(sets)} different names, one per database.",
            "Correct the names of the steps.",
        )
    return names


def _mismatch(sets: Sequence[ComponentSet]) -> str:
    """Return why components do not correspond; empty if they do."""
    shapes = [
        ", ".join(
            f"{name} with {step_set.database.layer(name).channels} channels"
            for name in step_set.layers
        )
        for step_set in sets
    ]
    for step_set, shape in zip(sets, shapes, strict=True):
        if shape != shapes[0]:
            return (
                f"Components do not correspond: '{step_set.name}' has the layers {shape}, "
                f"'{sets[0].name}' has {shapes[0]}."
            )
    return ""


def _similarities(sets: Sequence[ComponentSet]) -> dict[str, list[float]]:
    """Return set similarity of each step with the previous and last step, in both directions."""
    steps, last = range(len(sets)), len(sets) - 1
    pairs = {(i - 1, i) for i in steps[1:]} | {(i, last) for i in steps[:-1]}
    progress = PairProgress(sum(len(sets[a]) * len(sets[b]) for a, b in pairs))
    similarity = {(-1, 0): float("nan"), (0, -1): float("nan"), (last, last): 1.0}
    for a, b in sorted(pairs):
        forward, backward = nearest_between_sets(sets[a], sets[b], progress)
        similarity[a, b], similarity[b, a] = forward.mean, backward.mean
    return {
        "previous_in_this": [similarity[i - 1, i] for i in steps],
        "this_in_previous": [similarity[i, i - 1] for i in steps],
        "this_in_last": [similarity[i, last] for i in steps],
        "last_in_this": [similarity[last, i] for i in steps],
    }
