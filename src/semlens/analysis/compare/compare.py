"""Compare: what models and layers share, and what only one has (paper, 3.3, 4.1.3 and E)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, permutations

import numpy as np
import pandas as pd
from jaxtyping import Float32

from semlens.analysis.align import unit
from semlens.analysis.compare.comparison import Comparison
from semlens.analysis.compare.kept import nearest_of_sets, nearest_within
from semlens.analysis.compare.nearest import Nearest, Step, both_ways
from semlens.analysis.compare.sets import (
    MINIMUM,
    ComponentSet,
    component_sets,
    differences,
)
from semlens.analysis.compare.tally import label_counts, score_table, set_labels
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.label import THRESHOLD
from semlens.analysis.probe import concept_probe
from semlens.errors import RecipeError
from semlens.store.reader import Database

QUANTILE = 0.05
"""Of the similarities to the nearest other component of the same set: the threshold."""


def compare(
    databases: Sequence[Database],
    *,
    layers: Sequence[str] | None = None,
    by_layer: bool = False,
    concepts: ConceptSet | str | None = None,
    target: int | str | None = None,
    minimum: float = MINIMUM,
    threshold: float | None = None,
    quantile: float = QUANTILE,
    label_threshold: float = THRESHOLD,
    centred: bool = False,
    measures: bool = True,
    top: int = 5,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Comparison:
    """Compare the components of databases that one embedder has made.

    Parameters
    ----------
    layers
        Layers to take, of each database those that it has; all by default.
    by_layer
        Whether each layer is a set of its own. Then one database is enough.
    concepts
        Concept set for labels, or the name of one; None for no labels.
    target, minimum
        Take only components whose share of relevance for this class reaches ``minimum``.
    threshold
        Cosine under which a component has no counterpart in another set. By default the
        ``quantile`` of the similarities to the nearest other component of its own set: a
        unique component is then farther from all of the other set than nearly all its
        fellows are from each other.
    centred
        Whether to compute set similarity after subtracting the mean vector, too.
    measures
        Whether to compare clarity, redundancy and polysemanticity, too.
    progress
        Told how many pairs of components are done, of how many.

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
    >>> found = sl.compare([sl.open("a.semlens"), sl.open("b.semlens")])   # doctest: +SKIP
    >>> found.square()                                                     # doctest: +SKIP
    """
    _check_numbers(threshold, quantile, minimum)
    sets = component_sets(
        databases, layers=layers, by_layer=by_layer, target=target, minimum=minimum
    )
    if len(sets) < 2:
        raise RecipeError(
            f"There is only one set, '{sets[0].name}'.",
            "Expected two sets to compare.",
            "Name another database, or compare its layers with --by-layer.",
        )
    step = _counter(sets, threshold is None, centred, progress)
    nearest = _all_nearest(sets, step)
    limits = tuple(
        threshold if threshold is not None else own_threshold(one, quantile, step) for one in sets
    )
    chosen = ConceptSet.load(concepts) if isinstance(concepts, str) else concepts
    labelled, counts = None, None
    if chosen is not None:
        probe = concept_probe(databases[0], chosen)
        labelled = tuple(set_labels(one, probe, chosen, label_threshold) for one in sets)
        counts = label_counts(sets, labelled, chosen)
    return Comparison(
        tuple(sets),
        _matrix(sets, nearest, limits, _centred(sets, step) if centred else None),
        nearest,
        limits,
        labelled,
        counts,
        score_table(sets) if measures else None,
        top,
        tuple(differences(databases)),
    )


def own_threshold(one: ComponentSet, quantile: float, step: Step) -> float:
    """Return the quantile of a set's similarities to the nearest fellow; NaN when alone."""
    if len(one) < 2:
        return float("nan")
    return float(np.quantile(nearest_within(one, step).similarity.astype(np.float64), quantile))


def _check_numbers(threshold: float | None, quantile: float, minimum: float) -> None:
    for name, value, low in (
        ("threshold", threshold, -1.0),
        ("quantile", quantile, 0.0),
        ("minimum", minimum, 0.0),
    ):
        if value is not None and not low <= value <= 1:
            raise RecipeError(
                f"The {name} is {value}.",
                f"Expected a number from {low:g} to 1.",
                f"Give another {name}.",
            )


def _counter(
    sets: Sequence[ComponentSet], own: bool, centred: bool, progress: Callable[[int, int], None]
) -> Step:
    across = sum(len(a) * len(b) for a, b in combinations(sets, 2))
    inside = sum(len(a) ** 2 // 2 for a in sets) if own else 0
    total, done = across * (2 if centred else 1) + inside, 0

    def step(pairs: int) -> None:
        nonlocal done
        done = min(done + pairs, total)
        progress(done, total)

    return step


def _all_nearest(sets: Sequence[ComponentSet], step: Step) -> dict[tuple[int, int], Nearest]:
    found: dict[tuple[int, int], Nearest] = {}
    for a, b in combinations(range(len(sets)), 2):
        found[a, b], found[b, a] = nearest_of_sets(sets[a], sets[b], step)
    return {key: found[key] for key in permutations(range(len(sets)), 2)}


def _centred(sets: Sequence[ComponentSet], step: Step) -> dict[tuple[int, int], float]:
    """Return Eq. 5 after the mean of all compared unit vectors is subtracted."""
    total = np.sum([one.units.sum(0, dtype=np.float64) for one in sets], axis=0)
    mean = np.asarray(total / sum(map(len, sets)), np.float32)
    moved: list[Float32[np.ndarray, "n d"]] = [unit(one.units - mean) for one in sets]
    found: dict[tuple[int, int], float] = {}
    for a, b in combinations(range(len(sets)), 2):
        ahead, back = both_ways(moved[a], moved[b], step)
        found[a, b], found[b, a] = ahead.mean, back.mean
    return found


def _matrix(
    sets: Sequence[ComponentSet],
    nearest: dict[tuple[int, int], Nearest],
    limits: Sequence[float],
    centred: dict[tuple[int, int], float] | None,
) -> pd.DataFrame:
    sums = [one.units.sum(0, dtype=np.float64) for one in sets]
    rows: list[dict[str, object]] = []
    for a, one in enumerate(sets):
        for b, other in enumerate(sets):
            rows.append({"from": one.name, "to": other.name, "components": len(one)})
            if a == b:
                pairs = len(one) * (len(one) - 1)
                alone = (sums[a] @ sums[a] - len(one)) / pairs if pairs else float("nan")
                same = float("nan") if centred is None else 1.0
                rows[-1] |= {"similarity": 1.0, "mean_pair": alone, "centred": same}
                rows[-1] |= {"mutual": 1.0, "unique": 0}
                continue
            ahead, back = nearest[a, b], nearest[b, a]
            rows[-1] |= {
                "similarity": ahead.mean,
                "mean_pair": float(sums[a] @ sums[b] / (len(one) * len(other))),
                "centred": float("nan") if centred is None else centred[a, b],
                "mutual": float((back.place[ahead.place] == np.arange(len(one))).mean()),
                "unique": int((ahead.similarity < limits[a]).sum()),
            }
    return pd.DataFrame(rows)
