"""What does a class rely on that nobody listed? All words of a vocabulary, and clusters, ranked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64, Int64
from PIL import Image
from rich.console import Group, RenderableType

from semlens.draw.example_sheet import sheet
from semlens.draw.text_table import titled_table
from semlens.errors import RelevanceError
from semlens.lens import lens
from semlens.lenses.arguments import AnyClass
from semlens.lenses.audit.class_contrast import (
    ConceptContrasts,
    class_excess,
    compare_classes,
    component_rows,
    contrast_scores,
    positive_shares,
    reference_classes,
    standardised,
)
from semlens.lenses.classes import class_name
from semlens.lenses.compare.component_sets import component_sets
from semlens.lenses.concepts import ConceptSet, as_concepts, concept_key
from semlens.lenses.describe.clusters import best_concepts
from semlens.lenses.describe.concept_map import assign_clusters
from semlens.lenses.labelling.label import VOCABULARY, LabelConcepts
from semlens.lenses.query_embedding import QueryEmbedding, alignment, embed_concepts
from semlens.lenses.resolve_concepts import ClassConcepts, class_and_concepts, concepts_by_class
from semlens.lenses.result import IMAGE_SUFFIXES, TABLE_SUFFIXES, Result
from semlens.lenses.statistics.outliers import LEAST_CLASSES
from semlens.progress import report_progress
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Component, Layers
from semlens.wording import p_text

MATCHES = 0.01
"""A component matches the words that align with it best: this share of the vocabulary."""
SHOWN_COMPONENTS = 5
"""Components that are named for each suspect."""

COLUMNS = [
    "class", "kind", "suspect", "share", "share_others", "contrast", "contrast_others", "p_value",
    "components",
]  # fmt: skip


@dataclass(frozen=True)
class Candidates:
    """Words (first) and clusters, m together, and which of the k components match each of them."""

    names: tuple[str, ...]
    words: int
    rows: Int64[np.ndarray, " k"]
    matches: Bool[np.ndarray, "k m"]

    def table(
        self,
        name: str,
        contrasts: ConceptContrasts,
        weight: Float64[np.ndarray, " k"],
        others: Float64[np.ndarray, " m"],
        own: set[str],
        top: int,
    ) -> pd.DataFrame:
        """Return the strongest candidates of a class, without its own words.

        Only those whose share is larger than for any other class: a word that no component
        matches can have a contrast, too, but there is nothing to look at.

        Parameters
        ----------
        weight
            Each component's share of the class's relevance.
        others
            The largest share of another class on each candidate.
        """
        shares = weight @ self.matches
        order = np.lexsort((-contrasts.contrast, contrasts.p_value))
        order = order[shares[order] > others[order]]
        records: list[dict[str, Any]] = []
        for j in [j for j in order.tolist() if self.names[j] not in own][:top]:
            matched = np.flatnonzero(self.matches[:, j])
            strongest = matched[np.argsort(-weight[matched], kind="stable")]
            records.append(
                {
                    "class": name,
                    "kind": "word" if j < self.words else "cluster",
                    "suspect": self.names[j],
                    "share": float(shares[j]),
                    "share_others": float(others[j]),
                    "contrast": float(contrasts.contrast[j]),
                    "contrast_others": float(contrasts.others[:, j].max()),
                    "p_value": float(contrasts.p_value[j]),
                    "components": self.rows[strongest[:SHOWN_COMPONENTS]],
                }
            )
        return pd.DataFrame(records, columns=COLUMNS)


def make_candidates(
    database: Database, layers: Layers, rows: list[Int64[np.ndarray, " _n"]], query: QueryEmbedding
) -> tuple[Candidates, list[Float64[np.ndarray, "_n m"]]]:
    """Return the candidates, and the standardised alignments of each layer's components."""
    names, clusters = _clusters(database, layers, query)
    aligned: list[np.ndarray] = []
    matched: list[np.ndarray] = []
    for one in rows:
        values = alignment(database.theta[one], query)
        member = clusters[one][:, None] == np.arange(len(names))
        aligned.append(np.hstack([standardised(values), standardised(member.astype(np.float32))]))
        matched.append(np.hstack([best_matches(values), member]))
    matches = np.concatenate(matched)
    names = (*query.names, *names)
    return Candidates(names, len(query.names), np.concatenate(rows), matches), aligned


