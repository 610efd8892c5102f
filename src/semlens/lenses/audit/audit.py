"""Audit of a class: whether it relies on valid or on spurious concepts (paper, 3.4 and 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int8, Int64

from semlens.lens import lens
from semlens.lenses.audit.audit_records import LEVEL, AuditSettings, Level, Seed, Threshold
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.audit.class_contrast import (
    ConceptContrasts,
    concept_contrasts,
    contrast_carriers,
)
from semlens.lenses.audit.concept_alignment import ConceptAlignment, align_concepts, split_sides
from semlens.lenses.audit.image_test import ImageTest, decide_on_images
from semlens.lenses.audit.random_concepts import (
    Theta,
    compare_with_random,
    make_background,
)
from semlens.lenses.audit.relevance_shares import (
    VERDICTS,
    BootstrapCosines,
    ComponentWeights,
    component_weights,
    share_table,
    verdict_codes,
)
from semlens.lenses.class_relevance import MINIMUM, Minimum, relevant_rows
from semlens.lenses.classes import class_name
from semlens.lenses.concepts import REMOTE_CONCEPTS, Concepts, ConceptSet, as_concepts
from semlens.lenses.resolve_concepts import (
    ClassConcepts,
    OwnTarget,
    class_and_concepts,
)
from semlens.progress import report_progress
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Layers

BACKGROUND = "paper-vocabulary"
"""Concept set that random concepts are drawn from."""
RESAMPLES = 200
"""Bootstrap draws."""
SIDES = ("valid", "spurious")
DRAWS = 1000
"""Random concept sets that the shares are compared with."""
Background = Annotated[
    Concepts, setting("Concept set that random concepts are drawn from."), REMOTE_CONCEPTS
]
Resamples = Annotated[int, setting("Bootstrap draws for the ranges of shares; 0 for none.", ge=0)]


@lens("embedder", group="Audit", command="")
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
    """Classify each relevant component of a class as valid, spurious, both or unexpected.

    Parameters
    ----------
    target
        Class; by default the one that the concept sets name.
    concepts
        What the class should (``valid``) and should not (``spurious``) rely on, in any form. Of
        several sets, those that name this class or no class are used. By default the lists of
        the class's saved audit, or the bundled sets for the class.
    layers
        Layers to audit; all by default. Shares are of each layer's own relevance.
    minimum
        A component is relevant if its share of its layer's relevance reaches this value on
        some sample.
    level
        A component is aligned with a side if its best alignment exceeds what the best of as
        many random concepts reaches with this probability. It is also the significance level of
        the alarm: the class relies on a spurious concept more than the other classes do, and what
        its components see shows it on other images (in a database with fewer than six classes:
        more than on random concepts).
    threshold
        A fixed alignment threshold instead (the paper uses 0): for both sides, or
        ``(valid, spurious)``, where None calibrates that side.
    background
        Source of random concepts; the paper's vocabulary by default.
    resamples
        Bootstrap draws over concept examples; 0 for no ranges.

    Raises
    ------
    ConceptError
        If both sides are empty, a concept is on both sides, no set applies to the class, or the
        background is too small.
    RelevanceError
        If the database has no relevance for the class, or no component reaches the minimum.
    EmbedderError
        If there are texts and the embedder has no text tower.

    Notes
    -----
    Source: paper, 3.4 (alignments and the four states) and F.1.1. Calibrated thresholds,
    ranges and the alarm are additions of semlens.
    """
    settings = AuditSettings.of(layers, minimum, level, threshold, seed)
    class_index, concept_set = class_and_concepts(database, target, concepts)
    return audit_class(database, class_index, concept_set, settings, background, resamples)


def audit_class(
    database: Database,
    target: int,
    concepts: ConceptSet,
    settings: AuditSettings,
    background: Concepts = BACKGROUND,
    resamples: int = RESAMPLES,
) -> Audit:
    """Audit a class with the concepts of one set; parameters and errors are those of `audit`."""
    layers, level, seed = settings.layers, settings.level, settings.seed
    concept_sides = split_sides(concepts)
    relevant = relevant_rows(database, target, layers, settings.minimum)
    rows = relevant["component"].to_numpy(np.int64)
    theta = Theta.load(database, rows)
    vocabulary = as_concepts(background)
    random_alignment = make_background(
        theta, database, target, vocabulary, concept_sides, level, seed
    )
    sides = {
        kind: align_concepts(theta, database, side, random_alignment, level, fixed)
        for kind, side, fixed in zip(SIDES, concept_sides, settings.threshold, strict=True)
        if len(side)
    }
    verdicts = _verdicts({kind: side.aligned for kind, side in sides.items()}, len(rows))
    weights = component_weights(relevant)
    resampled = _bootstrap_verdicts(database, rows, sides, resamples, seed)
    contrasts = (
        concept_contrasts(database, target, sides["spurious"].concepts, concept_sides[0], layers)
        if "spurious" in sides
        else None
    )
    return Audit(
        target=target,
        name=class_name(database, target),
        concepts=concepts,
        frame=_component_table(database, relevant, sides, verdicts, resampled),
        shares=share_table(weights, verdicts, resampled),
        chance=_null_comparison(weights, sides, seed),
        summary=_concept_table(weights, sides, contrasts),
        settings={
            "minimum": settings.minimum,
            "level": level,
            "threshold": settings.given_threshold,
            "background": vocabulary.name,
            "resamples": resamples,
            "seed": seed,
        },
        database=database,
        images=_on_images(database, target, sides, contrasts, settings),
    )


def _on_images(
    database: Database,
    target: int,
    sides: Mapping[str, ConceptAlignment],
    contrasts: ConceptContrasts | None,
    settings: AuditSettings,
) -> ImageTest | None:
    """Test the concept that the contrasts propose on images; None if they propose nothing."""
    if contrasts is None or contrasts.p_value.min() > settings.level:
        return None
    concept = sides["spurious"].concepts.concepts[int(contrasts.p_value.argmin())]
    valid = sides["valid"].concepts if "valid" in sides else None
    carriers = contrast_carriers(database, target, concept, valid, settings.layers)
    return decide_on_images(database, target, concept.name, carriers)


def _verdicts(aligned: Mapping[str, Bool[np.ndarray, " k"]], count: int) -> Int8[np.ndarray, " k"]:
    """Return the verdicts; nothing is aligned with a side that has no concepts."""
    return verdict_codes(*(aligned.get(kind, np.zeros(count, bool)) for kind in SIDES))


def _bootstrap_verdicts(
    database: Database,
    rows: Int64[np.ndarray, " k"],
    sides: Mapping[str, ConceptAlignment],
    resamples: int,
    seed: int,
) -> Int8[np.ndarray, "b k"]:
    """Return the verdicts of b bootstrap draws over each component's concept examples."""
    if database.manifest.recipe.aggregate == "median":
        resamples = 0  # a median cannot be resampled from sums
    vectors = [side.query.vectors for side in sides.values()]
    null = next(iter(sides.values())).query.null
    vectors += [null[None]] if null is not None else []
    verdicts = np.zeros((resamples, len(rows)), np.int8)
    if resamples == 0:
        return verdicts
    bootstrap = BootstrapCosines(database, rows, np.concatenate(vectors))
    rng = np.random.default_rng(seed)
    for draw in range(resamples):
        report_progress("resampling examples", draw + 1, resamples)
        cosines = bootstrap.draw(rng)
        if null is not None:
            cosines = cosines[:, :-1] - cosines[:, -1:]
        aligned: dict[str, np.ndarray] = {}
        for kind, side in sides.items():
            of_side, cosines = np.split(cosines, [len(side.concepts)], axis=1)
            aligned[kind] = np.any(of_side > side.threshold, axis=1)
        verdicts[draw] = _verdicts(aligned, len(rows))
    return verdicts


