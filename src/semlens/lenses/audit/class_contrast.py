"""Contrast of classes: relevance that only one class has, on components that match a concept.

For class c, component i and concept j of the list,

    excess_ci    = relevance share of i for c, less its mean share for the other classes
    alignment_ij = alignment of i with concept j, standardised over the layer's components
    contrast_cj  = sum_i excess_ci alignment_ij / its standard deviation

after what the class's own words (its name and valid concepts) explain has been removed from
both. The standard deviation is that under random permutations of the components within their
layers, in closed form. A contrast has no absolute scale: components with similar examples have
similar relevance, so that even meaningless directions reach 5 standard deviations. It is
therefore compared with the contrasts of the other classes with the same concept, by
:func:`moderated_p_values`. An addition of semlens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float64, Int64

from semlens.lenses.classes import class_name
from semlens.lenses.concepts import Concept, ConceptSet
from semlens.lenses.query_embedding import alignment, embed_concepts
from semlens.lenses.statistics.outliers import LEAST_CLASSES, moderated_p_values
from semlens.progress import report_progress
from semlens.store.reader import Database
from semlens.types import Component, Layers

MOST_REFERENCES = 30
"""Other classes that a class is compared with, at most."""


@dataclass(frozen=True)
class ConceptContrasts:
    """Contrasts of one class with n concepts, and those of r other classes.

    Parameters
    ----------
    contrast, others
        In standard deviations of a random permutation.
    p_value
        Probability that one more class like the others has such a contrast, family-wise over the
        concepts.
    """

    contrast: Float64[np.ndarray, " n"]
    others: Float64[np.ndarray, "r n"]
    p_value: Float64[np.ndarray, " n"]


def concept_contrasts(
    database: Database,
    target: int,
    concepts: ConceptSet,
    valid: ConceptSet | None = None,
    layers: Layers = None,
) -> ConceptContrasts | None:
    """Return the contrasts of a class, or None if the database has too few classes to compare.

    Parameters
    ----------
    valid
        Concepts that the class may rely on; what they explain is removed. The other classes are
        described by their names only, so that a contrast depends on no other class's lists.
    """
    if len(reference_classes(database)) <= LEAST_CLASSES:
        return None
    excess = class_excess(database, target, valid, layers)
    alignments = _alignments(database, concepts, tuple(database.layer_names(layers)))
    return compare_classes(contrast_scores(excess, alignments), 0)


def contrast_carriers(
    database: Database,
    target: int,
    concept: Concept,
    valid: ConceptSet | None = None,
    layers: Layers = None,
) -> list[Component]:
    """Return the components that carry a class's contrast with a concept, the strongest first.

    Those that the class relies on more than the others do and that match the concept better than
    the average does, as few as make up half of what such components add to the contrast; of the
    layer in which they add most.
    """
    excess = class_excess(database, target, valid, layers)
    alignments = _alignments(database, ConceptSet((concept,)), tuple(database.layer_names(layers)))
    rows = carriers(excess, [one[:, 0] for one in alignments])
    return [database.component(row) for row in rows]


def carriers(
    layers: Sequence[LayerExcess], alignments: Sequence[Float[np.ndarray, " _n"]]
) -> list[int]:
    """Return the components that carry the first class's contrast with a concept."""
    added = [
        np.maximum(one.excess[:, 0], 0) * np.maximum(a, 0)
        for one, a in zip(layers, alignments, strict=True)
    ]
    first = int(np.argmax([one.sum() for one in added]))
    order = np.argsort(-added[first], kind="stable")
    before = np.cumsum(added[first][order]) - added[first][order]
    return layers[first].rows[order[before < added[first].sum() / 2]].tolist()


def compare_classes(scores: Float[np.ndarray, "c n"], position: int) -> ConceptContrasts:
    """Compare the contrasts of one class with those of all others."""
    others = np.delete(scores, position, axis=0)
    return ConceptContrasts(scores[position], others, moderated_p_values(scores[position], others))


