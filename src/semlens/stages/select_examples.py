"""Index: from what a pass has found to components, their examples and one theta each (Eq. 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float16, Float32, Float64, Int32, Int64, UInt8
from torch import Tensor

from semlens.models.activations import LayerLayout
from semlens.stages.collect import Collected
from semlens.store.schema import COMPONENTS, EXAMPLES
from semlens.streaming.statistics import ReadoutBlock, TopExamples
from semlens.types import Aggregate, Signs


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

    form: LayerLayout
    block: ReadoutBlock
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


def select(collected: Collected, form: LayerLayout, signs: Signs) -> LayerExamples:
    """Choose the signs of a layer's components (paper, B.1).

    With ``auto`` a layer whose activations were anywhere below zero gets both signs.
    """
    block = collected.moments[form.name].total()
    top = collected.top[form.name]
    channels = form.components
    lowest = -float(block.peak[1].max())
    seen = np.isfinite(lowest)
    repeat = 2 if signs == "both" or (signs == "auto" and seen and lowest < 0) else 1
    chosen = top.rows(torch.arange(2 * channels) < repeat * channels)
    speaks = (chosen.activation > 0) if seen and lowest >= 0 else torch.tensor(True)
    return LayerExamples(
        form,
        block,
        np.tile(np.arange(channels, dtype=np.int32), repeat),
        np.repeat(np.array([1, -1], np.int8)[:repeat], channels),
        chosen,
        chosen.filled & speaks,
        lowest if seen else None,
    )


def theta(
    vectors: Float16[Tensor, "u d"],
    crop: Int64[Tensor, "c m"],
    used: Bool[Tensor, "c m"],
    strength: Float32[Tensor, "c m"],
    aggregate: Aggregate,
    chunk: int = 1024,
) -> Float16[Tensor, "c d"]:
    """Join the unit vectors of each component's examples.

    ``mean`` is the paper's Eq. 2; ``median`` and ``weighted`` (see :func:`example_weights`)
    are what it leaves to future work. The result is not normalised again; a component
    without examples gets zeros.

    Parameters
    ----------
    strength
        Readouts in the direction of the component's sign.
    """
    dim = vectors.shape[1]
    out = torch.zeros(len(crop), dim, dtype=torch.float16)
    for start in range(0, len(crop), chunk):
        rows = slice(start, start + chunk)
        mask = used[rows]
        if vectors.shape[0] == 0 or not mask.any():
            continue
        picked = vectors[torch.where(mask, crop[rows], 0)].float()
        if aggregate == "median":
            picked = torch.where(mask[..., None], picked, torch.nan)
            joined = torch.from_numpy(_nanmedian(picked.numpy()))
        else:
            weight = example_weights(mask, strength[rows] if aggregate == "weighted" else None)
            joined = torch.einsum("cm,cmd->cd", weight.float(), picked)
        out[rows] = joined.to(torch.float16)
    return out


def example_weights(
    used: Bool[Tensor, "c m"], strength: Float32[Tensor, "c m"] | None
) -> Float64[Tensor, "c m"]:
    """Weights of each component's examples, with sum 1; zeros where it has none.

    Equal without ``strength``. With it they are proportional to the readout in the direction
    of the sign; where the weakest used one is below zero, to what lies above that one. So a
    weight never rises as the readout falls. Where nothing lies above (all readouts are equal
    and not positive) the weights are equal.
    """
    weight = equal = used.double()
    if strength is not None:
        value = torch.where(used, strength.double(), torch.inf)
        lowest = value.amin(1, keepdim=True).clamp(max=0)
        weight = torch.where(used, value - lowest, 0)
        weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, equal)
    return weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def _nanmedian(values: np.ndarray) -> np.ndarray:
    """Median over axis 1 of [c m d]; zeros where a row holds nothing."""
    empty = np.isnan(values[:, :, 0]).all(axis=1, keepdims=True)
    filled = np.where(np.expand_dims(empty, 2), 0.0, values)
    return np.nanmedian(filled, axis=1).astype(np.float32)


def components_table(layer: LayerExamples) -> pa.Table:
    """Rows of ``components.parquet``: identity and statistics of the raw readout."""
    block, index = layer.block, layer.index
    count = block.count.numpy()[index]
    fired = block.fired.numpy()[(layer.sign < 0).astype(int), index]
    return pa.table(
        {
            "layer": [layer.form.name] * len(index),
            "index": index,
            "sign": layer.sign,
            "samples": count,
            "mean": block.mean.numpy()[index],
            "std": np.sqrt(block.m2.numpy()[index] / np.maximum(count, 1)),
            "minimum": block.minimum.numpy()[index],
            "maximum": block.maximum.numpy()[index],
            "firing_rate": fired / np.maximum(count, 1),
            "examples": layer.used.sum(1).numpy(),
        },
        schema=COMPONENTS,
    )


def examples_table(
    layer: LayerExamples,
    first: int,
    box: Int32[Tensor, "c m 4"],
    crop: Int64[Tensor, "c m"],
    mask: UInt8[Tensor, "c m bytes"],
) -> pa.Table:
    """Rows of ``examples/LAYER.parquet``, strongest first within each component.

    Parameters
    ----------
    first
        Row of the layer's first component in ``components.parquet``.
    box, crop, mask
        Box in original pixels, number of the crop's vector, and packed display mask over the
        box; meaningless where ``layer.used`` is false, and null in the table.
    """
    filled = layer.top.filled.numpy()
    row, rank = np.nonzero(filled)
    used = layer.used.numpy()[filled]
    flat = pa.array(box.numpy()[filled].reshape(-1), pa.int32())
    none = pa.array(~used)
    masks = zip(mask.numpy()[filled], used, strict=True)
    return pa.table(
        {
            "component": row + first,
            "rank": rank,
            "sample": layer.top.sample.numpy()[filled],
            "activation": layer.activation.numpy()[filled],
            "position": layer.top.position.numpy()[filled],
            "box": pa.FixedSizeListArray.from_arrays(flat, 4, mask=none),
            "crop": pa.array(crop.numpy()[filled], pa.int64(), mask=~used),
            "mask": [bits.tobytes() if ok else None for bits, ok in masks],
        },
        schema=EXAMPLES,
    )
