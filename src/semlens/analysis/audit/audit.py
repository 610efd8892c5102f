"""Audit: whether what a class rests on is what it should rest on (paper, 3.4 and 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int8, Int64

from semlens.analysis.audit.audit_result import Audit
from semlens.analysis.audit.concept_alignment import (
    ConceptAlignment,
    divide,
    make_background,
    measure_side,
    random_shares,
)
from semlens.analysis.audit.relevance_shares import (
    VERDICTS,
    BootstrapCosines,
    ComponentWeights,
    share_table,
    verdicts,
    weigh,
)
from semlens.analysis.class_relevance import MINIMUM, Minimum, relevant_rows
from semlens.analysis.classes import class_name
from semlens.analysis.concepts import Concepts, as_concepts
from semlens.analysis.resolve_concepts import ClassConcepts, OwnTarget, class_and_concepts
from semlens.progress import report
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Layers

LEVEL = 0.05
"""Chance that random concepts are taken for a finding."""
BACKGROUND = "paper-vocabulary"
"""The concept set from which random concepts are drawn."""
RESAMPLES = 200
"""Draws of the bootstrap."""
SIDES = ("valid", "spurious")
DRAWS = 1000
"""Random concept sets behind the alarm."""
Bound = Annotated[float, setting("A difference of two cosines.", ge=-2, le=2)]

Level = Annotated[
    float, setting("Chance at which as many random concepts would count as aligned.", gt=0, lt=1)
]
Threshold = Annotated[
    Bound | tuple[Bound | None, Bound | None] | None,
    setting("Fixed least alignment instead (the paper: 0)."),
]
"""A least alignment for both sides, or (valid, spurious); None lets chance decide."""
Background = Annotated[Concepts, setting("Concept set that random concepts are drawn from.")]
Resamples = Annotated[int, setting("Draws of the bootstrap behind the intervals.", ge=0)]
Seed = Annotated[int, setting("Seed of what is drawn.", ge=0)]


@question("embedder")
def audit(
    database: Database,
    target: OwnTarget = None,
    concepts: ClassConcepts = None,
    *,
    layers: Layers = None,
    minimum: Minimum = MINIMUM,
    level: Level = LEVEL,
    threshold: Threshold = None,
    background: Background = BACKGROUND,
    resamples: Resamples = RESAMPLES,
    seed: Seed = 0,
) -> Audit:
    """Say of each relevant component of a class whether it is valid, spurious, both or neither.

    Parameters
    ----------
    target
        Class; by default the one that the concept sets name.
    concepts
        What the class should rest on (``valid``) and what not (``spurious``), in any form; of
        several sets those that name this class or none. By default the lists of the class's
        saved audit, or the bundled sets that are for it.
    layers
        Layers to audit; all by default. Each layer's relevance counts as a whole.
    minimum
        Components whose share of their layer's relevance reaches it on some sample are
        relevant.
    level
        A component is aligned with a side when its best alignment exceeds what the best of as
        many random concepts reaches with this probability; the class raises an alarm when spurious
        concepts claim more relevance than random sets do, with this significance.
    threshold
        A fixed least alignment instead (the paper: 0): for both sides, or ``(valid, spurious)``
        where None leaves a side to chance.
    background
        Where random concepts come from; the paper's vocabulary by default.
    resamples
        Draws of the bootstrap over concept examples; 0 for no intervals.

    Raises
    ------
    ConceptError
        If both sides are empty, a concept is on both, no set is for the class, or the background
        is too small.
    RelevanceError
        If the database has no relevance for the class, or no component reaches the minimum.
    EmbedderError
        If there are texts and the embedder reads none.

    Notes
    -----
    Source: paper, 3.4 (alignments and the four states) and F.1.1. Calibrated thresholds,
    intervals and the alarm are ours.
    """
    number, held = class_and_concepts(database, target, concepts)
    audited = divide(held)
    relevant = relevant_rows(database, number, layers, minimum)
    rows = relevant["component"].to_numpy(np.int64)
    theta = database.theta[rows]
    vocabulary = as_concepts(background)
    random = make_background(theta, database, number, vocabulary, audited, level, seed)
    least = threshold if isinstance(threshold, tuple) else (threshold, threshold)
    sides = {
        kind: measure_side(theta, database, one, random, level, fixed)
        for kind, one, fixed in zip(SIDES, audited, least, strict=True)
        if len(one)
    }
    verdict = _verdicts({kind: side.aligned for kind, side in sides.items()}, len(rows))
    weights = weigh(relevant)
    redrawn = _redrawn(database, rows, sides, resamples, seed)
    frame = _frame(database, relevant, sides, verdict, redrawn)
    return Audit(
        target=number,
        name=class_name(database, number),
        concepts=held,
        frame=frame,
        shares=share_table(weights, verdict, redrawn),
        chance=_chance(weights, sides, seed),
        summary=_summary(weights, sides),
        settings=MappingProxyType(
            {
                "minimum": minimum,
                "level": level,
                "threshold": threshold,
                "background": vocabulary.name,
                "resamples": resamples,
                "seed": seed,
            }
        ),
        database=database,
    )


def _verdicts(aligned: Mapping[str, Bool[np.ndarray, " k"]], count: int) -> Int8[np.ndarray, " k"]:
    """Return the verdicts; with a side that has no concepts nothing is aligned."""
    return verdicts(*(aligned.get(kind, np.zeros(count, bool)) for kind in SIDES))


def _redrawn(
    database: Database,
    rows: Int64[np.ndarray, " k"],
    sides: Mapping[str, ConceptAlignment],
    resamples: int,
    seed: int,
) -> Int8[np.ndarray, "b k"]:
    """Return the verdicts that other examples of the same components would have given."""
    if database.manifest.recipe.aggregate == "median":
        resamples = 0  # its draws do not follow from sums
    vectors = [side.probe.vectors for side in sides.values()]
    null = next(iter(sides.values())).probe.null
    vectors += [null[None]] if null is not None else []
    redrawn = np.zeros((resamples, len(rows)), np.int8)
    if resamples == 0:
        return redrawn
    resampled = BootstrapCosines(database, rows, np.concatenate(vectors))
    rng = np.random.default_rng(seed)
    for place in range(resamples):
        report("redrawing examples", place + 1, resamples)
        cosines = resampled.draw(rng)
        if null is not None:
            cosines = cosines[:, :-1] - cosines[:, -1:]
        aligned: dict[str, np.ndarray] = {}
        for kind, side in sides.items():
            part, cosines = np.split(cosines, [len(side.concepts)], axis=1)
            aligned[kind] = np.any(part > side.threshold, axis=1)
        redrawn[place] = _verdicts(aligned, len(rows))
    return redrawn


def _frame(
    database: Database,
    relevant: pd.DataFrame,
    sides: Mapping[str, ConceptAlignment],
    verdict: Int8[np.ndarray, " k"],
    redrawn: Int8[np.ndarray, "b k"],
) -> pd.DataFrame:
    """Return one row per relevant component, most relevant first."""
    rows = relevant["component"].to_numpy(np.int64)
    frame = pd.DataFrame(
        {
            "component": database.names(rows),
            "layer": relevant["layer"],
            "mean": relevant["mean"],
            "max": relevant["max"],
            "verdict": np.array(VERDICTS, dtype=object)[verdict],
        }
    )
    frame["certainty"] = (redrawn == verdict).mean(0) if len(redrawn) else np.nan
    for kind in SIDES:
        frame[f"{kind}_concept"] = None
        frame[kind] = frame[f"{kind}_threshold"] = np.nan
    for kind, side in sides.items():
        names = np.array([c.name for c in side.concepts.concepts], dtype=object)
        frame[f"{kind}_concept"] = names[side.best]
        frame[kind] = side.at_best(side.alignment)
        frame[f"{kind}_threshold"] = side.at_best(side.threshold)
    frame["row"] = rows
    return frame


def _chance(
    weights: ComponentWeights, sides: Mapping[str, ConceptAlignment], seed: int
) -> pd.DataFrame:
    """Compare what each side claims with what random concept sets of its size claim.

    What both sides claim counts for each: that valid concepts fit as well does not acquit.
    """
    tables: list[pd.DataFrame] = []
    for kind, side in sides.items():
        claimed = side.aligned @ weights.relevance
        random = random_shares(side.nulls, weights.relevance, DRAWS, seed)
        # as in a permutation test, the finding itself is one of the draws
        p = (1 + (random >= claimed - 1e-12).sum(0)) / (1 + DRAWS)
        expected = [layer.mean() for layer in random.T]
        sided = {"side": kind, "layer": weights.labels, "share": claimed, "expected": expected}
        tables.append(pd.DataFrame({**sided, "p_value": p}))
    return pd.concat(tables, ignore_index=True)


def _summary(weights: ComponentWeights, sides: Mapping[str, ConceptAlignment]) -> pd.DataFrame:
    """Return for each concept how many components align with it best, and their relevance."""
    tables: list[pd.DataFrame] = []
    for kind, side in sides.items():
        named = side.concepts.concepts
        best, part = side.best[side.aligned], weights.relevance[side.aligned, -1]
        tables.append(
            pd.DataFrame(
                {
                    "concept": [c.name for c in named],
                    "kind": kind,
                    "category": [c.category for c in named],
                    "components": np.bincount(best, minlength=len(named)),
                    "relevance": np.bincount(best, part, minlength=len(named)),
                }
            )
        )
    return pd.concat(tables).sort_values(
        ["relevance", "components"], ascending=False, kind="stable", ignore_index=True
    )
