"""From what a pass has found to the components of a database and their examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from semlens.mergeable.statistics import Block, TopExamples
from semlens.models.activations import LayerForm
from semlens.stages.collect import Collected
from semlens.types import Signs


@dataclass(frozen=True)
class LayerExamples:
    """The components of one layer with their examples; C rows, m slots.

    Parameters
    ----------
    index, sign
        int32[C] and int8[C]: who each row is.
    top
        Examples; ``top.activation`` is in the direction of the sign.
    used
        bool[C m]: slots that speak for the component. In a layer that never goes
        negative a readout of zero means that the component was silent on the sample.
    """

    form: LayerForm
    block: Block
    index: np.ndarray
    sign: np.ndarray
    top: TopExamples
    used: torch.Tensor
    lowest: float | None

    @property
    def activation(self) -> torch.Tensor:
        """Raw readouts f32[C m]; NaN in empty slots."""
        raw = self.top.activation * torch.from_numpy(self.sign)[:, None]
        return torch.where(self.top.filled, raw, torch.nan)


def select(collected: Collected, form: LayerForm, signs: Signs) -> LayerExamples:
    """Choose the signs of a layer's components (paper, B.1).

    With ``auto`` a layer whose activations were anywhere below zero gets both signs.
    """
    block = collected.moments[form.name].total()
    top = collected.top[form.name]
    channels = form.components
    lowest = -float(block.peak[1].max())
    seen = np.isfinite(lowest)
    both = signs == "both" or (signs == "auto" and seen and lowest < 0)
    rows = torch.zeros(2 * channels, dtype=torch.bool)
    rows[: (2 if both else 1) * channels] = True
    chosen = top.rows(rows)
    silent = (chosen.activation <= 0) if seen and lowest >= 0 else torch.zeros(1, dtype=torch.bool)
    repeat = 2 if both else 1
    return LayerExamples(
        form,
        block,
        np.tile(np.arange(channels, dtype=np.int32), repeat),
        np.repeat(np.array([1, -1], np.int8)[:repeat], channels),
        chosen,
        chosen.filled & ~silent,
        lowest if seen else None,
    )
