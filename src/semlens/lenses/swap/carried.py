"""Which components carry what a class gains: the gain is measured again without each of them.

A component may respond to a part of an image without mattering to the class, and the words that
describe its examples say nothing about either. What its removal takes from the gain does (paper,
4.3.3, for one class and one sign).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from scipy.stats import ttest_1samp
from torch import Tensor

from semlens.lenses.swap.pairs import Pairs
from semlens.lenses.swap.parts import Transfer, model_inputs
from semlens.models.ablation import pruned
from semlens.models.forward import run_output
from semlens.models.hooks import evaluating
from semlens.progress import report_progress
from semlens.store.reader import Database
from semlens.types import Component

LEAST = 0.05
"""Share of the gain that a component carries at least, to be named."""
ALPHA = 0.05
"""Family-wise error rate, over the components that are tried."""
PAIRS = 64
"""Images of other classes, at most: each is run twice for each component."""


@dataclass(frozen=True, eq=False)
class Carried:
    """What n components carry of a class's gain.

    Parameters
    ----------
    share
        The gain that is lost without the component, as a share of the gain; shares of components
        that act together need not sum to 1.
    p_value
        That nothing is lost: one-sided, over the images that the parts come from, times the number
        of components (Bonferroni).
    """

    share: Float64[np.ndarray, " n"]
    p_value: Float64[np.ndarray, " n"]

    @property
    def named(self) -> np.ndarray:
        """Whether each component carries the gain."""
        return (self.share >= LEAST) & (self.p_value < ALPHA)


def carried_gain(
    database: Database,
    pairs: Pairs,
    transfer: Transfer,
    components: Sequence[Component],
    batch_size: int,
) -> Carried:
    """Measure a class's gain without each component, set to zero at all positions."""
    pairs = pairs.first(PAIRS)
    changed = _changed(database, pairs, transfer, batch_size)
    _, donor = np.unique(pairs.donors, return_inverse=True)
    images = np.bincount(donor)
    gains = np.bincount(donor, _gains(database, changed, pairs.target)) / images
    mean, losses = gains.mean(), []
    for done, component in enumerate(components):
        report_progress("measuring without components", done, len(components))
        with pruned(database.model, [component]):
            without = _gains(database, changed, pairs.target)
        losses.append(gains - np.bincount(donor, without) / images)
    report_progress("measuring without components", len(components), len(components))
    lost = np.array(losses).reshape(len(components), len(gains))
    varies = lost.std(1) > 1e-9 * max(abs(mean), 1e-12)
    p_value = np.where(lost.mean(1) > 0, 0.0, 1.0)  # where all images lose the same
    for i in np.flatnonzero(varies):
        p_value[i] = ttest_1samp(lost[i], 0, alternative="greater")[1]
    share = lost.mean(1) / mean if mean > 0 else np.zeros(len(components))
    return Carried(share, np.minimum(p_value * len(components), 1))


Batch = tuple[Tensor, Tensor]
"""Images with the class's own part, and with that of a third class."""


def _changed(database: Database, pairs: Pairs, transfer: Transfer, batch_size: int) -> list[Batch]:
    changed: list[Batch] = []
    for start in range(0, len(pairs.receivers), batch_size):
        part = slice(start, start + batch_size)
        receivers, donors, third = (
            model_inputs(database, samples[part])
            for samples in (pairs.receivers, pairs.donors, pairs.third)
        )
        changed.append((transfer(receivers, donors, part), transfer(receivers, third, part)))
    return changed


def _gains(
    database: Database, changed: Sequence[Batch], target: int
) -> Float64[np.ndarray, " pairs"]:
    """Return how much higher the class's logit is with its own part, pair by pair."""
    gains: list[np.ndarray] = []
    with evaluating(database.model.module), torch.no_grad():
        for own, third in changed:
            scores = [run_output(database.model, one).scores[:, target] for one in (own, third)]
            own_score, third_score = (one.cpu().double().numpy() for one in scores)
            gains.append(own_score - third_score)
    return np.concatenate(gains)
