"""Result of a comparison: similarities, pairs, unique components, labels and scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.draw.text_table import titled_table
from semlens.errors import RecipeError
from semlens.figures import FigureSpec, Matrix, Panel, Series, Values, colour_limits
from semlens.lenses.compare.component_sets import ComponentSet
from semlens.lenses.compare.nearest_components import Nearest
from semlens.lenses.result import Result, Section

if TYPE_CHECKING:
    from PIL import Image

    from semlens.draw.example_sheet import PairRow

LABELS = 14
"""Labels in the figure: the most frequent ones."""
SAID = 6
"""Pairs of sets in sentences: the most similar ones."""
WIDE = 8
"""Largest number of sets whose matrix is printed as a table; for more, a list is printed."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """How similar sets of components are to each other.

    Parameters
    ----------
    matrix
        One row per ordered pair of sets: ``from``, ``to``, ``similarity`` (Eq. 5),
        ``mean_pair`` (mean cosine of all pairs, the baseline for an arbitrary component),
        ``centred`` (Eq. 5 after subtracting the mean of all compared unit vectors; our addition,
        NaN if not computed), ``mutual`` (fraction of ``from`` in pairs that are each other's
        nearest) and ``unique`` (number of components of ``from`` without a counterpart in
        ``to``).
    nearest
        By indices of two sets: the nearest component of the second set for each component of
        the first.
    thresholds
        By set: a component is unique if all its cosines with another set are below. NaN if the
        set has only one component.
    component_labels
        By set: the label of each component, or None.
    labels
        One row per set and label: category, count, share, and ``where`` the label occurs.
    scores
        One row per set and measure: mean, quartiles, and the number of components.
    top
        Number of pairs and unique components to print per pair of sets; 0 for all.
    notes
        Differences between the databases other than the model.
    """

    sets: tuple[ComponentSet, ...]
    matrix: pd.DataFrame
    nearest: Mapping[tuple[int, int], Nearest]
    thresholds: tuple[float, ...]
    component_labels: list[list[str | None]] | None
    labels: pd.DataFrame | None
    scores: pd.DataFrame | None
    top: int
    notes: tuple[str, ...]

    def to_pandas(self) -> pd.DataFrame:
        """Return the matrix, one row per ordered pair of sets."""
        return self.matrix.copy()

    @cached_property
    def overview(self) -> pd.DataFrame:
        """One row per set: components, threshold, and ``only_here``, the number of unique ones.

        A component is counted there if it has no counterpart in any other set.
        """
        similarities = [
            [nearest.similarity for (a, _), nearest in self.nearest.items() if a == index]
            for index in range(len(self.sets))
        ]
        return pd.DataFrame(
            {
                "set": [component_set.name for component_set in self.sets],
                "database": [component_set.database.location for component_set in self.sets],
                "model": [
                    component_set.database.manifest.model.spec for component_set in self.sets
                ],
                "layers": [", ".join(component_set.layers) for component_set in self.sets],
                "components": [len(component_set) for component_set in self.sets],
                "threshold": self.thresholds,
                "only_here": [
                    int((np.max(similarity, axis=0) < threshold).sum())
                    for similarity, threshold in zip(similarities, self.thresholds, strict=True)
                ],
            }
        )

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Each component with its nearest in each other set.

        ``mutual`` if the two components are each other's nearest.
        """
        return pd.concat([self._pairs(a, b) for a, b in self.nearest], ignore_index=True)

    @cached_property
    def unique(self) -> pd.DataFrame:
        """Components whose nearest in another set is below the threshold of their own set."""
        return pd.concat([self._unique(a, b) for a, b in self.nearest], ignore_index=True)

    def best_pairs(self) -> pd.DataFrame:
        """Return the mutual pairs, most similar first; each pair of sets once."""
        return pd.concat([self._shared(a, b) for a, b in self.nearest if a < b], ignore_index=True)

    def _unique(self, a: int, b: int) -> pd.DataFrame:
        frame, limit = self._pairs(a, b).drop(columns="mutual"), self.thresholds[a]
        frame = frame.loc[frame["similarity"] < limit].sort_values("similarity", kind="stable")
        return frame.assign(threshold=limit)

    def _shared(self, a: int, b: int) -> pd.DataFrame:
        frame = self._pairs(a, b)
        frame = frame.loc[frame["mutual"]].drop(columns="mutual")
        return frame.sort_values("similarity", ascending=False, kind="stable")

    def _pairs(self, a: int, b: int) -> pd.DataFrame:
        nearest, backward = self.nearest[a, b], self.nearest[b, a]
        other_components = np.asarray(self.sets[b].components)
        frame = pd.DataFrame(
            {
                "from": self.sets[a].name,
                "to": self.sets[b].name,
                "component": self.sets[a].components,
                "nearest": other_components[nearest.index],
                "similarity": nearest.similarity,
                "mutual": nearest.mutual(backward),
            }
        )
        if self.component_labels is not None:
            frame["label"] = pd.Series(self.component_labels[a], dtype=object)
            frame["nearest_label"] = np.asarray(self.component_labels[b], object)[nearest.index]
        return frame

    @property
    def has_centred(self) -> bool:
        """Whether the centred similarity was computed."""
        return not np.isnan(self.matrix["centred"].to_numpy(float)).all()

    def square(self, value: str = "similarity") -> pd.DataFrame:
        """Return one column of the matrix as a square table: rows ``from``, columns ``to``."""
        names = [component_set.name for component_set in self.sets]
        return self.matrix.pivot(index="from", columns="to", values=value).loc[names, names]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON, with the first ``top`` pairs and unique components."""
        return {
            "sets": self.overview.to_dict("records"),
            "matrix": self.matrix.to_dict("records"),
            "pairs": self.first(self.best_pairs()).to_dict("records"),
            "unique": self.first(self.unique).to_dict("records"),
            "labels": None if self.labels is None else self.labels.to_dict("records"),
            "scores": None if self.scores is None else self.scores.to_dict("records"),
            "notes": list(self.notes),
        }

    def first(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the first ``top`` rows of pairs or unique components per pair of sets."""
        return frame.groupby(["from", "to"], sort=False).head(self.top) if self.top else frame

    def figure(self) -> FigureSpec:
        """Return the matrix and, for two sets, their labels and scores."""
        panels: list[Panel] = [_matrix("Set similarity, from row to column", self.square())]
        if self.has_centred:
            panels.append(_matrix("Centred set similarity", self.square("centred")))
        if len(self.sets) == 2 and self.scores is not None:
            panels.append(self._quartiles(self.scores))
        if len(self.sets) == 2 and self.labels is not None and len(self.labels):
            panels.append(self._label_shares(self.labels))
        title = f"How similar {len(self.sets)} sets of components are"
        return FigureSpec(title, panels, columns=2 if len(self.sets) < 8 else 1)

    def _label_shares(self, labels: pd.DataFrame) -> Values:
        """Return the shares of the most frequent labels, with the number of components."""
        names = [component_set.name for component_set in self.sets]
        share, count = (
            labels.pivot(index="label", columns="set", values=column)[names]
            for column in ("share", "count")
        )
        order = share.sum(axis=1).sort_values(ascending=False, kind="stable").index[:LABELS]
        series = [
            Series((100 * share.loc[order, name]).tolist(), name,
                   notes=[str(n) for n in count.loc[order, name]])
            for name in names
        ]  # fmt: skip
        axis = "% of the set's components (number)"
        return Values("Most frequent labels", list(order), series, axis)

    def _quartiles(self, scores: pd.DataFrame) -> Values:
        """Return median and quartiles of each measure of each set."""
        measures = list(dict.fromkeys(scores["measure"]))
        series: list[Series] = []
        for component_set in self.sets:
            rows = scores[scores["set"] == component_set.name].set_index("measure").loc[measures]
            median, low, high = (
                rows[name].tolist() for name in ("median", "lower_quartile", "upper_quartile")
            )
            series.append(Series(median, component_set.name, low, high))
        return Values("Scores", measures, series, "median, quartiles")

    def section(self, target: str | None = None) -> Section:
        """Return in sentences how similar the sets are, and what only one of them has."""
        pairs: Any = self.matrix[self.matrix["from"] != self.matrix["to"]]
        sentences = [
            f"A component of '{row['from']}' has a cosine of {row['similarity']:.3f} on average "
            f"with its nearest in '{row['to']}', and of {row['mean_pair']:.3f} with any; "
            f"{row['unique']} of {row['components']} have no counterpart."
            for row in pairs.nlargest(SAID, "similarity").to_dict("records")
        ]
        return Section(sentences, self.figure(), self.to_pandas(), " ".join(self.notes))

    def pairs_picture(
        self, first: str | None = None, second: str | None = None, columns: int = 6
    ) -> Image.Image:
        """Draw the examples of the best pairs and of the unique components of two sets.

        Parameters
        ----------
        first, second
            Names of two sets; the first two by default.

        Raises
        ------
        RecipeError
            If there is no set with this name, or both are the same.
        """
        from semlens.draw.example_sheet import pairs_sheet

        a, b = self._set_index(first, 0), self._set_index(second, 1)
        if a == b:
            raise RecipeError(
                f"'{self.sets[a].name}' is given twice.",
                "Expected two different sets.",
                "Give another name.",
            )
        sections = [("Shared: each other's nearest", self._rows(a, b, self._shared(a, b)))]
        for i, j in ((a, b), (b, a)):
            rows = self._rows(i, j, self._unique(i, j))
            title = f"Only in {self.sets[i].name}, next to the nearest of {self.sets[j].name}"
            sections.append((title, rows if i == a else [row.swapped() for row in rows]))
        left, right = ((self.sets[index].name, self.sets[index].database) for index in (a, b))
        return pairs_sheet(left, right, sections, columns)

    def _rows(self, a: int, b: int, frame: pd.DataFrame) -> list[PairRow]:
        """Return the first ``top`` pairs of a table, whose index holds indices of the first set."""
        from semlens.draw.example_sheet import PairRow

        rows: list[PairRow] = []
        for index in frame.head(self.top or len(frame)).index:
            nearest = int(self.nearest[a, b].index[index])
            captions = ("", "")
            if self.component_labels is not None:
                labels = (self.component_labels[a][index], self.component_labels[b][nearest])
                captions = (labels[0] or "no label", labels[1] or "no label")
            row, nearest_row = int(self.sets[a].rows[index]), int(self.sets[b].rows[nearest])
            rows.append(
                PairRow(row, nearest_row, float(self.nearest[a, b].similarity[index]), captions)
            )
        return rows

    def _set_index(self, name: str | None, default: int) -> int:
        names = [component_set.name for component_set in self.sets]
        if name is None:
            return default
        if name not in names:
            raise RecipeError(
                f"Unknown set '{name}'.", f"Expected {', '.join(names)}.", "Give one of them."
            )
        return names.index(name)

    def __rich__(self) -> RenderableType:
        """Return the matrix and scores; for two sets also pairs, unique components and labels."""
        columns = ["set", "layers", "components", "threshold", "only_here"]
        parts = [*titled_table("sets", self.overview, columns), *_matrix_text(self)]
        if len(self.sets) == 2:
            parts += [*_pairs_text(self), *_labels_text(self)]
        if self.scores is not None:
            columns = ["set", "measure", "mean", "lower_quartile", "median", "upper_quartile"]
            parts += titled_table("scores", self.scores, columns)
        return Group(*parts, *(Text(f"Notice: {note}") for note in self.notes))


