"""Comparison of the concepts of models and layers (paper, 3.3, 4.1.3 and E)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations, product
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float32

from semlens.errors import RecipeError
from semlens.lens import lens
from semlens.lenses.arguments import OptionalConcepts
from semlens.lenses.class_relevance import MINIMUM, Minimum, TargetFilter
from semlens.lenses.compare.comparison import Comparison
from semlens.lenses.compare.component_sets import (
    ComponentSet,
    as_databases,
    component_sets,
    difference_notes,
)
from semlens.lenses.compare.labels_and_scores import (
    label_sets,
    score_table,
)
from semlens.lenses.compare.nearest_components import (
    Nearest,
    PairProgress,
    nearest_between,
    nearest_between_sets,
    nearest_within_set,
)
from semlens.lenses.labelling.label import VOCABULARY, LabelThreshold
from semlens.lenses.query_embedding import unit
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Layers


@lens("embedder", group="Compare", command="")
def compare(
    databases: Database | Sequence[Database],
    *others: Database,
    layers: Layers = None,
    by_layer: Annotated[bool, setting("Compare layers instead of whole models.")] = False,
    concepts: OptionalConcepts = VOCABULARY,
    target: TargetFilter = None,
    minimum: Minimum = MINIMUM,
    threshold: Annotated[
        float | None,
        setting("Cosine below which a component is unique [from its own set].", ge=-1, le=1),
    ] = None,
    quantile: Annotated[
        float,
        setting("Quantile of the similarities within a set that is its threshold.", ge=0, le=1),
    ] = 0.05,
    label_threshold: LabelThreshold = None,
    centred: Annotated[bool, setting("Also compare after the mean is subtracted.")] = False,
    scores: Annotated[bool, setting("Also compare scores.")] = True,
    top: Annotated[
        int, setting("Pairs, unique components and labels to show; 0 for all.", ge=0)
    ] = 5,
) -> Comparison:
    """Compare the components of databases with the same embedder.

    Parameters
    ----------
    databases, others
        One or several databases.
    layers
        Layers to use; databases may lack some of them. All by default.
    by_layer
        Whether each layer is a set of its own. One database is enough then.
    concepts
        Source of labels; None for no labels. There are no labels if the embedder does not embed
        texts.
    target, minimum
        Use only components whose share of relevance for this class is at least ``minimum``.
    threshold
        Cosine below which a component has no counterpart in another set. By default, the
        ``quantile`` of the similarities to the nearest other component of its own set. A unique
        component is then farther from the other set than nearly all components of its own set
        are from each other.
    centred
        Whether to also compute set similarity after subtracting the mean vector.
    scores
        Whether to also compare clarity, redundancy and polysemanticity.

    Raises
    ------
    StaleError
        If the embedders differ.
    RecipeError
        If there are fewer than two sets, one is empty or given twice, or a number is out of
        range.
    LayerError
        If a layer is in no database, or a database has none of them.
    RelevanceError
        If a database has no relevance for ``target``.

    Examples
    --------
    >>> import semlens as sl
    >>> comparison = sl.open("a.semlens").compare(sl.open("b.semlens"))  # doctest: +SKIP
    >>> comparison.square()                                                  # doctest: +SKIP
    """
    compared = as_databases(databases, others)
    sets = component_sets(
        compared, layers=layers, by_layer=by_layer, target=target, minimum=minimum
    )
    if len(sets) < 2:
        raise RecipeError(
            f"There is only one set, '{sets[0].name}'.",
            "Expected at least two sets.",
            "Give another database, or compare the layers of this one (by_layer).",
        )
    progress = PairProgress(_pairs(sets, threshold is None, centred))
    nearest = _all_nearest(sets, progress)
    thresholds = tuple(
        threshold
        if threshold is not None
        else within_set_threshold(component_set, quantile, progress)
        for component_set in sets
    )
    labels, label_table, unreadable = label_sets(sets, concepts, label_threshold)
    return Comparison(
        tuple(sets),
        _matrix(sets, nearest, thresholds, _centred(sets, progress) if centred else {}),
        nearest,
        thresholds,
        labels,
        label_table,
        score_table(sets) if scores else None,
        top,
        (*difference_notes(compared), *unreadable),
    )


def within_set_threshold(
    components: ComponentSet, quantile: float, progress: PairProgress
) -> float:
    """Return the quantile of the similarities to the nearest other component of the same set.

    NaN if the set has only one component.
    """
    if len(components) < 2:
        return float("nan")
    return float(
        np.quantile(
            nearest_within_set(components, progress).similarity.astype(np.float64), quantile
        )
    )


def _pairs(sets: Sequence[ComponentSet], within: bool, centred: bool) -> int:
    """Return the number of pairs of components that are compared."""
    across = sum(len(a) * len(b) for a, b in combinations(sets, 2))
    inside = sum(len(a) ** 2 // 2 for a in sets if len(a) > 1) if within else 0
    return across * (2 if centred else 1) + inside


def _all_nearest(
    sets: Sequence[ComponentSet], progress: PairProgress
) -> dict[tuple[int, int], Nearest]:
    nearest: dict[tuple[int, int], Nearest] = {}
    for a, b in combinations(range(len(sets)), 2):
        nearest[a, b], nearest[b, a] = nearest_between_sets(sets[a], sets[b], progress)
    return {key: nearest[key] for key in permutations(range(len(sets)), 2)}


def _centred(sets: Sequence[ComponentSet], progress: PairProgress) -> dict[tuple[int, int], float]:
    """Return set similarities (Eq. 5) after subtracting the mean of all compared unit vectors."""
    total = np.sum(
        [components.unit_vectors.sum(0, dtype=np.float64) for components in sets], axis=0
    )
    mean = np.asarray(total / sum(map(len, sets)), np.float32)
    centred: list[Float32[np.ndarray, "n d"]] = [
        unit(components.unit_vectors - mean) for components in sets
    ]
    similarity = {(a, a): 1.0 for a in range(len(sets))}
    for a, b in combinations(range(len(sets)), 2):
        forward, backward = nearest_between(centred[a], centred[b], progress)
        similarity[a, b], similarity[b, a] = forward.mean, backward.mean
    return similarity


def _matrix(
    sets: Sequence[ComponentSet],
    nearest: dict[tuple[int, int], Nearest],
    thresholds: Sequence[float],
    centred: dict[tuple[int, int], float],
) -> pd.DataFrame:
    sums = [first.unit_vectors.sum(0, dtype=np.float64) for first in sets]
    rows: list[dict[str, Any]] = []
    for (a, first), (b, second) in product(enumerate(sets), repeat=2):
        # a set and itself: only pairs of two different components
        diagonal = len(first) if a == b else 0
        pairs = len(first) * len(second) - diagonal
        similarity, mutual, unique = 1.0, 1.0, 0
        if a != b:
            neighbours = nearest[a, b]
            similarity, mutual = neighbours.mean, float(neighbours.mutual(nearest[b, a]).mean())
            unique = int((neighbours.similarity < thresholds[a]).sum())
        rows.append(
            {
                "from": first.name,
                "to": second.name,
                "components": len(first),
                "similarity": similarity,
                "mean_pair": (sums[a] @ sums[b] - diagonal) / pairs if pairs else float("nan"),
                "centred": centred.get((a, b), float("nan")),
                "mutual": mutual,
                "unique": unique,
            }
        )
    return pd.DataFrame(rows)
