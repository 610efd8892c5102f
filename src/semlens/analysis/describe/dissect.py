"""Dissection: how many components stand for each category of concepts (paper, 4.1.2 and D.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Int64
from rich.console import Group, RenderableType

from semlens.analysis.class_relevance import MINIMUM, Minimum, TargetFilter
from semlens.analysis.compare.compare import LabelThreshold
from semlens.analysis.compare.component_sets import ComponentSet, as_databases, component_sets
from semlens.analysis.compare.summary import LabelAssignment, assign_labels, first_occurrences
from semlens.analysis.concepts import ConceptSet, as_concepts
from semlens.analysis.label import THRESHOLD, VOCABULARY, LabelConcepts
from semlens.analysis.query_embedding import embed_concepts
from semlens.analysis.result import Result
from semlens.draw.text_table import titled
from semlens.errors import RecipeError
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class CategoryNode:
    """A category, or at the tips a concept.

    Parameters
    ----------
    path
        Names from the outermost category to this one.
    concepts
        Places in the concept set of all concepts that it holds.
    """

    path: tuple[str, ...]
    leaf: bool
    concepts: tuple[int, ...]

    @property
    def text(self) -> str:
        """The path, joined by ``/``."""
        return "/".join(self.path)


def concept_nodes(concepts: ConceptSet) -> list[CategoryNode]:
    """Return the tree, every category before what it holds, in the order of the set.

    Valid and spurious concepts of one set get outermost categories of these names. A name
    that recurs under another category stays under the first.
    """
    kinds = len({concept.kind for concept in concepts.concepts}) > 1
    first = first_occurrences(concepts)
    held: dict[tuple[tuple[str, ...], bool], list[int]] = {}
    for place, concept in enumerate(concepts.concepts):
        if first[place] != place:
            continue
        path = (concept.kind, *concept.path) if kinds else concept.path
        for depth in range(1, len(path) + 1):
            held.setdefault((path[:depth], False), []).append(place)
        held.setdefault(((*path, concept.name), True), []).append(place)
    number = {key: place for place, key in enumerate(held)}

    def order(key: tuple[tuple[str, ...], bool]) -> list[int]:
        """Put what a category holds right behind it, whatever the order in the set."""
        above = [number[key[0][:depth], False] for depth in range(1, len(key[0]))]
        return [*above, number[key]]

    return [CategoryNode(*key, tuple(held[key])) for key in sorted(held, key=order)]


def recurring(concepts: ConceptSet) -> dict[str, list[str]]:
    """Return the names that stand under several categories, and these, the counted one first."""
    first = first_occurrences(concepts)
    found: dict[str, list[str]] = {}
    for place, concept in enumerate(concepts.concepts):
        if first[place] != place:
            before = concepts.concepts[first[place]]
            found.setdefault(concept.name, [before.category]).append(concept.category)
    return found


def count_nodes(
    nodes: Sequence[CategoryNode], best: Int64[np.ndarray, " n"], concepts: int
) -> list[dict[str, Any]]:
    """Count components by node: count, share of all n, share of the labelled, carried concepts.

    Parameters
    ----------
    best
        int64[n], the concept of each component; -1 for none.
    concepts
        The number of concepts of the set.
    """
    tally = np.bincount(best[best >= 0], minlength=concepts)
    labelled = int(tally.sum())
    rows: list[dict[str, Any]] = []
    for node in nodes:
        mine = tally[list(node.concepts)]
        count = int(mine.sum())
        rows.append(
            {
                "path": node.text,
                "name": node.path[-1],
                "depth": len(node.path),
                "leaf": node.leaf,
                "concepts": len(node.concepts),
                "carried": int((mine > 0).sum()),
                "count": count,
                "share": count / len(best),
                "share_of_labelled": count / labelled if labelled else float("nan"),
            }
        )
    return rows


def category_table(counts: pd.DataFrame, by: Sequence[str], depth: int) -> pd.DataFrame:
    """Return counts of the categories down to a depth, one column per database or layer."""
    frame = counts.loc[~counts["leaf"] & (counts["depth"] <= depth)]
    titles = ["/".join(parts) for parts in zip(*(frame[name] for name in by), strict=True)]
    wide = frame.assign(_column=titles).pivot(index="path", columns="_column", values="count")
    return wide.loc[list(dict.fromkeys(frame["path"])), list(dict.fromkeys(titles))]


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
        return frame.loc[:, ["path", "name", "count", "share", "share_of_labelled"]].reset_index(
            drop=True
        )

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
        from semlens.draw.dissect_plots import dissect_figure

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
        from semlens.draw.dissect_plots import tree_figure

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
            parts += titled(
                f"most frequent concepts{of}", best.head(self.top or len(best)), columns
            )
            gaps = self.gaps.loc[self.gaps["database"] == name]
            title = (
                f"gaps{of}: {len(gaps)} of {len(gaps) + len(best)} concepts have no component; "
                f"{np.count_nonzero(~gaps['outdone'])} of them are under the threshold everywhere"
            )
            columns = ["concept", "category", "nearest", "alignment", "label"]
            parts += titled(title, gaps.head(self.top or len(gaps)), columns)
        return Group(*parts)


@question("embedder")
def dissect(
    databases: Database | Sequence[Database],
    *others: Database,
    concepts: LabelConcepts = VOCABULARY,
    layers: Layers = None,
    target: TargetFilter = None,
    minimum: Minimum = MINIMUM,
    threshold: LabelThreshold = THRESHOLD,
    depth: Annotated[int, setting("Levels of categories to print.", ge=1)] = 1,
    top: Annotated[int, setting("Concepts and gaps to show; 0 for all.", ge=0)] = 10,
) -> Dissection:
    """Count components by label and category, by layer and model; find concepts that none has.

    Parameters
    ----------
    databases, others
        One, or several that one embedder has made.
    concepts
        Concept set with nested categories.
    layers
        Layers to take, of each database those that it has; all by default.
    target, minimum
        Take only components whose share of relevance for this class reaches ``minimum``.

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
    given = as_databases(databases, others)
    chosen = as_concepts(concepts)
    probe = embed_concepts(given[0], chosen)
    nodes = concept_nodes(chosen)
    counts: list[dict[str, Any]] = []
    totals: list[dict[str, Any]] = []
    gaps: list[pd.DataFrame] = []
    sizes: list[dict[str, Any]] = []
    for one in component_sets(given, layers=layers, target=target, minimum=minimum):
        parts = one.by_layer()
        found = [assign_labels(part, probe, chosen, threshold) for part in parts]
        for part, mine in zip(parts, found, strict=True):
            who = {"database": one.name, "layer": part.layers[0]}
            counts += [who | row for row in count_nodes(nodes, mine.concept, len(chosen))]
            named = mine.concept >= 0
            size = {"components": len(part), "labelled": int(named.sum())}
            sizes.append({**who, **size, "share": float(named.mean())})
        best = np.concatenate([mine.concept for mine in found])
        totals += [{"database": one.name} | row for row in count_nodes(nodes, best, len(chosen))]
        gaps.append(_gaps(one.name, parts, found, chosen, threshold))
    return Dissection(
        chosen.name,
        threshold,
        pd.DataFrame(counts),
        pd.DataFrame(totals),
        pd.DataFrame(sizes),
        pd.concat(gaps, ignore_index=True),
        recurring(chosen),
        depth,
        top,
    )