def _matrix(title: str, square: pd.DataFrame) -> Matrix:
    """Return a table of cosines as a panel; the diagonal is 1 by definition, and left out."""
    cells = square.to_numpy(float)
    values = [
        [None if i == j or np.isnan(v) else float(v) for j, v in enumerate(row)]
        for i, row in enumerate(cells)
    ]
    names = [str(name) for name in square.index]
    return Matrix(title, names, names, values, "cosine", colour_limits(values))


def _matrix_text(comparison: Comparison) -> list[RenderableType]:
    kinds = {
        "similarity": "set similarity (Eq. 5), from row to column",
        "mean_pair": "mean cosine of all pairs, the baseline for an arbitrary component",
    }
    if comparison.has_centred:
        kinds["centred"] = "set similarity after the mean vector is subtracted (our addition)"
    if len(comparison.sets) <= WIDE:
        tables = [
            titled_table(kinds[kind], comparison.square(kind).reset_index()) for kind in kinds
        ]
        return [part for table in tables for part in table]
    pairs = comparison.matrix[comparison.matrix["from"] != comparison.matrix["to"]]
    best = pairs.loc[pairs.groupby("from", sort=False)["similarity"].idxmax()]
    best = best.rename(columns={"from": "set", "to": "most similar"})
    hint = Text("For all pairs, save the result as .csv, or as a picture (.png).\n")
    return [
        *titled_table(kinds["similarity"], best, ["set", "most similar", *kinds, "unique"]),
        hint,
    ]


def _pairs_text(comparison: Comparison) -> list[RenderableType]:
    names = ["component", "nearest", "similarity"]
    if comparison.component_labels is not None:
        names += ["label", "nearest_label"]
    best = comparison.best_pairs()
    parts = titled_table(
        f"shared: {len(best)} pairs, each other's nearest", comparison.first(best), names
    )
    for component_set in comparison.sets:
        unique = comparison.unique.loc[comparison.unique["from"] == component_set.name]
        if len(unique):
            parts += titled_table(
                f"only in {component_set.name}: {len(unique)}", comparison.first(unique), names
            )
    return parts


def _labels_text(comparison: Comparison) -> list[RenderableType]:
    if comparison.labels is None or comparison.labels.empty:
        return []
    names = [component_set.name for component_set in comparison.sets]
    wide = comparison.labels.pivot(index="label", columns="set", values="count")[names]
    wide = wide.loc[wide.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    where = comparison.labels.drop_duplicates("label").set_index("label")["where"].loc[wide.index]
    parts: list[RenderableType] = []
    for where_value in sorted(where.unique()):
        part = wide[where == where_value].reset_index()
        parts += titled_table(
            f"labels {where_value}: {len(part)}", part.head(comparison.top or len(part))
        )
    return parts
