"""Concept activation vectors: the direction in a layer that tells an artefact's samples apart.

A linear support vector machine on the readouts of samples with the artefact and without it
(Kim et al. 2018; Reveal2Revise, as in the paper, F.2.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from scipy.stats import rankdata
from torch import Tensor

from semlens.analysis.auroc import auroc
from semlens.errors import DataError, RelevanceError
from semlens.models.forward import readouts
from semlens.relevance.heatmap_boxes import upsample_and_blur
from semlens.relevance.protocols import ForwardTrace, RelevanceEngine
from semlens.relevance.relevance_signal import RelevanceSignal
from semlens.store.reader import Database
from semlens.types import Component, Readout

STRENGTH = 0.01
"""C of the support vector machine, on standardised readouts: few samples, many channels."""
OTHERS = 10
"""Negatives for each positive."""
LEAST = 3
"""Positives without which there is nothing to learn from."""
FOLDS = 5
"""Of the cross-validation."""


@dataclass(frozen=True, eq=False, repr=False)
class ConceptActivationVector:
    """A direction in the readouts of a layer.

    Parameters
    ----------
    direction
        float64[c], of length 1.
    positives, negatives
        Numbers of the samples that it was learned from.
    score
        float64[p], dot product of each positive's readouts and the direction.
    separation
        AUROC of positives against negatives on samples that were left out of the learning
        (5 folds): 0.5 says that the layer does not tell them apart.
    """

    layer: str
    direction: Float64[np.ndarray, " c"]
    positives: Int64[np.ndarray, " p"]
    negatives: Int64[np.ndarray, " n"]
    score: Float64[np.ndarray, " p"]
    separation: float


def concept_vector(
    database: Database,
    components: Sequence[Component],
    layer: str,
    *,
    positives: Sequence[int] | None = None,
    negatives: Sequence[int] | None = None,
    seed: int = 0,
) -> ConceptActivationVector:
    """Learn the direction of what some components have in common.

    Parameters
    ----------
    components
        Those of the artefact.
    positives
        Samples that show it; by default the components' concept examples.
    negatives
        Samples that do not; by default, ten for each positive. The class that most positives
        are of comes first: of its other samples, the half in which the components are
        weakest, for a class may carry the artefact nearly everywhere. The rest is drawn from
        the other classes.
    seed
        Of the draw, and of the folds.

    Raises
    ------
    LayerError
        If the database does not have a layer or component.
    DataError
        If there are too few samples to learn from.
    """
    rows = database.rows_of(components)
    name = database.layer(layer).name
    draw = np.random.default_rng(seed)
    shown = _given(database, positives)
    if shown is None:
        found = {example.sample for row in rows for example in database.examples_of(row)}
        shown = np.array(sorted(found), np.int64)
    _enough(len(shown), "samples that show the artefact", "Name more components.")
    own, others = _candidates(database, shown, draw)
    chosen = _given(database, negatives)
    samples = np.concatenate([shown, np.concatenate([own, others]) if chosen is None else chosen])
    if len(set(samples.tolist())) < len(samples):
        raise DataError(
            "A sample is named both as showing the artefact and as not showing it.",
            "Expected each in one of the two.",
            "Take it out of one.",
        )
    names = list(dict.fromkeys([name, *(component.layer for component in components)]))
    values = readouts(
        database.model, database.images.read, samples.tolist(), names,
        database.manifest.recipe.readout,
    )  # fmt: skip
    if chosen is None:
        keep = np.ones(len(samples), bool)
        mine = slice(len(shown), len(shown) + len(own))
        keep[mine] = _weakest(values, components, mine)
        samples, values = samples[keep], {layer: part[keep] for layer, part in values.items()}
    _enough(len(samples) - len(shown), "samples without it", "Use a database of more images.")
    readings = values[name].astype(np.float64)
    has = np.arange(len(samples)) < len(shown)
    direction = _fit(readings, has)
    return ConceptActivationVector(
        name,
        direction,
        samples[has],
        samples[~has],
        readings[has] @ direction,
        _separation(readings, has, seed),
    )


def _given(database: Database, samples: Sequence[int] | None) -> Int64[np.ndarray, " n"] | None:
    """Check samples that were named."""
    if samples is None:
        return None
    found = np.array(sorted(set(samples)), np.int64)
    if len(found) and (found[0] < 0 or found[-1] >= len(database.samples)):
        raise DataError(
            f"There is no sample {found[-1] if found[0] >= 0 else found[0]}.",
            f"Expected numbers from 0 to {len(database.samples) - 1}.",
            "They are the row numbers of db.samples.",
        )
    return found


def _enough(count: int, what: str, remedy: str) -> None:
    if count < LEAST:
        raise DataError(
            f"There are {count} {what}.", f"Expected at least {LEAST} to learn from.", remedy
        )


def _candidates(
    database: Database, shown: Int64[np.ndarray, " p"], draw: np.random.Generator
) -> tuple[Int64[np.ndarray, " a"], Int64[np.ndarray, " b"]]:
    """Draw readable samples besides the positives: of their main class, and of the others."""
    table = database.samples
    free = table["error"].isna().to_numpy().copy()
    free[shown] = False
    commonest = table["target"].iloc[shown].mode()[:1]  # the first by name of those as common
    main = table["target"].isin(commonest).to_numpy()
    own = draw.permutation(np.flatnonzero(free & main))[: 2 * len(shown)]
    wanted = OTHERS * len(shown) - len(own) // 2  # half of the main class's will be kept
    others = draw.permutation(np.flatnonzero(free & ~main))[:wanted]
    return own.astype(np.int64), others.astype(np.int64)


def _weakest(
    values: dict[str, np.ndarray], components: Sequence[Component], part: slice
) -> np.ndarray:
    """Say which half of some samples the components are weakest in, by their mean rank."""
    readings = np.stack([c.sign * values[c.layer][part, c.index] for c in components])
    rank = rankdata(readings, "ordinal", axis=1).sum(0)
    return rankdata(rank, "ordinal") <= len(rank) // 2


def standardised(
    values: np.ndarray,
) -> tuple[Float64[np.ndarray, "n c"], Float64[np.ndarray, " c"]]:
    """Return columns with mean 0 and deviation 1, and the deviations; a constant one is 0."""
    values = values.astype(np.float64)
    spread = values.std(0)
    spread[spread <= 1e-12 * np.abs(values).max()] = 0
    alive = spread > 0
    return np.where(alive, (values - values.mean(0)) / np.where(alive, spread, 1), 0), spread


def fitted(
    features: Float64[np.ndarray, "n c"], has: Bool[np.ndarray, " n"], strength: float
) -> tuple[Float64[np.ndarray, " c"], float]:
    """Fit a linear support vector machine; return its normal and intercept."""
    from sklearn.svm import LinearSVC

    machine: Any = LinearSVC(C=strength, class_weight="balanced", random_state=0, max_iter=20000)
    machine.fit(features, has)
    return machine.coef_[0], float(machine.intercept_[0])


def _fit(readings: Float64[np.ndarray, "n c"], has: np.ndarray) -> Float64[np.ndarray, " c"]:
    """Fit the machine on standardised readouts; return its normal in the layer's own units."""
    scaled, spread = standardised(readings)
    if not spread.any():
        raise DataError(
            "The readouts of all samples are the same.",
            "Expected a layer that tells samples apart.",
            "Choose another layer.",
        )
    direction = fitted(scaled, has, STRENGTH)[0] / np.where(spread > 0, spread, 1)
    return direction / np.linalg.norm(direction)