def _gaps(
    database: str,
    sets: Sequence[ComponentSet],
    found: Sequence[LabelAssignment],
    concepts: ConceptSet,
    threshold: float,
) -> pd.DataFrame:
    """Return the concepts that no component of a database carries, each with its nearest."""
    rows: list[dict[str, Any]] = []
    # each name once, and not those that some component carries
    seen = {concepts.concepts[i].name for part in found for i in np.unique(part.concept) if i >= 0}
    reached = np.stack([part.concept_alignment for part in found])
    for place, concept in enumerate(concepts.concepts):
        if concept.name in seen:
            continue
        seen.add(concept.name)
        layer = int(reached[:, place].argmax())
        at = int(found[layer].component[place])
        own = int(found[layer].concept[at])
        rows.append(
            {
                "database": database,
                "concept": concept.name,
                "category": concept.category,
                "nearest": sets[layer].components[at],
                "alignment": float(reached[layer, place]),
                "label": concepts.concepts[own].name if own >= 0 else None,
                "outdone": bool(reached[layer, place] > threshold),
            }
        )
    columns = ["database", "concept", "category", "nearest", "alignment", "label", "outdone"]
    frame = pd.DataFrame(rows, columns=columns).astype({"outdone": bool})
    return frame.sort_values("alignment", kind="stable", ignore_index=True)
