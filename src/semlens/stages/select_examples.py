"""Components, their examples and concept vectors from the collected statistics (Eq. 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float16, Float32, Int32, Int64, UInt8
from torch import Tensor

from semlens.dictionaries.dictionary import Dictionary
from semlens.models.activations import Form, LayerLayout
from semlens.stages.collect import Collected
from semlens.store.schema import COMPONENTS, EXAMPLES
from semlens.streaming.aggregate import aggregate_vectors
from semlens.streaming.statistics import ReadoutBlock, TopExamples
from semlens.types import Aggregate, Rank, Signs


@dataclass(frozen=True)
class LayerExamples:
    """The components of one layer with their examples; C rows, m slots.

    Parameters
    ----------
    index, sign
        int32[C] and int8[C], the component of each row.
    top
        Examples; ``top.strength`` is in the direction of the sign.
    used
        bool[C m], slots that are examples of the component. In a layer that is never negative, a
        readout of zero means that the component was not active on the sample. A relevance of zero
        or less means that the prediction does not rest on it.
    """

    layout: LayerLayout
    block: ReadoutBlock
    index: np.ndarray
    sign: np.ndarray
    top: TopExamples
    used: torch.Tensor
    lowest: float | None
    rank: Rank

    @property
    def activation(self) -> torch.Tensor:
        """Raw readouts f32[C m], or relevance; NaN in empty slots."""
        raw = self.top.strength
        if self.rank == "activation":
            raw = raw * torch.from_numpy(self.sign)[:, None]
        return torch.where(self.top.filled, raw, torch.nan)


def select_examples(
    collected: Collected, layout: LayerLayout, signs: Signs, rank: Rank = "activation"
) -> LayerExamples:
    """Select the signs of a layer's components and the used examples (paper, B.1).

    With ``auto``, a layer with any activation below zero gets both signs.
    """
    statistics = collected.layers[layout.name]
    block, channels = statistics.moments.total(), layout.components
    lowest = -float(block.peak[1].max())
    measured = np.isfinite(lowest)
    sign_count = 2 if signs == "both" or (signs == "auto" and measured and lowest < 0) else 1
    examples = statistics.top.select(torch.arange(2 * channels) < sign_count * channels)
    positive_only = rank == "relevance" or (measured and lowest >= 0)
    active = (examples.strength > 0) if positive_only else torch.tensor(True)
    return LayerExamples(
        layout,
        block,
        np.tile(np.arange(channels, dtype=np.int32), sign_count),
        np.repeat(np.array([1, -1], np.int8)[:sign_count], channels),
        examples,
        examples.filled & active,
        lowest if measured else None,
        rank,
    )


def theta(
    vectors: Float16[Tensor, "u d"],
    crop: Int64[Tensor, "c m"],
    used: Bool[Tensor, "c m"],
    strength: Float32[Tensor, "c m"],
    aggregate: Aggregate,
    chunk: int = 1024,
) -> Float16[Tensor, "c d"]:
    """Aggregate the unit vectors of each component's examples, see :func:`aggregate_vectors`.

    The result is not normalised; it is zero for a component without examples.

    Parameters
    ----------
    strength
        What ranks the examples, in the direction of the component's sign.
    """
    dim = vectors.shape[1]
    out = torch.zeros(len(crop), dim, dtype=torch.float16)
    for start in range(0, len(crop), chunk):
        rows = slice(start, start + chunk)
        mask = used[rows]
        if vectors.shape[0] == 0 or not mask.any():
            continue
        crop_vectors = vectors[torch.where(mask, crop[rows], 0)].float()
        concept_vectors = aggregate_vectors(crop_vectors, mask, strength[rows], aggregate)
        out[rows] = concept_vectors.to(torch.float16)
    return out


OWN_KINDS: Mapping[Form, str] = {
    "map": "channel", "map-last": "channel", "tokens": "token feature",
    "sequence": "channel", "units": "unit", "volume": "channel", "volume-last": "channel",
}  # fmt: skip
"""Kind of a layer's own components, by the form of its output."""


def components_table(layer: LayerExamples, dictionary: Dictionary | None = None) -> pa.Table:
    """Return rows of ``components.parquet``: identity and statistics of the raw readout.

    Parameters
    ----------
    dictionary
        The directions whose codes they are, if any.
    """
    block, index = layer.block, layer.index
    count = block.count.numpy()[index]
    own = OWN_KINDS[layer.layout.form]
    kinds = dictionary.kinds if dictionary else [own] * layer.layout.components
    fired = block.fired.numpy()[(layer.sign < 0).astype(int), index]
    return pa.table(
        {
            "layer": [layer.layout.name] * len(index),
            "index": index,
            "sign": layer.sign,
            "kind": [kinds[i] for i in index],
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
    """Return rows of ``examples/LAYER.parquet``, strongest first within each component.

    Parameters
    ----------
    first
        Row of the layer's first component in ``components.parquet``.
    box, crop, mask
        Box in original pixels, row of the crop's vector, and packed display mask over the box;
        undefined where ``layer.used`` is false, and null in the table.
    """
    filled = layer.top.filled.numpy()
    row, rank = np.nonzero(filled)
    used = layer.used.numpy()[filled]
    flat = pa.array(box.numpy()[filled].reshape(-1), pa.int32())
    no_box = pa.array(~used)
    masks = zip(mask.numpy()[filled], used, strict=True)
    return pa.table(
        {
            "component": row + first,
            "rank": rank,
            "sample": layer.top.sample.numpy()[filled],
            "activation": layer.activation.numpy()[filled],
            "position": layer.top.position.numpy()[filled],
            "box": pa.FixedSizeListArray.from_arrays(flat, 4, mask=no_box),
            "crop": pa.array(crop.numpy()[filled], pa.int64(), mask=~used),
            "mask": [packed.tobytes() if is_used else None for packed, is_used in masks],
        },
        schema=EXAMPLES,
    )
