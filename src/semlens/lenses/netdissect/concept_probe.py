"""A linear combination of a layer's components that segments a concept (Fong and Vedaldi 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from sklearn.linear_model import LogisticRegression


@dataclass(frozen=True, eq=False)
class ConceptProbe:
    """A fitted combination.

    Parameters
    ----------
    weights
        One per component, in units of its standard deviation: their magnitudes are comparable.
    direction
        The same in units of the activations.
    bias
        Added to the products with ``direction``.
    """

    weights: Float64[np.ndarray, " c"]
    direction: Float64[np.ndarray, " c"]
    bias: float

    def largest(self, count: int) -> Float64[np.ndarray, " c"]:
        """Return the direction with the weights of largest magnitude only, others being 0."""
        kept = np.argsort(-np.abs(self.weights), kind="stable")[:count]
        direction = np.zeros_like(self.direction)
        direction[kept] = self.direction[kept]
        return direction


def fit_probe(
    activations: Float64[np.ndarray, "n c"],
    inside: Float64[np.ndarray, " n"],
    labelled: Float64[np.ndarray, " n"],
    penalty: float,
) -> ConceptProbe:
    """Fit a logistic regression of positions, balanced as in the paper.

    Minimises the weighted mean of the cross-entropy plus ``penalty / 2 * |weights|^2``. A position
    that is partly covered by the concept is an example of both. As in the paper, what is inside of
    the concept has the weight ``alpha = 1 - share of the concept``, the rest ``1 - alpha``.

    Parameters
    ----------
    inside
        Share of each position that the concept covers.
    labelled
        Share that is labelled at all; at least ``inside``.
    penalty
        Strength of the penalty of large weights.
    """
    mean, spread = activations.mean(0), activations.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    alpha = 1 - inside.sum() / labelled.sum()
    weight = np.concatenate([alpha * inside, (1 - alpha) * (labelled - inside)])
    used = np.flatnonzero(weight)
    x = ((activations - mean) / spread)[used % len(inside)]
    model = LogisticRegression(C=1 / (penalty * weight.sum()), tol=1e-6, max_iter=1000)
    model.fit(x, used < len(inside), weight[used])
    weights = model.coef_[0]
    direction = weights / spread
    bias = float(np.ravel(model.intercept_)[0] - direction @ mean)
    return ConceptProbe(weights, direction, bias)
