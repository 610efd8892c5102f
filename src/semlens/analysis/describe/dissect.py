"""Dissection: number of components per concept and category (paper, 4.1.2 and D.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Int64
from rich.console import Group, RenderableType

from semlens.analysis.class_relevance import MINIMUM, Minimum, TargetFilter
from semlens.analysis.compare.component_sets import ComponentSet, as_databases, component_sets
from semlens.analysis.compare.labels_and_scores import (
    LabelAssignment,
    assign_labels,
    first_occurrences,
)
from semlens.analysis.concepts import ConceptSet, as_concepts
from semlens.analysis.label import VOCABULARY, LabelConcepts, LabelThreshold
from semlens.analysis.query_embedding import embed_concepts
from semlens.analysis.result import Result
from semlens.draw.text_table import titled_table
from semlens.errors import RecipeError
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class CategoryNode:
    """A category, or a concept (a leaf).

    Parameters
    ----------
    path
        Names from the outermost category to this one.
    concepts
        Indices in the concept set of all concepts below this node.
    """

    path: tuple[str, ...]
    leaf: bool
    concepts: tuple[int, ...]

    @property
    def text(self) -> str:
        """The path, joined by ``/``."""
        return "/".join(self.path)


def concept_nodes(concepts: ConceptSet) -> list[CategoryNode]:
    """Return the tree in pre-order: every category is followed by its content, in set order.

    If a set has valid and spurious concepts, these are the outermost categories. A name that
    recurs under another category counts under the first one only.
    """
    kinds = len({concept.kind for concept in concepts.concepts}) > 1
    first_index = first_occurrences(concepts)
    indices_of_node: dict[tuple[tuple[str, ...], bool], list[int]] = {}
    for index, concept in enumerate(concepts.concepts):
        if first_index[index] != index:
            continue
        path = (concept.kind, *concept.path) if kinds else concept.path
        for depth in range(1, len(path) + 1):
            indices_of_node.setdefault((path[:depth], False), []).append(index)
        indices_of_node.setdefault(((*path, concept.name), True), []).append(index)
    rank = {key: index for index, key in enumerate(indices_of_node)}

    def order(key: tuple[tuple[str, ...], bool]) -> list[int]:
        """Sort a node directly behind its ancestors, whatever the order in the set."""
        above = [rank[key[0][:depth], False] for depth in range(1, len(key[0]))]
        return [*above, rank[key]]

    return [
        CategoryNode(*key, tuple(indices_of_node[key]))
        for key in sorted(indices_of_node, key=order)
    ]


def recurring(concepts: ConceptSet) -> dict[str, list[str]]:
    """Return the categories of names that occur in several, the counted one first."""
    first_index = first_occurrences(concepts)
    categories: dict[str, list[str]] = {}
    for index, concept in enumerate(concepts.concepts):
        if first_index[index] != index:
            first = concepts.concepts[first_index[index]]
            categories.setdefault(concept.name, [first.category]).append(concept.category)
    return categories


def count_nodes(
    nodes: Sequence[CategoryNode], concept_of_component: Int64[np.ndarray, " n"], concepts: int
) -> list[dict[str, Any]]:
    """Count components per node: count, share of all n, share of the labelled, carried concepts.

    Parameters
    ----------
    concept_of_component
        int64[n], the concept of each component; -1 for none.
    concepts
        Number of concepts in the set.
    """
    counts = np.bincount(concept_of_component[concept_of_component >= 0], minlength=concepts)
    labelled = int(counts.sum())
    sizes = np.array([len(node.concepts) for node in nodes], np.int64)
    of_node = counts[np.concatenate([np.array(node.concepts, np.int64) for node in nodes])]
    first = np.cumsum(sizes) - sizes
    in_node, carried = np.add.reduceat(of_node, first), np.add.reduceat(of_node > 0, first)
    return [
        {
            "path": node.text,
            "name": node.path[-1],
            "depth": len(node.path),
            "leaf": node.leaf,
            "concepts": len(node.concepts),
            "carried": carrying,
            "count": count,
            "share": count / len(concept_of_component),
            "share_of_labelled": count / labelled if labelled else float("nan"),
        }
        for node, count, carrying in zip(nodes, in_node.tolist(), carried.tolist(), strict=True)
    ]


def category_table(counts: pd.DataFrame, by: Sequence[str], depth: int) -> pd.DataFrame:
    """Return counts per category down to a depth, one column per database or layer."""
    frame = counts.loc[~counts["leaf"] & (counts["depth"] <= depth)]
    columns = ["/".join(values) for values in zip(*(frame[name] for name in by), strict=True)]
    table = frame.assign(_column=columns).pivot(index="path", columns="_column", values="count")
    return table.loc[list(dict.fromkeys(frame["path"])), list(dict.fromkeys(columns))]


@dataclass(frozen=True, eq=False, repr=False)
class Dissection(Result):
    """Number of components per concept and category, and the concepts without a component.

    Parameters
    ----------
    threshold
        The fixed minimum alignment of a label; None if it was calibrated.
    counts
        One row per database, layer and category or concept: ``path`` (joined by ``/``),
        ``name``, ``depth``, ``leaf`` (a concept), ``concepts`` (number below it), ``carried``
        (number of these with a component), ``count`` of components, ``share`` of all
        components, ``share_of_labelled``.
    totals
        The same per database, over all its layers.
    sizes
        One row per database and layer: number of ``components``, and of ``labelled`` ones.
    gaps
        One row per database and concept without a component: its ``category``, the
        ``nearest`` component, its ``alignment`` with the concept, its ``label``, and whether
        the concept was ``outdone``: it passes the threshold, but another one fits better.
        The lowest alignment first.
    recurring
        Names that occur in several categories, counted under the first.
    depth
        Levels of categories to print.
    top
        Number of concepts and gaps to print, and of leaves per category to draw; 0 for all.
    """

    concepts: str
    threshold: float | None
    counts: pd.DataFrame
    totals: pd.DataFrame
    sizes: pd.DataFrame
    gaps: pd.DataFrame
    recurring: Mapping[str, list[str]]
    depth: int
    top: int

    @property
    def databases(self) -> list[str]:
        """Names of the databases."""
        return list(dict.fromkeys(self.sizes["database"]))

    def to_pandas(self) -> pd.DataFrame:
        """Return the counts, one row per database, layer and category or concept."""
        return self.counts.copy()

    def top_concepts(self, database: str | None = None) -> pd.DataFrame:
        """Return the concepts with components, most frequent first."""
        in_database = self.totals["database"] == self._database_name(database)
        frame = self.totals.loc[in_database & self.totals["leaf"] & (self.totals["count"] > 0)]
        frame = frame.sort_values(["count"], ascending=False, kind="stable")
        return frame.loc[:, ["path", "name", "count", "share", "share_of_labelled"]].reset_index(
            drop=True
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program: all categories, and the concepts with components."""
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
        """Draw the shares of the outermost categories per layer, and the most frequent concepts."""
        from semlens.draw.dissect_plots import dissect_figure

        return dissect_figure(self.counts, self.totals, self.sizes, self.top or 12)

    def plot_tree(self, database: str | None = None, depth: int | None = None) -> Figure:
        """Draw the category tree of one database, with counts in parentheses.

        Parameters
        ----------
        database
            Its name; the first by default.
        depth
            Levels to draw, including the concepts; all by default.

        Raises
        ------
        RecipeError
            If there is no such database.
        """
        from semlens.draw.dissect_plots import tree_figure

        frame = self.totals.loc[self.totals["database"] == self._database_name(database)]
        return tree_figure(frame, depth, self.top)

    def _database_name(self, database: str | None) -> str:
        if database is not None and database not in self.databases:
            raise RecipeError(
                f"Unknown database '{database}'.",
                f"Expected one of {', '.join(self.databases)}.",
                "Choose one of them.",
            )
        return database or self.databases[0]

    def __rich__(self) -> RenderableType:
        """Return the tables for a terminal."""
        multiple = len(self.databases) > 1
        by = ["database", "layer"] if multiple else ["layer"]
        renderables: list[RenderableType] = [*titled_table("components with a label", self.sizes)]
        table = category_table(self.counts, by, self.depth)
        if len(table):
            names = ["  " * path.count("/") + path.rpartition("/")[2] for path in table.index]
            table.insert(0, "category", names)
            renderables += titled_table("components by category", table.reset_index(drop=True))
        for name in self.databases:
            suffix = f" of {name}" if multiple else ""
            top_concepts = self.top_concepts(name)
            # a name may contain a slash, so that the path cannot be split at the last one
            pairs = zip(top_concepts["path"], top_concepts["name"], strict=True)
            top_concepts["category"] = [
                path.removesuffix(concept).removesuffix("/") for path, concept in pairs
            ]
            columns = ["name", "category", "count", "share"]
            renderables += titled_table(
                f"most frequent concepts{suffix}",
                top_concepts.head(self.top or len(top_concepts)),
                columns,
            )
            gaps = self.gaps.loc[self.gaps["database"] == name]
            title = (
                f"gaps{suffix}: {len(gaps)} of {len(gaps) + len(top_concepts)} concepts have no "
                f"component; {np.count_nonzero(~gaps['outdone'])} of them are below the threshold "
                "everywhere"
            )
            columns = ["concept", "category", "nearest", "alignment", "label"]
            renderables += titled_table(title, gaps.head(self.top or len(gaps)), columns)
        return Group(*renderables)


