"""A comparison as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.draw.table import rich_table

if TYPE_CHECKING:
    from semlens.analysis.compare.comparison import Comparison

WIDE = 8
"""Sets up to which the matrix is printed as one; more make a list."""


def comparison_text(found: Comparison) -> RenderableType:
    """Return the matrix, for two sets also what they share and what not, labels and scores."""
    parts = [
        *titled("sets", found.overview, ["set", "layers", "components", "threshold", "only_here"]),
        *_matrix(found),
    ]
    if len(found.sets) == 2:
        parts += [*_pairs(found), *_labels(found)]
    if found.scores is not None:
        columns = ["set", "measure", "mean", "lower_quartile", "median", "upper_quartile"]
        parts += titled("scores", found.scores, columns)
    parts += [Text(f"Notice: {note}") for note in found.notes]
    return Group(*parts)


def titled(
    title: str, frame: pd.DataFrame, columns: list[str] | None = None
) -> list[RenderableType]:
    """Return a title that may be wider than its table, the table, and an empty line."""
    return [Text(title, style="italic"), rich_table(frame, columns=columns), Text()]


def _matrix(found: Comparison) -> list[RenderableType]:
    kinds = {"similarity": "set similarity (Eq. 5), from row to column"}
    kinds["mean_pair"] = "mean cosine of all pairs: what an arbitrary component would have"
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


def _pairs(found: Comparison) -> list[RenderableType]:
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


def _labels(found: Comparison) -> list[RenderableType]:
    if found.labels is None or found.labels.empty:
        return []
    wide = found.labels.pivot(index="label", columns="set", values="count")
    wide = wide[[one.name for one in found.sets]]
    wide = wide.loc[wide.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    where = found.labels.drop_duplicates("label").set_index("label")["where"].loc[wide.index]
    parts: list[RenderableType] = []
    for kind in sorted(where.unique()):
        part = wide[where == kind].reset_index()
        shown = part.head(found.top) if found.top else part
        parts += titled(f"labels {kind}: {len(part)}", shown)
    return parts
