"""Dissection: number of components per concept and category (paper, 4.1.2 and D.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType

from semlens.draw.text_table import titled_table
from semlens.errors import RecipeError
from semlens.lens import lens
from semlens.lenses.arguments import LabelConcepts
from semlens.lenses.class_relevance import MINIMUM, Minimum, TargetFilter
from semlens.lenses.compare.component_sets import ComponentSet, as_databases, component_sets
from semlens.lenses.compare.labels_and_scores import (
    LabelAssignment,
    assign_labels,
)
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.describe.category_nodes import concept_nodes, count_nodes, recurring
from semlens.lenses.labelling.chosen_method import LabelMethod, choose_method
from semlens.lenses.labelling.confidence import UNSURE
from semlens.lenses.labelling.label import VOCABULARY, LabelThreshold
from semlens.lenses.query_embedding import embed_concepts
from semlens.lenses.result import Result, Section
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        The fixed minimum score of a label; None if it was calibrated.
    confidence
        Labels that are less likely right than this are not counted.
    counts
        One row per database, layer and category or concept: ``path`` (joined by ``/``),
        ``name``, ``depth``, ``leaf`` (a concept), ``concepts`` (number below it), ``carried``
        (number of these with a component), ``count`` of components, ``share`` of all
        components, ``share_of_labelled``.
    totals
        The same per database, over all its layers.
    sizes
        One row per database and layer: number of ``components``, of ``labelled`` ones, and of
        ``doubtful`` ones, whose label is mixed or not likely enough to count; ``share`` labelled.
    gaps
        One row per database and concept without a component: its ``category``, the
        ``nearest`` component, its ``score`` for the concept, its ``label``, and whether
        the concept was ``outdone``: it passes the threshold, but another one fits better.
        The lowest score first.
    recurring
        Names that occur in several categories, counted under the first.
    depth
        Levels of categories to print.
    top
        Number of concepts and gaps to print, and of leaves per category to draw; 0 for all.
    """

    concepts: str
    method: str
    threshold: float | None
    confidence: float
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
            "confidence": self.confidence,
            "sizes": self.sizes.to_dict("records"),
            "counts": shown.to_dict("records"),
            "gaps": self.gaps.to_dict("records"),
            "recurring": dict(self.recurring),
        }

    def section(self, target: str | None = None) -> Section:
        """Return how many components have a label, and which concepts have none."""
        sentences: list[str] = []
        for name in self.databases:
            sizes = self.sizes[self.sizes["database"] == name]
            gaps = self.gaps["database"] == name
            frequent = ", ".join(self.top_concepts(name)["name"].head(5))
            sentences.append(
                f"{name}: {sizes['labelled'].sum()} of {sizes['components'].sum()} components have "
                f"a label from '{self.concepts}', most often {frequent or 'none'}; "
                f"{np.count_nonzero(gaps)} concepts have no component."
            )
        limits = "A concept without a component may still be represented by several together."
        return Section(sentences, None, self.to_pandas(), limits)

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
        title = "components with a label"
        if self.confidence:
            title += f" that is right with a probability of {self.confidence:.0%} or more"
        renderables: list[RenderableType] = [*titled_table(title, self.sizes)]
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
            columns = ["concept", "category", "nearest", "score", "label"]
            renderables += titled_table(title, gaps.head(self.top or len(gaps)), columns)
        return Group(*renderables)


@lens("embedder", group="Describe", command="")
def dissect(
    databases: Database | Sequence[Database],
    *others: Database,
    concepts: LabelConcepts = VOCABULARY,
    layers: Layers = None,
    target: TargetFilter = None,
    minimum: Minimum = MINIMUM,
    method: LabelMethod = None,
    threshold: LabelThreshold = None,
    confidence: Annotated[
        float,
        setting("Least probability that a label is right; 0 counts all labels.", ge=0, le=1),
    ] = UNSURE,
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
    method, threshold
        As for ``label``; all databases are labelled by the same method. The paper has
        ``semantic-lens`` and 0.025 (D.3).
    confidence
        Labels that are less likely right do not count, nor do mixed ones; 0 counts all. Labels by
        methods without a confidence all count.

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
    >>> result = sl.open("r18.semlens").dissect()                       # doctest: +SKIP
    >>> result.top_concepts()                                             # doctest: +SKIP
    """
    database_list = as_databases(databases, others)
    embedding = embed_concepts(database_list[0], concepts)
    chosen = choose_method(database_list, method, len(concepts))
    nodes = concept_nodes(concepts)
    counts: list[dict[str, Any]] = []
    totals: list[dict[str, Any]] = []
    gaps: list[pd.DataFrame] = []
    sizes: list[dict[str, Any]] = []
    for components in component_sets(database_list, layers=layers, target=target, minimum=minimum):
        layer_sets = components.by_layer()
        assignments = [
            assign_labels(layer_set, embedding, concepts, chosen, threshold, confidence)
            for layer_set in layer_sets
        ]
        for layer_set, assignment in zip(layer_sets, assignments, strict=True):
            origin = {"database": components.name, "layer": layer_set.layers[0]}
            counts += [
                origin | row for row in count_nodes(nodes, assignment.concept, len(concepts))
            ]
            labelled = assignment.concept >= 0
            sizes.append(
                {
                    **origin,
                    "components": len(layer_set),
                    "labelled": int(labelled.sum()),
                    "doubtful": int(assignment.doubtful.sum()),
                    "share": float(labelled.mean()),
                }
            )
        all_concepts = np.concatenate([assignment.concept for assignment in assignments])
        totals += [
            {"database": components.name} | row
            for row in count_nodes(nodes, all_concepts, len(concepts))
        ]
        gaps.append(_gaps(components.name, layer_sets, assignments, concepts))
    return Dissection(
        concepts.name,
        str(chosen),
        threshold,
        confidence,
        pd.DataFrame(counts),
        pd.DataFrame(totals),
        pd.DataFrame(sizes),
        pd.concat(gaps, ignore_index=True),
        recurring(concepts),
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
    scores = np.stack([assignment.concept_score for assignment in assignments])
    for index, concept in enumerate(concepts.concepts):
        if concept.name in covered:
            continue
        covered.add(concept.name)
        layer = int(scores[:, index].argmax())
        component = int(assignments[layer].component[index])
        label = int(assignments[layer].concept[component])
        rows.append(
            {
                "database": database,
                "concept": concept.name,
                "category": concept.category,
                "nearest": sets[layer].components[component],
                "score": float(scores[layer, index]),
                "label": concepts.concepts[label].name if label >= 0 else None,
                "outdone": bool(scores[layer, index] > assignments[layer].threshold[component]),
            }
        )
    columns = ["database", "concept", "category", "nearest", "score", "label", "outdone"]
    frame = pd.DataFrame(rows, columns=columns).astype({"outdone": bool})
    return frame.sort_values("score", kind="stable", ignore_index=True)