@question("embedder")
def dissect(
    databases: Database | Sequence[Database],
    *others: Database,
    concepts: LabelConcepts = VOCABULARY,
    layers: Layers = None,
    target: TargetFilter = None,
    minimum: Minimum = MINIMUM,
    threshold: LabelThreshold = None,
    depth: Annotated[int, setting("Levels of categories to print.", ge=1)] = 1,
    top: Annotated[int, setting("Concepts and gaps to show; 0 for all.", ge=0)] = 10,
) -> Dissection:
    """Count components per label and category, layer and model; find concepts without any.

    Parameters
    ----------
    databases, others
        One or several, all with the same embedder.
    concepts
        Concept set, with nested categories.
    layers
        Layers to include, from each database that has them; all by default.
    target, minimum
        Include only components whose share of relevance for this class reaches ``minimum``.

    Raises
    ------
    StaleError
        If the embedders differ.
    EmbedderError
        If a concept is a text and the embedder reads no texts.
    RecipeError
        If a database is given twice, or no component of it is left.
    RelevanceError
        If a database has no relevance for ``target``.

    Examples
    --------
    >>> import semlens as sl
    >>> result = sl.dissect(sl.open("r18.semlens"))                       # doctest: +SKIP
    >>> result.top_concepts()                                             # doctest: +SKIP
    """
    database_list = as_databases(databases, others)
    concept_set = as_concepts(concepts)
    embedding = embed_concepts(database_list[0], concept_set)
    nodes = concept_nodes(concept_set)
    counts: list[dict[str, Any]] = []
    totals: list[dict[str, Any]] = []
    gaps: list[pd.DataFrame] = []
    sizes: list[dict[str, Any]] = []
    for components in component_sets(database_list, layers=layers, target=target, minimum=minimum):
        layer_sets = components.by_layer()
        assignments = [
            assign_labels(layer_set, embedding, concept_set, threshold) for layer_set in layer_sets
        ]
        for layer_set, assignment in zip(layer_sets, assignments, strict=True):
            origin = {"database": components.name, "layer": layer_set.layers[0]}
            counts += [
                origin | row for row in count_nodes(nodes, assignment.concept, len(concept_set))
            ]
            labelled = assignment.concept >= 0
            counted = {"components": len(layer_set), "labelled": int(labelled.sum())}
            sizes.append({**origin, **counted, "share": float(labelled.mean())})
        all_concepts = np.concatenate([assignment.concept for assignment in assignments])
        totals += [
            {"database": components.name} | row
            for row in count_nodes(nodes, all_concepts, len(concept_set))
        ]
        gaps.append(_gaps(components.name, layer_sets, assignments, concept_set))
    return Dissection(
        concept_set.name,
        threshold,
        pd.DataFrame(counts),
        pd.DataFrame(totals),
        pd.DataFrame(sizes),
        pd.concat(gaps, ignore_index=True),
        recurring(concept_set),
        depth,
        top,
    )