def class_excess(
    database: Database, target: int, valid: ConceptSet | None = None, layers: Layers = None
) -> list[LayerExcess]:
    """Return the excess of a class (first) and of those it is compared with, in each layer."""
    reference = _reference(database, tuple(database.layer_names(layers)))
    kept = [i for i, one in enumerate(reference.classes) if one != target]
    own = _own_concepts(database, target)
    own += valid.concepts if valid is not None else ()
    columns: list[np.ndarray] = []
    for rows, total in zip(reference.rows, reference.totals, strict=True):
        share = positive_shares(database, target, rows)
        others = (total - share * (target in reference.classes)) / len(kept)
        columns.append(excess_shares(share[:, None], others[:, None]))
    query = embed_concepts(database, ConceptSet(own))
    alignments = [standardised(alignment(database.theta[rows], query)) for rows in reference.rows]
    excess, direction = remove_own(np.concatenate(columns), [np.concatenate(alignments)])
    return [
        LayerExcess(
            layer.rows,
            np.hstack([e, layer.excess[:, kept]]),
            np.hstack([u, layer.own[:, kept]]),
        )
        for layer, e, u in zip(
            reference.layers,
            _by_layer(excess, reference.rows),
            _by_layer(direction, reference.rows),
            strict=True,
        )
    ]


def reference_classes(database: Database) -> tuple[int, ...]:
    """Return the classes that all classes are compared with; of many, the same random ones."""
    return choose_references([int(c) for c in database.relevance_classes["class"]])


def choose_references(classes: Sequence[int]) -> tuple[int, ...]:
    """Return the classes in order; of many, some that do not depend on the order given."""
    classes = sorted(classes)
    if len(classes) <= MOST_REFERENCES + 1:
        return tuple(classes)
    chosen = np.random.default_rng(0).choice(classes, MOST_REFERENCES, replace=False)
    return tuple(sorted(chosen.tolist()))


def _own_concepts(database: Database, target: int) -> tuple[Concept, ...]:
    """Return the class's name as a concept; none if the embedder has no text tower."""
    return (Concept(class_name(database, target)),) if database.embedder.has_text else ()


@dataclass(frozen=True)
class LayerExcess:
    """The n components of a layer that have examples, for c classes.

    Parameters
    ----------
    excess
        Relevance beyond the other classes', less what the own words explain; sums to 0.
    own
        Direction of the class's own words over the components of all layers; sums to 0.
    """

    rows: Int64[np.ndarray, " n"]
    excess: Float[np.ndarray, "n c"]
    own: Float[np.ndarray, "n c"]


def contrast_scores(
    layers: Sequence[LayerExcess], alignments: Sequence[Float[np.ndarray, "_n q"]]
) -> Float64[np.ndarray, "c q"]:
    """Return the contrasts of c classes with q concepts, given standardised alignments.

    The residual of an alignment ``a`` is ``a - own (own . a)``. Its products with the excess, and
    its sum of squares in each layer, follow from matrix products, without forming it for every
    class.
    """
    slopes = [one.own.T @ a for one, a in zip(layers, alignments, strict=True)]
    slope = sum(slopes)
    total = np.zeros(np.shape(slope))
    variance = np.zeros(np.shape(slope))
    for one, a, of_layer in zip(layers, alignments, slopes, strict=True):
        total += one.excess.T @ a
        own_squares = (one.own**2).sum(0, dtype=np.float64)[:, None]
        squares = (a**2).sum(0) - 2 * slope * of_layer + slope**2 * own_squares
        excess = (one.excess**2).sum(0, dtype=np.float64)[:, None]
        variance += excess * np.maximum(squares, 0) / (len(one.rows) - 1)
    return np.divide(total, np.sqrt(variance), out=np.zeros_like(total), where=variance > 0)


def standardised(values: Float[np.ndarray, "n q"]) -> Float64[np.ndarray, "n q"]:
    """Return columns with mean 0 and standard deviation 1; a constant one becomes 0."""
    values = values.astype(np.float64)
    centred = values - values.mean(0)
    spread = centred.std(0)
    flat = spread <= 1e-6 * np.abs(values).max(0, initial=0)
    return np.where(flat, 0, centred / np.where(flat, 1, spread))


def excess_shares(
    shares: Float[np.ndarray, "n c"], others_mean: Float[np.ndarray, "n c"]
) -> Float64[np.ndarray, "n c"]:
    """Return relevance beyond that of the other classes, with equal weight for each class."""
    difference = shares - others_mean
    size = np.abs(difference).sum(0)
    return difference / np.where(size > 0, size, 1)


