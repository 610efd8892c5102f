"""Concept activation vectors: the direction in a layer that separates samples with an artefact.

The normal of a linear support vector machine on the readouts of samples with and without the
artefact (Kim et al. 2018; Reveal2Revise, as in the paper, F.2.3).
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

from semlens.errors import DataError, RelevanceError
from semlens.lenses.classes import sample_numbers
from semlens.lenses.statistics.intervals import auroc
from semlens.models.forward import readouts
from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.heatmap_boxes import upsample_and_blur
from semlens.relevance.protocols import ForwardTrace, RelevanceEngine
from semlens.store.reader import Database
from semlens.types import Component, Readout

SVM_C = 0.01
"""C of the support vector machine, on standardised readouts: few samples, many channels."""
NEGATIVES_PER_POSITIVE = 10
MIN_SAMPLES = 3
"""Minimum number of positives, and of negatives."""
FOLDS = 5
"""Folds of the cross-validation."""


@dataclass(frozen=True, eq=False, repr=False)
class ConceptActivationVector:
    """A direction in the readouts of a layer.

    Parameters
    ----------
    direction
        float64[c], unit length.
    positives, negatives
        Numbers of the samples that it was fitted on.
    score
        float64[p], dot product of each positive's readouts and the direction.
    separation
        Cross-validated AUROC of positives against negatives (5 folds); 0.5 means that the layer
        does not separate them.
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
    """Fit the direction of what some components have in common.

    Parameters
    ----------
    components
        Components that respond to the artefact.
    positives
        Samples that show it; by default, the components' concept examples.
    negatives
        Samples that do not show it; by default, ten for each positive. They are drawn from the
        most frequent class of the positives first: of its other samples, only the half with the
        weakest readouts of the components, because nearly all samples of a class may carry the
        artefact. The remaining ones are drawn from the other classes.
    seed
        Seed for drawing samples and for the folds.

    Raises
    ------
    LayerError
        If the database does not have a layer or component.
    DataError
        If there are too few samples.
    """
    rows = database.rows_of(components)
    name = database.layer(layer).name
    if positives is None:
        examples = {example.sample for row in rows for example in database.examples_of(row)}
        shows = np.array(sorted(examples), np.int64)
    else:
        shows = _sample_numbers(database, positives)
    _check_enough(len(shows), "samples that show the artefact", "Give more components.")
    if negatives is None:
        same_class, other_classes = _candidates(database, shows, np.random.default_rng(seed))
        without = np.concatenate([same_class, other_classes])
    else:
        same_class, without = np.zeros(0, np.int64), _sample_numbers(database, negatives)
    samples = np.concatenate([shows, without])
    if len(set(samples.tolist())) < len(samples):
        raise DataError(
            "A sample is in both positives and negatives.",
            "Expected each sample in only one of them.",
            "Remove it from one.",
        )
    names = list(dict.fromkeys([name, *(component.layer for component in components)]))
    values = readouts(
        database.model, database.images.read, samples.tolist(), names,
        database.manifest.recipe.readout,
    )  # fmt: skip
    # of the negatives of the main class, only those in which the components are weakest
    keep = np.ones(len(samples), bool)
    main_class = slice(len(shows), len(shows) + len(same_class))
    keep[main_class] = _weakest(values, components, main_class)
    samples, readings = samples[keep], values[name][keep].astype(np.float64)
    _check_enough(
        len(samples) - len(shows),
        "samples without the artefact",
        "Build a database of more images." if negatives is None else "Give more negatives.",
    )
    positive = np.arange(len(samples)) < len(shows)
    direction, _ = fit_boundary(readings, positive)
    return ConceptActivationVector(
        name,
        direction,
        samples[positive],
        samples[~positive],
        readings[positive] @ direction,
        _separation(readings, positive, seed),
    )


def _sample_numbers(database: Database, samples: Sequence[int]) -> Int64[np.ndarray, " n"]:
    """Return sample numbers, sorted and each once, or raise a DataError."""
    numbers = np.array(sorted(set(sample_numbers(samples))), np.int64)
    if len(numbers) and (numbers[0] < 0 or numbers[-1] >= len(database.samples)):
        raise DataError(
            f"There is no sample {numbers[-1] if numbers[0] >= 0 else numbers[0]}.",
            f"Expected numbers from 0 to {len(database.samples) - 1}.",
            "Use row numbers of db.samples.",
        )
    return numbers


def _check_enough(count: int, kind: str, remedy: str) -> None:
    if count < MIN_SAMPLES:
        raise DataError(f"There are {count} {kind}.", f"Expected at least {MIN_SAMPLES}.", remedy)


def _candidates(
    database: Database, positives: Int64[np.ndarray, " p"], generator: np.random.Generator
) -> tuple[Int64[np.ndarray, " a"], Int64[np.ndarray, " b"]]:
    """Draw readable samples besides the positives: of their main class, and of other classes."""
    table = database.samples
    available = table["error"].isna().to_numpy().copy()
    available[positives] = False
    main_class = table["target"].iloc[positives].mode()[:1]  # of equally frequent ones, the first
    in_main = table["target"].isin(main_class).to_numpy()
    same_class = generator.permutation(np.flatnonzero(available & in_main))[: 2 * len(positives)]
    # only half of those of the main class will be used
    count = NEGATIVES_PER_POSITIVE * len(positives) - len(same_class) // 2
    other_classes = generator.permutation(np.flatnonzero(available & ~in_main))[:count]
    return same_class.astype(np.int64), other_classes.astype(np.int64)