def _gaps(
    database: str,
    sets: Sequence[ComponentSet],
    assignments: Sequence[LabelAssignment],
    concepts: ConceptSet,
) -> pd.DataFrame:
    """Return the concepts without a component of a database, each with its nearest component."""
    rows: list[dict[str, Any]] = []
    # names that components carry, and gaps already listed: a name may recur
    covered = {
        concepts.concepts[i].name
        for assignment in assignments
        for i in np.unique(assignment.concept)
        if i >= 0
    }
    alignments = np.stack([assignment.concept_alignment for assignment in assignments])
    for index, concept in enumerate(concepts.concepts):
        if concept.name in covered:
            continue
        covered.add(concept.name)
        layer = int(alignments[:, index].argmax())
        component = int(assignments[layer].component[index])
        label = int(assignments[layer].concept[component])
        rows.append(
            {
                "database": database,
                "concept": concept.name,
                "category": concept.category,
                "nearest": sets[layer].components[component],
                "alignment": float(alignments[layer, index]),
                "label": concepts.concepts[label].name if label >= 0 else None,
                "outdone": bool(alignments[layer, index] > assignments[layer].threshold[component]),
            }
        )
    columns = ["database", "concept", "category", "nearest", "alignment", "label", "outdone"]
    frame = pd.DataFrame(rows, columns=columns).astype({"outdone": bool})
    return frame.sort_values("alignment", kind="stable", ignore_index=True)
