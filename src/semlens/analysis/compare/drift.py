"""Drift: how a model's concepts change over the checkpoints of one training (paper, 4.1.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.analysis.compare.kept import nearest_of_sets
from semlens.analysis.compare.movement import (
    NOTHING_MOVED,
    label_changes,
    label_numbers,
    mean,
    moved_components,
    movement,
)
from semlens.analysis.compare.sets import ComponentSet, component_sets, differences
from semlens.analysis.compare.tally import set_labels, set_scores
from semlens.analysis.compare.text import titled
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.label import THRESHOLD
from semlens.analysis.probe import concept_probe
from semlens.analysis.result import Result
from semlens.analysis.scores import MEASURES
from semlens.errors import RecipeError
from semlens.store.reader import Database

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIMILAR = ("previous_in_this", "this_in_previous", "this_in_last", "last_in_this")


@dataclass(frozen=True, eq=False, repr=False)
class Drift(Result):
    """What changed from checkpoint to checkpoint.

    Parameters
    ----------
    series
        One row per step: components, set similarity (Eq. 5) with the previous and the last
        step both ways, ``moved`` and ``moved_from_last`` (mean of 1 - cosine of a component's
        vectors), ``relabelled`` (share of components whose label is another than before),
        ``labelled``, ``labels``, ``gained``, ``lost``, and the mean of each measure.
    components
        One row per component and step: ``moved`` since the previous step, ``from_last``, and
        its ``label``; empty where components do not correspond.
    labels
        One row per step and label: ``count``, and ``change`` (gained, lost or kept).
    apart
        Why components do not correspond; empty where they do.
    """

    series: pd.DataFrame
    components: pd.DataFrame
    labels: pd.DataFrame
    apart: str
    notes: tuple[str, ...]

    def to_pandas(self) -> pd.DataFrame:
        """Return the series, a row per step."""
        return self.series.copy()

    def most_moved(self, top: int = 10) -> pd.DataFrame:
        """Return the components that moved farthest in one step."""
        return self.components.nlargest(top, ["moved"]).reset_index(drop=True)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program; of the components those that moved farthest."""
        return {
            "series": self.series.to_dict("records"),
            "most_moved": self.most_moved().to_dict("records"),
            "labels": self.labels.to_dict("records"),
            "components_correspond": not self.apart,
            "notes": [*([self.apart] if self.apart else []), *self.notes],
        }

    def plot(self) -> Figure:
        """Draw the series over the steps."""
        from semlens.draw.drift_plot import drift_figure

        return drift_figure(self.series, self.components)

    def __rich__(self) -> RenderableType:
        """Return the tables for a terminal."""
        groups = {
            "set similarity (Eq. 5)": ["components", *_SIMILAR],
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
                parts += titled(title, frame, ["step", *columns])
        for step, part in self.labels.groupby("step", sort=False):
            said = [
                f"{change}: {', '.join(part.loc[part['change'] == change, 'label'].head(8))}"
                for change in ("gained", "lost")
                if change in set(part["change"])
            ]
            if said:
                parts.append(Text(f"{step}  " + ";  ".join(said)))
        if len(self.components):
            columns = ["step", "component", "moved", "from_last", "label"]
            columns = [name for name in columns if name in self.components]
            parts += [
                "",
                *titled("moved farthest in one step", self.most_moved(5), columns),
            ]
        if self.apart:
            parts.append(Text(f"Notice: {self.apart}"))
        parts += [Text(f"Notice: {note}") for note in self.notes]
        return Group(*parts)


def drift(
    databases: Sequence[Database],
    *,
    layers: Sequence[str] | None = None,
    steps: Sequence[str] | None = None,
    concepts: ConceptSet | str | None = None,
    label_threshold: float = THRESHOLD,
    measures: bool = True,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Drift:
    """Follow components over the checkpoints of one training, given in order.

    A component is the same one in every step if it has the same layer, index and sign. Where
    the layers or their widths differ, only the sets are compared.

    Parameters
    ----------
    steps
        Names of the steps; by default those of the folders.
    concepts
        Concept set for labels, or the name of one; None for no labels.

    Raises
    ------
    StaleError
        If the embedders differ.
    RecipeError
        If there are fewer than two databases, one is given twice, or the names of the steps
        are too few, too many or not different.

    Examples
    --------
    >>> import semlens as sl
    >>> sl.drift([sl.open(f"step{i}.semlens") for i in (1, 2, 3)]).series  # doctest: +SKIP
    """
    sets = component_sets(databases, layers=layers)
    names = _names(sets, steps)
    apart = _apart(sets)
    similarity = _all_similarities(sets, progress)
    chosen = ConceptSet.load(concepts) if isinstance(concepts, str) else concepts
    labels = None
    if chosen is not None:
        probe = concept_probe(databases[0], chosen)
        labels = [set_labels(one, probe, chosen, label_threshold) for one in sets]
    counted = label_changes(names, labels)
    moved = NOTHING_MOVED if apart else moved_components(sets, names, labels)
    rows: list[dict[str, Any]] = []
    for place, one in enumerate(sets):
        row = {"step": names[place], "components": len(one)}
        rows.append(row | _similarities(similarity, place, len(sets) - 1))
        rows[-1] |= movement(moved, names[place])
        rows[-1] |= label_numbers(counted, names[place], place, labels)
        found = set_scores(one) if measures else None
        for name in MEASURES:
            values = np.empty(0) if found is None else found[name].to_numpy(float)
            rows[-1][name] = mean(values)
    return Drift(pd.DataFrame(rows), moved, counted, apart, tuple(differences(databases)))


def _names(sets: Sequence[ComponentSet], steps: Sequence[str] | None) -> list[str]:
    if len(sets) < 2:
        raise RecipeError(
            f"There is only one checkpoint, '{sets[0].name}'.",
            "Expected at least two, in the order of the training.",
            "Name another database.",
        )
    names = [one.name for one in sets] if steps is None else list(steps)
    if len(names) != len(sets) or len(set(names)) < len(names):
        raise RecipeError(
            f"The steps are called {', '.join(names)}.",
            f"Expected {len(sets)} different names, one per database.",
            "Correct --steps.",
        )
    return names


def _apart(sets: Sequence[ComponentSet]) -> str:
    """Say why components do not correspond, or nothing where they do."""
    first = sets[0]
    for one in sets[1:]:
        if one.layers != first.layers:
            return (
                f"Components do not correspond: '{one.name}' has the layers "
                f"{', '.join(one.layers)}, '{first.name}' has {', '.join(first.layers)}."
            )
        for layer in one.layers:
            mine, other = one.database.layer(layer), first.database.layer(layer)
            if mine.channels != other.channels:
                return (
                    f"Components do not correspond: '{layer}' has {mine.channels} channels in "
                    f"'{one.name}', {other.channels} in '{first.name}'."
                )
    return ""


def _all_similarities(
    sets: Sequence[ComponentSet], progress: Callable[[int, int], None]
) -> dict[tuple[int, int], float]:
    """Return set similarity of each step with the previous and the last, both ways."""
    last = len(sets) - 1
    wanted = {(a - 1, a) for a in range(1, last + 1)} | {(a, last) for a in range(last)}
    total, done = sum(len(sets[a]) * len(sets[b]) for a, b in wanted), 0

    def step(pairs: int) -> None:
        nonlocal done
        done += pairs
        progress(done, total)

    found = {(last, last): 1.0}
    for a, b in sorted(wanted):
        ahead, back = nearest_of_sets(sets[a], sets[b], step)
        found[a, b], found[b, a] = ahead.mean, back.mean
    return found


def _similarities(found: dict[tuple[int, int], float], place: int, last: int) -> dict[str, float]:
    unknown = float("nan")
    return {
        "previous_in_this": found[place - 1, place] if place else unknown,
        "this_in_previous": found[place, place - 1] if place else unknown,
        "this_in_last": found[place, last],
        "last_in_this": found[last, place],
    }
