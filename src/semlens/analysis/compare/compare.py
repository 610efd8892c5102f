"""Compare: what models and layers share, and what only one has (paper, 3.3, 4.1.3 and E)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations, product
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float32

from semlens.analysis.class_relevance import MINIMUM, Minimum, TargetFilter
from semlens.analysis.compare.comparison import Comparison
from semlens.analysis.compare.component_sets import (
    ComponentSet,
    as_databases,
    component_sets,
    difference_notes,
)
from semlens.analysis.compare.nearest_components import (
    Nearest,
    PairProgress,
    nearest_between,
    nearest_between_sets,
    nearest_within_set,
)
from semlens.analysis.compare.summary import (
    OptionalConcepts,
    label_sets,
    score_table,
)
from semlens.analysis.label import THRESHOLD, VOCABULARY
from semlens.analysis.query_embedding import unit
from semlens.errors import RecipeError
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Layers

LabelThreshold = Annotated[float, setting("Least alignment of a label.", ge=-2, le=2)]
"""A least alignment wherever components are labelled on the way."""


@question("embedder")
def compare(
    databases: Database | Sequence[Database],
    *others: Database,
    layers: Layers = None,
    by_layer: Annotated[bool, setting("Each layer is a set of its own.")] = False,
    concepts: OptionalConcepts = VOCABULARY,
    target: TargetFilter = None,
    minimum: Minimum = MINIMUM,
    threshold: Annotated[
        float | None,
        setting("Cosine under which a component is unique [from its own set].", ge=-1, le=1),
    ] = None,
    quantile: Annotated[
        float, setting("Of the similarities within a set: its threshold.", ge=0, le=1)
    ] = 0.05,
    label_threshold: LabelThreshold = THRESHOLD,
    centred: Annotated[bool, setting("Also compare after the mean is subtracted.")] = False,
    scores: Annotated[bool, setting("Whether to compare scores, too.")] = True,
    top: Annotated[
        int, setting("Pairs, unique components and labels to show; 0 for all.", ge=0)
    ] = 5,
) -> Comparison:
    """Compare the components of databases that one embedder has made.

    Parameters
    ----------
    databases, others
        One or several.
    layers
        Layers to take, of each database those that it has; all by default.
    by_layer
        Whether each layer is a set of its own. Then one database is enough.
    concepts
        For labels; None for no labels. There are none either if the embedder reads no texts.
    target, minimum
        Take only components whose share of relevance for this class reaches ``minimum``.
    threshold
        Cosine under which a component has no counterpart in another set. By default the
        ``quantile`` of the similarities to the nearest other component of its own set: a
        unique component is then farther from all of the other set than nearly all its
        fellows are from each other.
    centred
        Whether to compute set similarity after subtracting the mean vector, too.
    scores
        Whether to compare clarity, redundancy and polysemanticity, too.

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
    >>> found = sl.compare(sl.open("a.semlens"), sl.open("b.semlens"))     # doctest: +SKIP
    >>> found.square()                                                     # doctest: +SKIP
    """
    given = as_databases(databases, others)
    sets = component_sets(given, layers=layers, by_layer=by_layer, target=target, minimum=minimum)
    if len(sets) < 2:
        raise RecipeError(
            f"There is only one set, '{sets[0].name}'.",
            "Expected two sets to compare.",
            "Give another database, or compare its layers by by_layer=True.",
        )
    count = PairProgress(_pairs(sets, threshold is None, centred))
    nearest = _all_nearest(sets, count)
    limits = tuple(
        threshold if threshold is not None else within_set_threshold(one, quantile, count)
        for one in sets
    )
    labelled, counts, unreadable = label_sets(sets, concepts, label_threshold)
    return Comparison(
        tuple(sets),
        _matrix(sets, nearest, limits, _centred(sets, count) if centred else {}),
        nearest,
        limits,
        labelled,
        counts,
        score_table(sets) if scores else None,
        top,
        (*difference_notes(given), *unreadable),
    )


def within_set_threshold(one: ComponentSet, quantile: float, count: PairProgress) -> float:
    """Return the quantile of a set's similarities to the nearest fellow; NaN when alone."""
    if len(one) < 2:
        return float("nan")
    return float(
        np.quantile(nearest_within_set(one, count).similarity.astype(np.float64), quantile)
    )


def _pairs(sets: Sequence[ComponentSet], own: bool, centred: bool) -> int:
    """Return how many pairs of components are compared."""
    across = sum(len(a) * len(b) for a, b in combinations(sets, 2))
    inside = sum(len(a) ** 2 // 2 for a in sets if len(a) > 1) if own else 0
    return across * (2 if centred else 1) + inside


def _all_nearest(
    sets: Sequence[ComponentSet], count: PairProgress
) -> dict[tuple[int, int], Nearest]:
    found: dict[tuple[int, int], Nearest] = {}
    for a, b in combinations(range(len(sets)), 2):
        found[a, b], found[b, a] = nearest_between_sets(sets[a], sets[b], count)
    return {key: found[key] for key in permutations(range(len(sets)), 2)}


def _centred(sets: Sequence[ComponentSet], count: PairProgress) -> dict[tuple[int, int], float]:
    """Return Eq. 5 after the mean of all compared unit vectors is subtracted."""
    total = np.sum([one.units.sum(0, dtype=np.float64) for one in sets], axis=0)
    mean = np.asarray(total / sum(map(len, sets)), np.float32)
    moved: list[Float32[np.ndarray, "n d"]] = [unit(one.units - mean) for one in sets]
    found = {(a, a): 1.0 for a in range(len(sets))}
    for a, b in combinations(range(len(sets)), 2):
        ahead, back = nearest_between(moved[a], moved[b], count)
        found[a, b], found[b, a] = ahead.mean, back.mean
    return found


def _matrix(
    sets: Sequence[ComponentSet],
    nearest: dict[tuple[int, int], Nearest],
    limits: Sequence[float],
    centred: dict[tuple[int, int], float],
) -> pd.DataFrame:
    sums = [one.units.sum(0, dtype=np.float64) for one in sets]
    rows: list[dict[str, Any]] = []
    for (a, one), (b, other) in product(enumerate(sets), repeat=2):
        # of a set with itself: all pairs of two different components
        itself = len(one) if a == b else 0
        pairs = len(one) * len(other) - itself
        similarity, mutual, unique = 1.0, 1.0, 0
        if a != b:
            near = nearest[a, b]
            similarity, mutual = near.mean, float(near.mutual(nearest[b, a]).mean())
            unique = int((near.similarity < limits[a]).sum())
        rows.append(
            {
                "from": one.name,
                "to": other.name,
                "components": len(one),
                "similarity": similarity,
                "mean_pair": (sums[a] @ sums[b] - itself) / pairs if pairs else float("nan"),
                "centred": centred.get((a, b), float("nan")),
                "mutual": mutual,
                "unique": unique,
            }
        )
    return pd.DataFrame(rows)
