"""Index: from examples and crop vectors to one theta per component (paper, Eq. 2)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float16, Float32, Float64, Int32, Int64, UInt8
from torch import Tensor

from semlens.stages.select import LayerExamples
from semlens.store.schema import COMPONENTS, EXAMPLES
from semlens.types import Aggregate


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
    equal = used.double()
    weight = equal
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


def components_table(layers: list[LayerExamples]) -> pa.Table:
    """Rows of ``components.parquet``: identity and statistics of the raw readout."""
    parts: list[pa.Table] = []
    for layer in layers:
        block, index = layer.block, layer.index
        side = (layer.sign < 0).astype(int)
        count = block.count.numpy()
        std = np.sqrt(block.m2.numpy() / np.maximum(count, 1))
        fired = block.fired.numpy()[side, index] / np.maximum(count[index], 1)
        parts.append(
            pa.table(
                {
                    "layer": [layer.form.name] * len(index),
                    "index": index,
                    "sign": layer.sign,
                    "samples": count[index],
                    "mean": block.mean.numpy()[index],
                    "std": std[index],
                    "minimum": block.minimum.numpy()[index],
                    "maximum": block.maximum.numpy()[index],
                    "firing_rate": fired,
                    "examples": layer.used.sum(1).numpy(),
                },
                schema=COMPONENTS,
            )
        )
    return pa.concat_tables(parts)


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