def _weakest(
    values: dict[str, np.ndarray], components: Sequence[Component], candidates: slice
) -> np.ndarray:
    """Return a mask of the half of the candidates with the lowest mean rank of the components."""
    readings = np.stack([c.sign * values[c.layer][candidates, c.index] for c in components])
    rank = rankdata(readings, "ordinal", axis=1).sum(0)
    return rankdata(rank, "ordinal") <= len(rank) // 2


def standardise(
    values: np.ndarray,
) -> tuple[Float64[np.ndarray, "n c"], Float64[np.ndarray, " c"]]:
    """Scale columns to mean 0 and deviation 1; return them and the deviations.

    Constant columns become 0, with a deviation of 0.
    """
    values = values.astype(np.float64)
    deviation = values.std(0)
    deviation[deviation <= 1e-12 * np.abs(values).max()] = 0
    varies = deviation > 0
    return np.where(
        varies, (values - values.mean(0)) / np.where(varies, deviation, 1), 0
    ), deviation


def fit_linear_svm(
    features: Float64[np.ndarray, "n c"], positive: Bool[np.ndarray, " n"], svm_c: float
) -> tuple[Float64[np.ndarray, " c"], float]:
    """Fit a linear support vector machine; return the normal of its plane and the intercept."""
    from sklearn.svm import LinearSVC

    classifier: Any = LinearSVC(C=svm_c, class_weight="balanced", random_state=0, max_iter=20000)
    classifier.fit(features, positive)
    return classifier.coef_[0], float(classifier.intercept_[0])


def fit_boundary(
    readings: Float64[np.ndarray, "n c"], positive: Bool[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, " c"], float]:
    """Fit the plane between positives and negatives on standardised readouts.

    Returns
    -------
    tuple
        Its unit normal in the layer's original units, towards the positives, and the dot product
        with the normal above which readouts are on their side.

    Raises
    ------
    DataError
        If the readouts of all samples are the same.
    """
    scaled, deviation = standardise(readings)
    if not deviation.any():
        raise DataError(
            "The readouts of all samples are the same.",
            "Expected a layer whose readouts differ between samples.",
            "Choose another layer.",
        )
    coefficients, intercept = fit_linear_svm(scaled, positive, SVM_C)
    normal = coefficients / np.where(deviation > 0, deviation, 1)
    length = np.linalg.norm(normal)
    return normal / length, float((readings.mean(0) @ normal - intercept) / length)


def _separation(readings: Float64[np.ndarray, "n c"], positive: np.ndarray, seed: int) -> float:
    """Return the cross-validated AUROC, averaged over the folds."""
    from sklearn.model_selection import StratifiedKFold

    folds = min(FOLDS, int(positive.sum()), int((~positive).sum()))
    scores: list[float] = []
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(
        readings, positive
    ):
        projection = readings[test] @ fit_boundary(readings[train], positive[train])[0]
        scores.append(
            float(auroc(projection[positive[test], None], projection[~positive[test], None])[0])
        )
    return float(np.mean(scores))


BLUR = 41 / 224
"""Width of the Gaussian kernel as a fraction of the input (paper, F.2.3: 41 at 224 pixels)."""
POWER = 0.6
"""Exponent of the blurred relevance; below 1, low values count more."""


def cav_seed(
    trace: ForwardTrace, vector: ConceptActivationVector, readout: Readout
) -> BackwardSignal:
    """Return the initial relevance: the dot product of latent activations and direction.

    At every position of a map or token sequence, a channel's relevance is its activation times
    its entry of the direction. If the readout is that of the class token, only this token has
    relevance.
    """
    value = trace.values[vector.layer].detach()
    weight = torch.from_numpy(vector.direction).to(value)
    form = trace.layout(vector.layer)
    if form.form == "map":
        weight = weight[:, None, None]
    elif form.form == "sequence":
        weight = weight[:, None]
    values = weight.expand(1, *value.shape).clone()
    if readout == "cls":
        rest = (slice(None),) * 3 if form.form == "sequence" else (slice(None),) * 2
        values[(*rest, slice(1, None))] = 0
    return BackwardSignal(values)


def cav_heatmap(
    engine: RelevanceEngine,
    inputs: Float[Tensor, "u channels h w"],
    vector: ConceptActivationVector,
    readout: Readout,
) -> Float32[Tensor, "u h w"]:
    """Return the relevance of a concept vector by input pixel, summed over colour channels."""
    trace = engine.trace(inputs, [vector.layer])
    heat = trace.backward({vector.layer: cav_seed(trace, vector, readout)}).heatmaps
    if heat is None:
        raise RelevanceError(
            f"No relevance from layer '{vector.layer}' reaches the image.",
            "Expected a layer that depends on the pixels.",
            "Choose another layer.",
        )
    return heat[0].detach().cpu().float()


def soft_masks(heat: Float32[Tensor, "u h w"]) -> Float32[Tensor, "u h w"]:
    """Blur the positive part, raise it to the power 0.6, and divide by each map's maximum.

    A map without positive values stays zero.
    """
    smooth = upsample_and_blur(heat, heat.shape[1], heat.shape[2], BLUR).clamp(min=0) ** POWER
    largest = smooth.amax((1, 2), keepdim=True)
    return smooth / torch.where(largest > 0, largest, 1)
