"""A Gaussian mixture of relevance vectors, and how ordinary a vector is under it.

As in PCX (Dreyer et al. 2024, Section 3), the vectors of a class are described by a mixture. There
are fewer images of a class than a full covariance over all components needs, so the density is
that of the first principal axes and of the length of what they leave out, without which a
relevance vector off these axes would look ordinary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold

AXES = 8
"""Principal axes at most; at most one per :data:`PER_AXIS` images."""
PER_AXIS = 20
REGULARISATION = 1e-3
"""Added to the variances, in units of the variance of each feature over the class."""
STARTS = 3
"""Starts of expectation maximisation."""
FOLDS = 5


@dataclass(frozen=True, eq=False)
class RelevanceMixture:
    """A mixture fitted to relevance vectors.

    Parameters
    ----------
    axes
        The principal axes.
    mean, scale
        float64[d + 1], of the features over the vectors that it was fitted on.
    gaussians
        The mixture of the scaled features, with full covariances.
    bic
        Its Bayesian information criterion (Schwarz 1978); lower is better.
    """

    axes: PCA
    mean: Float64[np.ndarray, " f"]
    scale: Float64[np.ndarray, " f"]
    gaussians: GaussianMixture
    bic: float

    @classmethod
    def fit(
        cls, vectors: Float64[np.ndarray, "n k"], prototypes: int, seed: int = 0
    ) -> RelevanceMixture:
        """Fit a mixture of ``prototypes`` Gaussians."""
        count = max(1, min(AXES, len(vectors) // PER_AXIS, vectors.shape[1] - 1))
        axes = PCA(count, svd_solver="full").fit(vectors)
        features = _features(axes, vectors)
        mean, scale = features.mean(0), features.std(0)
        scale[scale <= 1e-12] = 1
        scaled = (features - mean) / scale
        gaussians = GaussianMixture(
            prototypes, reg_covar=REGULARISATION, n_init=STARTS, random_state=seed, max_iter=300
        ).fit(scaled)
        return cls(axes, mean, scale, gaussians, float(gaussians.bic(scaled)))

    def features(self, vectors: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, "n f"]:
        """Return the scaled features of vectors."""
        return (_features(self.axes, vectors) - self.mean) / self.scale

    def log_likelihood(self, vectors: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, " n"]:
        """Return the log-density of the features of each vector."""
        return self.gaussians.score_samples(self.features(vectors))

    def posterior(self, vectors: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, "n g"]:
        """Return the probability of each Gaussian for each vector."""
        return self.gaussians.predict_proba(self.features(vectors))


def _features(axes: PCA, vectors: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, "n f"]:
    """Return the coordinates on the axes, and the logarithm of the distance from them."""
    coordinates: Any = axes.transform(vectors)
    distance = np.linalg.norm(vectors - axes.inverse_transform(coordinates), axis=1)
    return np.column_stack([coordinates, np.log(np.maximum(distance, 1e-9))])


def choose_mixture(
    vectors: Float64[np.ndarray, "n k"], prototypes: int | None, most: int
) -> RelevanceMixture:
    """Fit a mixture of so many Gaussians, or of 1 to ``most`` by the smallest BIC."""
    if prototypes is not None:
        return RelevanceMixture.fit(vectors, prototypes)
    fits = [RelevanceMixture.fit(vectors, count) for count in range(1, most + 1)]
    return min(fits, key=lambda fit: fit.bic)


@dataclass(frozen=True, eq=False)
class OrdinaryVectors:
    """How likely the vectors of a class are under mixtures that were fitted without them.

    Under the mixture of the class, its own vectors are more likely than new ones of their kind,
    so that too many new ones would be called outliers.

    Parameters
    ----------
    fits
        One mixture per fold, fitted on the vectors outside of it.
    fold
        int64[n], fold of each vector.
    log_likelihood
        float64[n], that of each vector under the mixture of its fold.
    """

    fits: tuple[RelevanceMixture, ...]
    fold: Int64[np.ndarray, " n"]
    log_likelihood: Float64[np.ndarray, " n"]

    @classmethod
    def of(
        cls, vectors: Float64[np.ndarray, "n k"], prototypes: int, seed: int = 0
    ) -> OrdinaryVectors:
        """Fit mixtures of ``prototypes`` Gaussians on all folds but one."""
        fold, values = np.zeros(len(vectors), np.int64), np.zeros(len(vectors))
        fits: list[RelevanceMixture] = []
        split = KFold(FOLDS, shuffle=True, random_state=seed).split(vectors)
        for number, (kept, left_out) in enumerate(split):
            fits.append(RelevanceMixture.fit(vectors[kept], prototypes))
            fold[left_out], values[left_out] = number, fits[-1].log_likelihood(vectors[left_out])
        return cls(tuple(fits), fold, values)

    @property
    def percentiles(self) -> Float64[np.ndarray, " n"]:
        """Share of the class's vectors that are at most as likely as each of them."""
        ordered = np.sort(self.log_likelihood)
        return np.searchsorted(ordered, self.log_likelihood, "right") / len(ordered)

    def percentile(self, vectors: Float[np.ndarray, "m k"]) -> Float64[np.ndarray, " m"]:
        """Return the share of the class's vectors that are at most as likely as new ones.

        A new vector is compared with each fold's vectors under the mixture that was fitted
        without them, and counts as one of them (cross-conformal prediction, Vovk 2015).
        """
        below = np.ones(len(vectors))
        for number, fit in enumerate(self.fits):
            values = self.log_likelihood[self.fold == number]
            below += (values[None] <= fit.log_likelihood(vectors)[:, None]).sum(1)
        return below / (1 + len(self.fold))
