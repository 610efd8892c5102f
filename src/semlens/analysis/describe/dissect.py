"""Dissection: how many components stand for each category of concepts (paper, 4.1.2 and D.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType

from semlens.analysis.compare.assign import Assignment, assign
from semlens.analysis.compare.sets import (
    MINIMUM,
    ComponentSet,
    component_sets,
)
from semlens.analysis.compare.text import titled
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.describe.dissect_tree import (
    category_table,
    concept_nodes,
    count_nodes,
    recurring,
)
from semlens.analysis.label import THRESHOLD
from semlens.analysis.probe import concept_probe
from semlens.analysis.result import Result
from semlens.analysis.together import database_names
from semlens.errors import RecipeError
from semlens.store.reader import Database

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Dissection(Result):
    """How many components carry the concepts of each category, and which concepts none does.

    Parameters
    ----------
    counts
        One row per database, layer and category or concept: ``path`` (joined by ``/``),
        ``name``, ``depth``, ``leaf`` (a concept), ``concepts`` (how many it holds),
        ``carried`` (how many of them some component has), ``count`` of components, ``share``
        of all components, ``share_of_labelled``.
    totals
        The same per database, over all its layers.
    sizes
        One row per database and layer: ``components`` and how many are ``labelled``.
    gaps
        One row per database and concept that no component carries: its ``category``, the
        ``nearest`` component, the ``alignment`` that it reaches, its own ``label``, and
        whether the concept was ``outdone``: it passes the threshold, but another fits better.
        The farthest first.
    recurring
        Names that stand under several categories, counted under the first.
    depth
        Levels of categories that are printed.
    top
        How many concepts and gaps are printed, and leaves per category are drawn; 0 for all.
    """

    concepts: str
    threshold: float
    counts: pd.DataFrame
    totals: pd.DataFrame
    sizes: pd.DataFrame
    gaps: pd.DataFrame
    recurring: Mapping[str, list[str]]
    depth: int
    top: int

    @property
    def databases(self) -> list[str]:
        """The databases' names."""
        return list(dict.fromkeys(self.sizes["database"]))

    def to_pandas(self) -> pd.DataFrame:
        """Return the counts, a row per database, layer and category or concept."""
        return self.counts.copy()

    def top_concepts(self, database: str | None = None) -> pd.DataFrame:
        """Return the concepts that components carry, the most frequent first."""
        mine = self.totals["database"] == self._named(database)
        frame = self.totals.loc[mine & self.totals["leaf"] & (self.totals["count"] > 0)]
        frame = frame.sort_values(["count"], ascending=False, kind="stable")
        columns = ["path", "name", "count", "share", "share_of_labelled"]
        return frame.loc[:, columns].reset_index(drop=True)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program: all categories, and concepts that are carried."""
        shown = self.counts.loc[~self.counts["leaf"] | (self.counts["count"] > 0)]
        return {
            "concepts": self.concepts,
            "threshold": self.threshold,
            "sizes": self.sizes.to_dict("records"),
            "counts": shown.to_dict("records"),
            "gaps": self.gaps.to_dict("records"),
            "recurring": dict(self.recurring),
        }

    def plot(self) -> Figure:
        """Draw shares of the outermost categories by layer, and the most frequent concepts."""
        from semlens.draw.dissect_plot import dissect_figure

        return dissect_figure(self.counts, self.totals, self.sizes, self.top or 12)

    def plot_tree(self, database: str | None = None, depth: int | None = None) -> Figure:
        """Draw the tree of categories of one database with counts in brackets.

        Parameters
        ----------
        database
            Its name; the first by default.
        depth
            Levels to draw, concepts counted as one; all by default.

        Raises
        ------
        RecipeError
            If there is no such database.
        """
        from semlens.draw.dissect_tree_plot import tree_figure

        frame = self.totals.loc[self.totals["database"] == self._named(database)]
        return tree_figure(frame, depth, self.top)

    def _named(self, database: str | None) -> str:
        if database is not None and database not in self.databases:
            raise RecipeError(
                f"'{database}' is none of the databases.",
                f"There are {', '.join(self.databases)}.",
                "Name one.",
            )
        return database or self.databases[0]

    def __rich__(self) -> RenderableType:
        """Return the tables for a terminal."""
        several = len(self.databases) > 1
        by = ["database", "layer"] if several else ["layer"]
        parts: list[RenderableType] = [*titled("components with a label", self.sizes)]
        table = category_table(self.counts, by, self.depth)
        if len(table):
            names = ["  " * path.count("/") + path.rpartition("/")[2] for path in table.index]
            table.insert(0, "category", names)
            parts += titled("components by category", table.reset_index(drop=True))
        for name in self.databases:
            of = f" of {name}" if several else ""
            best = self.top_concepts(name)
            both = zip(best["path"], best["name"], strict=True)  # a name may hold a slash
            best["category"] = [path.removesuffix(one).removesuffix("/") for path, one in both]
            columns = ["name", "category", "count", "share"]
            parts += titled(f"most frequent concepts{of}", self._first(best), columns)
            gaps = self.gaps.loc[self.gaps["database"] == name]
            title = (
                f"gaps{of}: {len(gaps)} of {len(gaps) + len(best)} concepts have no component; "
                f"{np.count_nonzero(~gaps['outdone'])} of them are under the threshold everywhere"
            )
            columns = ["concept", "category", "nearest", "alignment", "label"]
            parts += titled(title, self._first(gaps), columns)
        return Group(*parts)

    def _first(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame.head(self.top) if self.top else frame


def dissect(
    databases: Database | Sequence[Database],
    concepts: ConceptSet | str = "paper-vocabulary",
    *,
    layers: Sequence[str] | None = None,
    target: int | str | None = None,
    minimum: float = MINIMUM,
    threshold: float = THRESHOLD,
    depth: int = 1,
    top: int = 10,
) -> Dissection:
    """Count components by label and category, by layer and model; find concepts that none has.

    Parameters
    ----------
    databases
        One, or several that one embedder has made.
    concepts
        Concept set with nested categories, or the name of one.
    layers
        Layers to take, of each database those that it has; all by default.
    target, minimum
        Take only components whose share of relevance for this class reaches ``minimum``.
    threshold
        Least alignment of a label (cosine).

    Raises
    ------
    StaleError
        If the embedders differ.
    EmbedderError
        If the embedder reads no texts and a concept is one.
    RecipeError
        If a database is given twice or has no component left.
    RelevanceError
        If a database has no relevance for ``target``.

    Examples
    --------
    >>> import semlens as sl
    >>> found = sl.dissect(sl.open("r18.semlens"))                        # doctest: +SKIP
    >>> found.top_concepts()                                              # doctest: +SKIP
    """
    several = [databases] if isinstance(databases, Database) else list(databases)
    whole = component_sets(several, layers=layers, target=target, minimum=minimum)
    sets = [part for one in whole for part in one.by_layer()]
    chosen = ConceptSet.load(concepts) if isinstance(concepts, str) else concepts
    probe = concept_probe(several[0], chosen)
    found = [assign(one, probe, chosen, threshold) for one in sets]
    nodes = concept_nodes(chosen)
    counts: list[pd.DataFrame] = []
    totals: list[pd.DataFrame] = []
    gaps: list[pd.DataFrame] = []
    for database, name in zip(several, database_names(several), strict=True):
        mine = [i for i, one in enumerate(sets) if one.database is database]
        for i in mine:
            frame = pd.DataFrame(count_nodes(nodes, found[i].concept, len(chosen)))
            frame.insert(0, "database", name)
            frame.insert(1, "layer", sets[i].layers[0])
            counts.append(frame)
        best = np.concatenate([found[i].concept for i in mine])
        total = pd.DataFrame(count_nodes(nodes, best, len(chosen)))
        total.insert(0, "database", name)
        totals.append(total)
        gap = _gaps([sets[i] for i in mine], [found[i] for i in mine], chosen, threshold)
        gap.insert(0, "database", name)
        gaps.append(gap)
    return Dissection(
        chosen.name,
        threshold,
        pd.concat(counts, ignore_index=True),
        pd.concat(totals, ignore_index=True),
        _sizes(several, sets, found),
        pd.concat(gaps, ignore_index=True),
        recurring(chosen),
        depth,
        top,
    )


def _sizes(
    databases: Sequence[Database], sets: Sequence[ComponentSet], found: Sequence[Assignment]
) -> pd.DataFrame:
    names = {id(db): name for db, name in zip(databases, database_names(databases), strict=True)}
    return pd.DataFrame(
        {
            "database": [names[id(one.database)] for one in sets],
            "layer": [one.layers[0] for one in sets],
            "components": [len(one) for one in sets],
            "labelled": [int((part.concept >= 0).sum()) for part in found],
            "share": [float((part.concept >= 0).mean()) for part in found],
        }
    )


def _gaps(
    sets: Sequence[ComponentSet],
    found: Sequence[Assignment],
    concepts: ConceptSet,
    threshold: float,
) -> pd.DataFrame:
    """Return the concepts that no component of a database carries, each with its nearest."""
    carried = {
        concepts.concepts[i].name for part in found for i in np.unique(part.concept) if i >= 0
    }
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    reached = np.stack([part.reached for part in found])
    for place, concept in enumerate(concepts.concepts):
        if concept.name in carried or concept.name in seen:
            continue
        seen.add(concept.name)
        layer = int(reached[:, place].argmax())
        at = int(found[layer].component[place])
        own = int(found[layer].concept[at])
        rows.append(
            {
                "concept": concept.name,
                "category": concept.category,
                "nearest": sets[layer].components[at],
                "alignment": float(reached[layer, place]),
                "label": concepts.concepts[own].name if own >= 0 else None,
                "outdone": bool(reached[layer, place] > threshold),
            }
        )
    columns = ["concept", "category", "nearest", "alignment", "label", "outdone"]
    frame = pd.DataFrame(rows, columns=columns).astype({"outdone": bool})
    return frame.sort_values("alignment", kind="stable", ignore_index=True)