def best_matches(values: Float[np.ndarray, "n q"]) -> Bool[np.ndarray, "n q"]:
    """Return for each component the words that align with it best, if they do at all."""
    count = max(1, round(MATCHES * values.shape[1]))
    least = np.partition(values, values.shape[1] - count, axis=1)[:, -count, None]
    return (values >= least) & (values > 0)


def _clusters(
    database: Database, layers: Layers, query: QueryEmbedding
) -> tuple[list[str], Int64[np.ndarray, " r"]]:
    """Return the clusters of the map, named by their best words, and that of each row."""
    components = component_sets([database], layers=layers)
    cluster = assign_clusters(components, layers)
    names: list[str] = []
    for number in range(int(cluster.max()) + 1):
        mean = components[0].theta[cluster == number].mean(0, keepdims=True)
        best = best_concepts(alignment(mean, query)[0], query.names, 0.0, 2)
        names.append(f"{', '.join(best) or 'cluster'} ({number})")
    of_row = np.full(database.manifest.rows, -1)
    of_row[components[0].rows] = cluster
    return names, of_row


SHOWN = 30
"""Suspects in the table for a terminal."""
DRAWN = 12
"""Components in the picture."""
LEVEL = 0.05
"""Family-wise error rate of a class, over all words and clusters."""


@dataclass(frozen=True, eq=False, repr=False)
class Suspects(Result):
    """Words and clusters that a class relies on more than other classes do.

    Parameters
    ----------
    frame
        One row per class and suspect, for each class the smallest p-value first: ``class``,
        ``kind`` (word or cluster), ``suspect``, ``share`` (of the class's relevance, on
        components that match it), ``share_others`` (the largest of another class), ``contrast``,
        ``contrast_others``, ``p_value`` (family-wise over all words and clusters) and
        ``components`` (those that match it, most relevant first).
    tested
        Number of words and clusters.
    """

    frame: pd.DataFrame
    tested: int
    database: Database
    suffixes = (*IMAGE_SUFFIXES, *TABLE_SUFFIXES)

    @property
    def detected(self) -> pd.DataFrame:
        """The rows with a p-value below 5 %."""
        return self.frame.loc[self.frame["p_value"] < LEVEL]

    @property
    def components(self) -> list[Component]:
        """The most relevant component of each suspect."""
        return [Component.parse(name) for name in self.frame["components"].str[0].unique()]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {"tested": self.tested, "suspects": self.frame.to_dict("records")}

    @property
    def summary(self) -> str:
        """The strongest suspect, in a sentence."""
        if self.detected.empty:
            return (
                f"No class relies on any of {self.tested} words and clusters more than the others "
                "do (family-wise 5 % per class); what follows is a ranking only."
            )
        row = self.detected.sort_values("p_value", kind="stable").iloc[0]
        return (
            f"{100 * row['share']:.0f} % of what '{row['class']}' relies on matches "
            f"'{row['suspect']}', at most {100 * row['share_others']:.0f} % of any other class "
            f"({p_text(row['p_value'])}, of {self.tested} words and clusters)"
        )

    def plot(self) -> Image.Image:
        """Draw the examples of the suspects' most relevant components, with their names."""
        groups: dict[tuple[str, str], list[dict[Any, Any]]] = {}
        for record in self.frame.to_dict("records"):
            groups.setdefault((record["class"], record["components"][0]), []).append(record)
        shown = list(groups.items())[:DRAWN]
        rows = [self.database.row(Component.parse(name)) for (_, name), _ in shown]
        captions = [
            f"{label}: {', '.join(record['suspect'] for record in records[:4])} "
            f"({p_text(min(record['p_value'] for record in records))})"
            for (label, _), records in shown
        ]
        return sheet(self.database, rows, captions=captions)

    def __rich__(self) -> RenderableType:
        """Return the suspects of each class."""
        shown = self.frame.head(SHOWN).assign(
            share=self.frame["share"].map("{:.1%}".format),
            next_class=self.frame["share_others"].map("{:.1%}".format),
            contrast=self.frame["contrast"].map("{:.1f}".format),
            p_value=self.frame["p_value"].map("{:.4f}".format),
            strongest=[names[0] for names in self.frame["components"].head(SHOWN)],
        )
        columns = "class kind suspect share next_class contrast p_value strongest".split()
        several = len(set(self.frame["class"])) > 1
        return Group(*titled_table(self.summary, shown.loc[:, columns if several else columns[1:]]))