def remove_own(
    excess: Float[np.ndarray, "k c"], own: Sequence[Float[np.ndarray, "k _w"]]
) -> tuple[Float64[np.ndarray, "k c"], Float64[np.ndarray, "k c"]]:
    """Return the excess without what own words explain, and the direction of these.

    Parameters
    ----------
    own
        Of each class, the standardised alignments with its own words. Only their first principal
        direction counts: with all of them, nothing of the artefact would be left.
    """
    directions = np.zeros(excess.shape)
    for column, alignments in enumerate(own):
        if not alignments.shape[1]:
            continue
        weights = np.linalg.eigh(alignments.T @ alignments)[1][:, -1]
        direction = alignments @ weights
        directions[:, column] = direction / max(float(np.linalg.norm(direction)), 1e-12)
    return excess - directions * (directions * excess).sum(0), directions


@dataclass(frozen=True)
class _Reference:
    """The classes that others are compared with, which every audit of a database shares.

    Parameters
    ----------
    totals
        In each layer, the sum of their relevance shares.
    """

    classes: tuple[int, ...]
    layers: list[LayerExcess]
    totals: list[Float64[np.ndarray, " _n"]]

    @property
    def rows(self) -> list[Int64[np.ndarray, " _n"]]:
        """The components of each layer."""
        return [layer.rows for layer in self.layers]


@lru_cache(maxsize=2)
def _reference(database: Database, layers: tuple[str, ...]) -> _Reference:
    classes, all_rows = reference_classes(database), component_rows(database, layers)
    names = [_own_concepts(database, c) for c in classes]
    query = embed_concepts(database, ConceptSet(tuple(one for name in names for one in name)))
    excess: list[np.ndarray] = []
    totals: list[np.ndarray] = []
    aligned: list[np.ndarray] = []
    for done, rows in enumerate(all_rows):
        report_progress("comparing classes", done, len(all_rows))
        shares = np.stack([positive_shares(database, c, rows) for c in classes], axis=1)
        totals.append(shares.sum(1))
        others = (totals[-1][:, None] - shares) / (len(classes) - 1)
        excess.append(excess_shares(shares, others).astype(np.float32))
        aligned.append(standardised(alignment(database.theta[rows], query)))
    joined = np.concatenate(aligned)
    own = [joined[:, [i]] if name else joined[:, :0] for i, name in enumerate(names)]
    remaining, directions = remove_own(np.concatenate(excess), own)
    split = (_by_layer(one.astype(np.float32), all_rows) for one in (remaining, directions))
    layers_excess = [LayerExcess(*one) for one in zip(all_rows, *split, strict=True)]
    return _Reference(classes, layers_excess, totals)


def _by_layer(
    values: Float[np.ndarray, "k c"], rows: Sequence[Int64[np.ndarray, " _n"]]
) -> list[Float[np.ndarray, "_n c"]]:
    """Split values of the components of all layers by layer."""
    return np.split(values, np.cumsum([len(one) for one in rows])[:-1])


def component_rows(database: Database, layers: Sequence[str]) -> list[Int64[np.ndarray, " _n"]]:
    """Return the components of each layer that have examples; one alone cannot be permuted."""
    entries = [database.layer(name) for name in layers]
    rows = [np.arange(entry.first, entry.first + entry.rows) for entry in entries]
    rows = [one[database.has_examples[one]] for one in rows]
    return [one for one in rows if len(one) > 1]


def positive_shares(
    database: Database, target: int, rows: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Return each component's share of the layer's positive relevance for a class."""
    layer = database.component(int(rows[0])).layer
    table = database.relevance(target, [layer])
    entry = database.layer(layer)
    values = np.zeros(entry.rows)
    values[table["component"].to_numpy() - entry.first] = np.maximum(table["mean"].to_numpy(), 0)
    values = values[rows - entry.first]
    return values / max(float(values.sum()), 1e-12)


@lru_cache(maxsize=2)
def _alignments(
    database: Database, concepts: ConceptSet, layers: tuple[str, ...]
) -> list[Float64[np.ndarray, "_n q"]]:
    """Return the standardised alignments of each layer's components; a sweep repeats the list."""
    query = embed_concepts(database, concepts)
    return [
        standardised(alignment(database.theta[r], query)) for r in component_rows(database, layers)
    ]