def _separation(readings: Float64[np.ndarray, "n c"], has: np.ndarray, seed: int) -> float:
    """Return the AUROC on samples left out, fold by fold, averaged."""
    from sklearn.model_selection import StratifiedKFold

    folds = min(FOLDS, int(has.sum()), int((~has).sum()))
    found: list[float] = []
    for learn, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(readings, has):
        told = readings[test] @ _fit(readings[learn], has[learn])
        found.append(float(auroc(told[has[test], None], told[~has[test], None])[0]))
    return float(np.mean(found))


BLUR = 41 / 224
"""Width of the Gaussian kernel as a share of the input (paper, F.2.3: 41 at 224 pixels)."""
POWER = 0.6
"""To which the blurred relevance is taken, so that low values count more."""


def cav_seed(
    trace: ForwardTrace, vector: ConceptActivationVector, readout: Readout
) -> RelevanceSignal:
    """Start with the dot product of latent activations and direction.

    At every position of a map or row of tokens a channel's relevance is its activation times its
    part of the direction. If the readout is the class token's, only that token has a part.
    """
    value = trace.values[vector.layer].detach()
    weight = torch.from_numpy(vector.direction).to(value)
    form = trace.layout(vector.layer)
    if form.form == "map":
        weight = weight[:, None, None]
    values = weight.expand(1, *value.shape).clone()
    if form.form == "tokens" and readout == "cls":
        values[:, :, 1:] = 0
    return RelevanceSignal(values)


def cav_heatmap(
    engine: RelevanceEngine,
    inputs: Float[Tensor, "u 3 h w"],
    vector: ConceptActivationVector,
    readout: Readout,
) -> Float32[Tensor, "u h w"]:
    """Return the relevance of a concept vector by input pixel, summed over colours."""
    trace = engine.trace(inputs, [vector.layer])
    heat = trace.backward({vector.layer: cav_seed(trace, vector, readout)}).heatmaps
    if heat is None:
        raise RelevanceError(
            f"No relevance of layer '{vector.layer}' reaches the image.",
            "Expected a layer that depends on the pixels.",
            "Choose another layer.",
        )
    return heat[0].detach().float().cpu()


def soft_masks(heat: Float32[Tensor, "u h w"]) -> Float32[Tensor, "u h w"]:
    """Blur the positive part, take it to the power 0.6, and divide by each map's maximum.

    A map without a positive value stays zero.
    """
    smooth = upsample_and_blur(heat, heat.shape[1], heat.shape[2], BLUR).clamp(min=0) ** POWER
    largest = smooth.amax((1, 2), keepdim=True)
    return smooth / torch.where(largest > 0, largest, 1)