@lens(
    "embedder", group="Audit", command="classes suspects",
    example="classes suspects r18.semlens --target ox --save suspects.png",
)  # fmt: skip
def suspects(
    database: Database,
    target: Annotated[
        AnyClass, setting("Class, by name or logit index [all that are compared].")
    ] = None,
    concepts: ClassConcepts = None,
    *,
    vocabulary: LabelConcepts = VOCABULARY,
    layers: Layers = None,
    top: Annotated[int, setting("Suspects per class.", ge=1)] = 10,
) -> Suspects:
    """Rank all words of a vocabulary, and clusters, by how much only one class relies on them.

    For audits without a list of spurious concepts: the list is proposed. What the class's name
    and valid concepts explain is left out. A suspect is not a fault: words that describe the
    class itself, but are not among its valid concepts, come first where nothing is wrong.

    Parameters
    ----------
    concepts
        Sets whose valid concepts describe the classes; by default those of an audit.
    vocabulary
        The words that are ranked.

    Raises
    ------
    ConceptError
        If no set is for this class.
    RelevanceError
        If the database has relevance for fewer than six classes, or none for this class.
    EmbedderError
        If the embedder has no text tower.

    Notes
    -----
    An addition of semlens; the contrast is that of ``db.audit``.
    """
    if target is None:
        resolved, _ = concepts_by_class(database, concepts)
        lists = {index: one.concepts for index, one in resolved.items()}
    else:
        lists = dict([class_and_concepts(database, target, concepts)])
    references = reference_classes(database)
    if len(references) <= LEAST_CLASSES:
        raise RelevanceError(
            f"The database has relevance for {len(references)} classes.",
            f"Expected at least {LEAST_CLASSES + 1}: a class is compared with the others.",
            "Build it from images of more classes.",
        )
    ranked = as_concepts(vocabulary)
    ranked = ConceptSet(
        tuple({concept_key(c): c for c in ranked.concepts}.values()), ranked.name,
        templates=ranked.templates,
    )  # fmt: skip
    query = embed_concepts(database, ranked)
    classes = references if target is None else tuple(lists)
    rows = component_rows(database, database.layer_names(layers))
    candidates, aligned = make_candidates(database, layers, rows, query)
    reference = {c: _shares(database, c, rows) @ candidates.matches for c in references}
    tables: list[pd.DataFrame] = []
    for done, index in enumerate(classes):
        report_progress("ranking words", done, len(classes))
        valid = lists.get(index, ConceptSet(())).of_kind("valid")
        excess = class_excess(database, index, valid, layers)
        contrasts = compare_classes(contrast_scores(excess, aligned), 0)
        others = np.max([share for c, share in reference.items() if c != index], axis=0)
        name, own = class_name(database, index), {c.name for c in valid.concepts}
        weight = _shares(database, index, rows)
        tables.append(candidates.table(name, contrasts, weight, others, {name, *own}, top))
    frame = pd.concat(tables, ignore_index=True)
    frame["components"] = [database.names(rows) for rows in frame["components"]]
    return Suspects(frame, len(candidates.names), database)


def _shares(
    database: Database, target: int, rows: list[Int64[np.ndarray, " _n"]]
) -> Float64[np.ndarray, " k"]:
    """Return each component's share of a class's relevance; layers have equal weight."""
    shares = [positive_shares(database, target, one) for one in rows]
    return np.concatenate(shares) / len(rows)