def _component_table(
    database: Database,
    relevant: pd.DataFrame,
    sides: Mapping[str, ConceptAlignment],
    verdicts: Int8[np.ndarray, " k"],
    resampled: Int8[np.ndarray, "b k"],
) -> pd.DataFrame:
    """Return one row per relevant component, most relevant first."""
    rows = relevant["component"].to_numpy(np.int64)
    frame = pd.DataFrame(
        {
            "component": database.names(rows),
            "layer": relevant["layer"],
            "mean": relevant["mean"],
            "max": relevant["max"],
            "verdict": np.array(VERDICTS, dtype=object)[verdicts],
        }
    )
    frame["certainty"] = (resampled == verdicts).mean(0) if len(resampled) else np.nan
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


def _null_comparison(
    weights: ComponentWeights, sides: Mapping[str, ConceptAlignment], seed: int
) -> pd.DataFrame:
    """Compare the relevance that each side claims with that of random sets of the same size.

    Components that match both sides count for each of them: a valid match is no excuse.
    """
    tables: list[pd.DataFrame] = []
    for kind, side in sides.items():
        comparison = compare_with_random(side.pools, weights.relevance, DRAWS, seed)
        tables.append(
            pd.DataFrame(
                {
                    "side": kind,
                    "layer": weights.labels,
                    "share": comparison.share,
                    "expected": comparison.expected,
                    "p_value": comparison.p_value,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _concept_table(
    weights: ComponentWeights,
    sides: Mapping[str, ConceptAlignment],
    contrasts: ConceptContrasts | None,
) -> pd.DataFrame:
    """Return, per concept, the components that align with it best, and its contrast."""
    tables: list[pd.DataFrame] = []
    for kind, side in sides.items():
        concepts = side.concepts.concepts
        best, relevance = side.best[side.aligned], weights.relevance[side.aligned, -1]
        table = pd.DataFrame(
            {
                "concept": [c.name for c in concepts],
                "kind": kind,
                "category": [c.category for c in concepts],
                "components": np.bincount(best, minlength=len(concepts)),
                "relevance": np.bincount(best, relevance, minlength=len(concepts)),
                "contrast": np.nan,
                "contrast_others": np.nan,
                "p_value": np.nan,
            }
        )
        if kind == "spurious" and contrasts is not None:
            table["contrast"] = contrasts.contrast
            table["contrast_others"] = contrasts.others.max(axis=0)
            table["p_value"] = contrasts.p_value
        tables.append(table)
    return pd.concat(tables).sort_values(
        ["relevance", "components"], ascending=False, kind="stable", ignore_index=True
    )
