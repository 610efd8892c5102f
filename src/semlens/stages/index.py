"""Index: from examples and crop vectors to one theta per component (paper, Eq. 2)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float16, Float32, Int32, Int64, UInt8
from torch import Tensor

from semlens.stages.select import LayerExamples
from semlens.types import Aggregate


def theta(
    vectors: Float16[Tensor, "u d"],
    crop: Int64[Tensor, "c m"],
    used: Bool[Tensor, "c m"],
    activation: Float32[Tensor, "c m"],
    aggregate: Aggregate,
    chunk: int = 1024,
) -> Float16[Tensor, "c d"]:
    """Join the unit vectors of each component's examples.

    ``mean`` is the paper's Eq. 2; ``median`` and ``weighted`` (by the size of the readout)
    are what it leaves to future work. The result is not normalised again; a component
    without examples gets zeros.
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
            weight = mask.float()
            if aggregate == "weighted":
                weight = weight * torch.where(mask, activation[rows], 0).abs()
            total = weight.sum(1, keepdim=True)
            weight = torch.where(total > 0, weight / total.clamp(min=1e-30), 0)
            joined = torch.einsum("cm,cmd->cd", weight, picked)
        out[rows] = joined.to(torch.float16)
    return out


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
                    "layer": pa.array([layer.form.name] * len(index), pa.string()),
                    "index": pa.array(index, pa.int32()),
                    "sign": pa.array(layer.sign, pa.int8()),
                    "samples": pa.array(count[index], pa.int64()),
                    "mean": pa.array(block.mean.numpy()[index], pa.float64()),
                    "std": pa.array(std[index], pa.float64()),
                    "minimum": pa.array(block.minimum.numpy()[index], pa.float32()),
                    "maximum": pa.array(block.maximum.numpy()[index], pa.float32()),
                    "firing_rate": pa.array(fired, pa.float64()),
                    "examples": pa.array(layer.used.sum(1).numpy(), pa.int32()),
                }
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
    boxes = box.numpy()[filled]
    flat = pa.array(boxes.reshape(-1), pa.int32())
    none = pa.array(~used)
    packed = mask.numpy()[filled]
    return pa.table(
        {
            "component": pa.array(row + first, pa.int32()),
            "rank": pa.array(rank, pa.int32()),
            "sample": pa.array(layer.top.sample.numpy()[filled], pa.int64()),
            "activation": pa.array(layer.activation.numpy()[filled], pa.float32()),
            "position": pa.array(layer.top.position.numpy()[filled], pa.int32()),
            "box": pa.FixedSizeListArray.from_arrays(flat, 4, mask=none),
            "crop": pa.array(crop.numpy()[filled], pa.int64(), mask=~used),
            "mask": pa.array(
                [row.tobytes() if ok else None for row, ok in zip(packed, used, strict=True)],
                pa.binary(packed.shape[1]),
            ),
        }
    )
