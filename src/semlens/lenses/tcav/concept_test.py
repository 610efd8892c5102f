"""Concept activation vectors of a concept, and how they compare with those of random concepts.

Kim et al. 2018 fit a concept's vector many times, each against another set of random images, and
compare its scores with those of random concepts by a t-test. These fits share the concept's
images, so they are not independent: an arbitrary set of images is "significant" most of the time.
Here the mean over the fits is a single statistic, and its null distribution is that of random
concepts of the same size, each with the same fits (a permutation test).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from semlens.lenses.correct.cav import fit_boundary
from semlens.lenses.statistics.permutation import permutation_p

FOLDS = 5
"""Each fit leaves out a fifth of the concept's images, and of the random ones, as a test set."""


@dataclass(frozen=True, eq=False)
class ConceptVectors:
    """Concept activation vectors of one concept at one layer.

    Parameters
    ----------
    directions
        float64[r c], unit length, each fitted against other random images.
    distances
        float64[r], how far the concept's images are from random images along each direction: the
        difference of means, on the images that each fit left out.
    accuracy
        Mean accuracy on the images that each fit left out; 0.5 is chance.
    """

    directions: Float64[np.ndarray, "r c"]
    distances: Float64[np.ndarray, " r"]
    accuracy: float

    @property
    def mean(self) -> Float64[np.ndarray, " c"]:
        """Unit vector of the mean direction."""
        total = self.directions.mean(0)
        return total / np.linalg.norm(total)


def fit_vectors(
    readings: Float64[np.ndarray, "n c"],
    concept: Int64[np.ndarray, " m"],
    others: Int64[np.ndarray, " k"],
    counters: int,
    generator: np.random.Generator,
) -> ConceptVectors:
    """Fit a concept against random counter sets of the same size.

    Parameters
    ----------
    readings
        Readouts of a layer.
    concept, others
        Rows of the concept's images, and of those that counter sets are drawn from; at least as
        many.
    counters
        Number of counter sets.
    """
    order = generator.permutation(concept)
    directions: list[np.ndarray] = []
    distances: list[float] = []
    accuracies: list[float] = []
    for number in range(counters):
        counter = generator.choice(others, len(order), replace=False)
        left_out = np.arange(len(order)) % FOLDS == number % FOLDS
        kept = readings[np.concatenate([order[~left_out], counter[~left_out]])]
        direction, threshold = fit_boundary(kept, np.arange(len(kept)) < len(kept) // 2)
        directions.append(direction)
        own, other = (readings[rows[left_out]] @ direction for rows in (order, counter))
        distances.append(float(own.mean() - other.mean()))
        accuracies.append(float(np.mean([own > threshold, other <= threshold])))
    return ConceptVectors(np.stack(directions), np.array(distances), float(np.mean(accuracies)))


@dataclass(frozen=True, eq=False)
class Sensitivities:
    """Sensitivities of one class's logit to concept vectors, over its images.

    Scores are compared first. Among equal scores, such as the score 1 of many random concepts at
    a layer whose gradient hardly depends on the image, the effect decides.

    Parameters
    ----------
    score
        TCAV score: share of positive directional derivatives (Kim et al. 2018, Eq. 2), averaged
        over vectors.
    effect
        Mean of derivative times distance: by how much the logit rises, to first order, on the way
        along the vector from random images to the concept's.
    """

    score: float
    effect: float

    @classmethod
    def of(cls, gradients: Float[np.ndarray, "n c"], vectors: ConceptVectors) -> Sensitivities:
        """Return the sensitivities to a concept."""
        derivatives = gradients @ vectors.directions.T
        effect = float((derivatives * vectors.distances).mean())
        return cls(float((derivatives > 0).mean()), effect)

    def compare(self, other: Sensitivities) -> int:
        """Return 1, 0 or -1, as this one is above, equal to or below another one."""
        mine, its = (self.score, self.effect), (other.score, other.effect)
        return int(mine > its) - int(mine < its)


@dataclass(frozen=True, eq=False)
class ConceptTest:
    """A concept at a layer, and random concepts in its place.

    Parameters
    ----------
    sensitivities
        By class.
    random
        By class, those of each random concept.
    random_accuracies
        Accuracy of the vectors of each random concept.
    """

    vectors: ConceptVectors
    sensitivities: Sequence[Sensitivities]
    random: Sequence[Sequence[Sensitivities]]
    random_accuracies: Float64[np.ndarray, " b"]

    def p_value(self, index: int) -> float:
        """Return the two-sided p-value of a class's score: twice that of the nearer tail."""
        compared = np.array([one.compare(self.sensitivities[index]) for one in self.random[index]])
        return min(1.0, 2 * min(_p(compared >= 0), _p(compared <= 0)))

    @property
    def accuracy_p_value(self) -> float:
        """How often random images are separated from others as well as the concept's."""
        return _p(self.random_accuracies >= self.vectors.accuracy - 1e-12)


def _p(reached: np.ndarray) -> float:
    return permutation_p(np.count_nonzero(reached), len(reached))


def concept_test(
    readings: Float64[np.ndarray, "n c"],
    images: int,
    gradients: Sequence[Float[np.ndarray, "_ c"]],
    *,
    counters: int,
    draws: int,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> ConceptTest:
    """Fit a concept and random concepts of the same size, and compare their sensitivities.

    Random concepts are drawn from all images, those of the concept included; their counter sets
    are drawn from the rest. If the concept's images are random images, it cannot be told from a
    random concept, so p-values at most ``a`` occur with probability at most ``a``, for any number
    of images, draws and counter sets.

    Parameters
    ----------
    readings
        Readouts of the concept's images, and then of the random images.
    images
        Number of the concept's images.
    gradients
        By class, the derivative of its logit by a layer's readouts on each of its images.
    counters
        Fits per concept.
    draws
        Random concepts; the smallest p-value is ``2 / (draws + 1)``.
    """
    generator = np.random.default_rng(seed)
    rows = np.arange(len(readings))
    vectors = fit_vectors(readings, rows[:images], rows[images:], counters, generator)
    random: list[list[Sensitivities]] = [[] for _ in gradients]
    accuracies: list[float] = []
    for number in range(draws):
        shuffled = generator.permutation(rows)
        drawn = fit_vectors(readings, shuffled[:images], shuffled[images:], counters, generator)
        accuracies.append(drawn.accuracy)
        for values, of_class in zip(random, gradients, strict=True):
            values.append(Sensitivities.of(of_class, drawn))
        progress(number + 1)
    own = [Sensitivities.of(of_class, vectors) for of_class in gradients]
    return ConceptTest(vectors, own, random, np.array(accuracies))
