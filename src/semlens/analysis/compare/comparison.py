"""What a comparison of component sets found: similarity, pairs, unique ones, labels, scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.analysis.compare.component_sets import ComponentSet
from semlens.analysis.compare.nearest_components import Nearest
from semlens.analysis.result import Result
from semlens.draw.text_table import titled
from semlens.errors import RecipeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from semlens.draw.example_sheet import PairRow

WIDE = 8
"""Sets up to which the matrix is printed as one; more make a list."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """How much of each set of components is found in each other set.

    Parameters
    ----------
    matrix
        One row per ordered pair of sets: ``from``, ``to``, ``similarity`` (Eq. 5),
        ``mean_pair`` (mean cosine of all pairs: what an arbitrary component would have),
        ``centred`` (Eq. 5 after the mean of all compared unit vectors is subtracted; our
        addition, NaN where not asked for), ``mutual`` (share of pairs that are each other's
        nearest) and ``unique`` (how many of ``from`` have no near one in ``to``).
    nearest
        By places of two sets: the nearest in the second of each component of the first.
    thresholds
        By set: a component with no cosine from here on in another set is unique; NaN: unknown.
    labelled
        By set: the label of each component, or None.
    labels
        One row per set and label: category, count, share, and ``where`` the label occurs.
    scores
        One row per set and measure: mean, quartiles, and the number of components.
    top
        How many pairs and unique components per pair of sets are printed; 0 for all.
    notes
        What else differs between the databases.
    """

    sets: tuple[ComponentSet, ...]
    matrix: pd.DataFrame
    nearest: Mapping[tuple[int, int], Nearest]
    thresholds: tuple[float, ...]
    labelled: list[list[str | None]] | None
    labels: pd.DataFrame | None
    scores: pd.DataFrame | None
    top: int
    notes: tuple[str, ...]

    def to_pandas(self) -> pd.DataFrame:
        """Return the matrix, a row per ordered pair of sets."""
        return self.matrix.copy()

    @cached_property
    def overview(self) -> pd.DataFrame:
        """One row per set: components, threshold, and how many components no other set has."""
        alone: list[int] = []
        for place, threshold in enumerate(self.thresholds):
            others = [near.similarity for (a, _), near in self.nearest.items() if a == place]
            alone.append(int((np.max(others, axis=0) < threshold).sum()))
        return pd.DataFrame(
            {
                "set": [one.name for one in self.sets],
                "database": [str(one.database.path) for one in self.sets],
                "model": [one.database.manifest.model.spec for one in self.sets],
                "layers": [", ".join(one.layers) for one in self.sets],
                "components": [len(one) for one in self.sets],
                "threshold": self.thresholds,
                "only_here": alone,
            }
        )

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Each component with its nearest in each other set; ``mutual`` if so both ways."""
        return pd.concat([self._pairs(a, b) for a, b in self.nearest], ignore_index=True)

    @cached_property
    def unique(self) -> pd.DataFrame:
        """Components whose nearest in another set is under their own set's threshold."""
        return pd.concat([self._unique(a, b) for a, b in self.nearest], ignore_index=True)

    def best_pairs(self) -> pd.DataFrame:
        """Return the mutual pairs, the most similar first; each pair of sets once."""
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
        near, back = self.nearest[a, b], self.nearest[b, a]
        other = np.asarray(self.sets[b].components)
        frame = pd.DataFrame(
            {
                "from": self.sets[a].name,
                "to": self.sets[b].name,
                "component": self.sets[a].components,
                "nearest": other[near.place],
                "similarity": near.similarity,
                "mutual": near.mutual(back),
            }
        )
        if self.labelled is not None:
            frame["label"] = pd.Series(self.labelled[a], dtype=object)
            frame["nearest_label"] = np.asarray(self.labelled[b], object)[near.place]
        return frame

    @property
    def has_centred(self) -> bool:
        """Whether the centred similarity was asked for."""
        return not np.isnan(self.matrix["centred"].to_numpy(float)).all()

    def square(self, value: str = "similarity") -> pd.DataFrame:
        """Return one value of the matrix as a table: rows ``from``, columns ``to``."""
        names = [one.name for one in self.sets]
        return self.matrix.pivot(index="from", columns="to", values=value).loc[names, names]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program; of pairs and unique components the first ``top``."""
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

    def plot(self) -> Figure:
        """Draw the matrix; for two sets their labels and scores beside it."""
        from semlens.draw.compare_plots import compare_figure

        centred = self.square("centred") if self.has_centred else None
        labels = None if self.labels is None or self.labels.empty else self.labels
        return compare_figure(self.square(), centred, labels, self.scores)

    def pairs_picture(
        self, first: str | None = None, second: str | None = None, columns: int = 6
    ) -> Image.Image:
        """Draw the best pairs and the unique components of two sets with their examples.

        Parameters
        ----------
        first, second
            Names of two sets; the first two by default.

        Raises
        ------
        RecipeError
            If there is no set of the name, or both are the same.
        """
        from semlens.draw.example_sheet import pairs_sheet

        a, b = self._place(first, 0), self._place(second, 1)
        if a == b:
            raise RecipeError(
                f"'{self.sets[a].name}' is named twice.", "Expected two sets.", "Name another."
            )
        parts = [("Shared: each other's nearest", self._rows(a, b, self._shared(a, b)))]
        for one, other in ((a, b), (b, a)):
            rows = self._rows(one, other, self._unique(one, other))
            title = f"Only in {self.sets[one].name}, beside the nearest of {self.sets[other].name}"
            parts.append((title, rows if one == a else [row.turned() for row in rows]))
        left, right = ((self.sets[at].name, self.sets[at].database) for at in (a, b))
        return pairs_sheet(left, right, parts, columns)

    def _rows(self, a: int, b: int, frame: pd.DataFrame) -> list[PairRow]:
        """Return the first ``top`` pairs of a table, whose index says places in the first set."""
        from semlens.draw.example_sheet import PairRow

        rows: list[PairRow] = []
        for place in frame.head(self.top or len(frame)).index:
            other = int(self.nearest[a, b].place[place])
            names = ("", "")
            if self.labelled is not None:
                words = (self.labelled[a][place], self.labelled[b][other])
                names = (words[0] or "no label", words[1] or "no label")
            row, twin = int(self.sets[a].rows[place]), int(self.sets[b].rows[other])
            rows.append(PairRow(row, twin, float(self.nearest[a, b].similarity[place]), names))
        return rows

    def _place(self, name: str | None, default: int) -> int:
        names = [one.name for one in self.sets]
        if name is None:
            return default
        if name not in names:
            raise RecipeError(
                f"'{name}' is none of the sets.", f"There are {', '.join(names)}.", "Name one."
            )
        return names.index(name)

    def __rich__(self) -> RenderableType:
        """Return the matrix, for two sets also what they share and what not, labels and scores."""
        columns = ["set", "layers", "components", "threshold", "only_here"]
        parts = [*titled("sets", self.overview, columns), *_matrix_text(self)]
        if len(self.sets) == 2:
            parts += [*_pairs_text(self), *_labels_text(self)]
        if self.scores is not None:
            columns = ["set", "measure", "mean", "lower_quartile", "median", "upper_quartile"]
            parts += titled("scores", self.scores, columns)
        return Group(*parts, *(Text(f"Notice: {note}") for note in self.notes))


def _matrix_text(found: Comparison) -> list[RenderableType]:
    kinds = {
        "similarity": "set similarity (Eq. 5), from row to column",
        "mean_pair": "mean cosine of all pairs: what an arbitrary component would have",
    }
    if found.has_centred:
        kinds["centred"] = "set similarity after the mean vector is subtracted (our addition)"
    if len(found.sets) <= WIDE:
        tables = [titled(kinds[kind], found.square(kind).reset_index()) for kind in kinds]
        return [part for table in tables for part in table]
    others = found.matrix[found.matrix["from"] != found.matrix["to"]]
    best = others.loc[others.groupby("from", sort=False)["similarity"].idxmax()]
    best = best.rename(columns={"from": "set", "to": "most alike"})
    said = Text("All pairs: save it as .csv, or as .png for the picture.\n")
    return [*titled(kinds["similarity"], best, ["set", "most alike", *kinds, "unique"]), said]


def _pairs_text(found: Comparison) -> list[RenderableType]:
    names = ["component", "nearest", "similarity"]
    if found.labelled is not None:
        names += ["label", "nearest_label"]
    best = found.best_pairs()
    parts = titled(f"shared: {len(best)} pairs, each other's nearest", found.first(best), names)
    for one in found.sets:
        mine = found.unique.loc[found.unique["from"] == one.name]
        if len(mine):
            parts += titled(f"only in {one.name}: {len(mine)}", found.first(mine), names)
    return parts


def _labels_text(found: Comparison) -> list[RenderableType]:
    if found.labels is None or found.labels.empty:
        return []
    names = [one.name for one in found.sets]
    wide = found.labels.pivot(index="label", columns="set", values="count")[names]
    wide = wide.loc[wide.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    where = found.labels.drop_duplicates("label").set_index("label")["where"].loc[wide.index]
    parts: list[RenderableType] = []
    for kind in sorted(where.unique()):
        part = wide[where == kind].reset_index()
        parts += titled(f"labels {kind}: {len(part)}", part.head(found.top or len(part)))
    return parts
