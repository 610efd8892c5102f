"""Attribute and embed, shard by shard over the samples that some component refers to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int32, Int64, UInt8
from PIL import Image
from torch import Tensor

from semlens.models.activations import LayerLayout
from semlens.run.plan import Advance, Plan, Shards
from semlens.stages.crop_regions import (
    ActivationMaps,
    Attributor,
    ConditionalMaps,
    ExamplePairs,
    HeatmapCrops,
    WholeImage,
)
from semlens.stages.embed import CropRef, embed
from semlens.stages.select_examples import LayerExamples
from semlens.store.schema import MASK_BYTES, THUMBNAILS
from semlens.types import Box, Crop

STEPS = ("crop", "embed")
_HELD_BYTES = 512 * 2**20
_SHARD = 512
"""Referenced samples per shard."""


class _Decoded:
    """Decoded images of the current shard, so that attribute and embed decode once."""

    def __init__(self, read: Callable[[int], Image.Image]) -> None:
        self._read = read
        self._held: dict[int, Image.Image] = {}
        self._bytes = 0

    def __call__(self, sample: int) -> Image.Image:
        if sample not in self._held:
            image = self._read(sample)
            self._bytes += image.width * image.height * 3
            if self._bytes > _HELD_BYTES:
                return image
            self._held[sample] = image
        return self._held[sample]


@dataclass(frozen=True)
class CroppedPairs:
    """Box and crop of every pair, and the new crops.

    Parameters
    ----------
    box
        int32[n 4] in original pixels.
    mask
        uint8[n 32], display masks over the boxes.
    crop
        int64[n], the crop's number over all crops files, old ones first.
    fresh
        By shard that brought new crops: ``vector``, ``sample`` and ``box`` of each crop, and
        their thumbnails as ``webp``, joined, and ``webp_size``.
    """

    box: np.ndarray
    mask: np.ndarray
    crop: np.ndarray
    fresh: list[Mapping[str, Tensor]]


def references(layers: list[LayerExamples]) -> tuple[ExamplePairs, np.ndarray]:
    """List the used example slots of all layers, sorted by sample.

    Returns
    -------
    tuple
        The pairs, and int64[n 3] with each pair's layer, row in the layer, and rank.
    """
    found: list[tuple[np.ndarray, ...]] = []
    for number, layer in enumerate(layers):
        row, rank = np.nonzero(layer.used.numpy())
        sample, position = (x.numpy()[row, rank] for x in (layer.top.sample, layer.top.position))
        place = np.full_like(row, number)
        found.append((place, row, rank, layer.index[row], layer.sign[row], sample, position))
    columns = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    order = np.argsort(columns[5], kind="stable")
    place, row, rank, channel, sign, sample, position = (column[order] for column in columns)
    pairs = ExamplePairs(place.astype(np.int32), channel, sign, sample, position)
    return pairs, np.stack([place, row, rank], axis=1)


def attributor(plan: Plan, forms: Sequence[LayerLayout], crops: Sequence[Crop]) -> Attributor:
    """Return what finds the regions of each layer's examples."""
    execution, recipe = plan.execution, plan.recipe
    if set(crops) <= {"none"}:
        return WholeImage(execution.threads)
    by_map = {i: form for i, form in enumerate(forms) if crops[i] == "activation"}
    by_relevance = {i: form.name for i, form in enumerate(forms) if crops[i] == "crp"}
    blur, thresholds = recipe.crop_blur, (recipe.threshold("activation"), recipe.threshold("crp"))
    maps = (
        ActivationMaps(plan.model, by_map, blur, thresholds[0]),
        ConditionalMaps(by_relevance, recipe.readout, plan.engines, blur, thresholds[1]),
    )
    return HeatmapCrops(plan.model, maps, execution.batch_size, execution.threads)


def crop_pairs(
    plan: Plan,
    find: Attributor,
    pairs: ExamplePairs,
    known: Mapping[CropRef, int],
    shards: Shards,
    key: str,
) -> CroppedPairs:
    """Find each pair's box and embed the crops that are not ``known`` yet."""
    samples = np.unique(pairs.sample).tolist()

    def compute(shard: range, advance: Mapping[str, Advance]) -> Mapping[str, Tensor]:
        return _crop(plan, find, pairs, samples[shard.start : shard.stop], known, advance)

    ranges = plan.execution.shards(len(samples), _SHARD)
    parts = list(shards.of(STEPS, key, ranges, len(samples), compute))
    firsts = np.cumsum([len(known), *(len(part["vector"]) for part in parts)])
    crops = [
        np.where(part["pair_known"], 0, first) + part["pair_crop"].numpy()
        for part, first in zip(parts, firsts[:-1], strict=True)
    ]
    return CroppedPairs(
        np.concatenate([np.zeros((0, 4), np.int32), *(p["pair_box"].numpy() for p in parts)]),
        np.concatenate(
            [np.zeros((0, MASK_BYTES), np.uint8), *(p["pair_mask"].numpy() for p in parts)]
        ),
        np.concatenate([np.zeros(0, np.int64), *crops]),
        [part for part in parts if len(part["vector"])],
    )


def _crop(
    plan: Plan,
    find: Attributor,
    pairs: ExamplePairs,
    samples: list[int],
    known: Mapping[CropRef, int],
    advance: Mapping[str, Advance],
) -> Mapping[str, Tensor]:
    read = _Decoded(plan.images.read)
    found = find(samples, pairs, read, advance["crop"])
    wanted = [
        CropRef(int(sample), region.box)
        for sample, region in zip(pairs.of(samples).sample, found, strict=True)
    ]
    fresh = sorted({crop for crop in wanted if crop not in known})
    vectors, thumbnails = embed(
        plan.embedder,
        fresh,
        read,
        thumbnails=plan.recipe.thumbnails,
        batch_size=plan.execution.batch_size,
        workers=plan.execution.threads,
        progress=advance["embed"],
    )
    place = {crop: number for number, crop in enumerate(fresh)}
    return {
        "pair_box": _box_tensor([crop.box for crop in wanted]),
        "pair_crop": torch.tensor([place.get(c, known.get(c, 0)) for c in wanted]),
        "pair_known": torch.tensor([c in known for c in wanted]),
        # all ones where there is no mask
        "pair_mask": _byte_tensor(
            b"".join(region.mask or bytes([255] * MASK_BYTES) for region in found)
        ).reshape(-1, MASK_BYTES),
        "vector": vectors,
        "sample": torch.tensor([crop.sample for crop in fresh], dtype=torch.int64),
        "box": _box_tensor([crop.box for crop in fresh]),
        "webp": _byte_tensor(b"".join(thumbnails)),
        "webp_size": torch.tensor([len(one) for one in thumbnails], dtype=torch.int64),
    }


def thumbnails_table(crops: Mapping[str, Tensor], digests: list[str]) -> pa.Table:
    """Rows of ``thumbnails/NNNN.parquet``, in the order of the crops."""
    keys = [crop.key(digests[crop.sample]) for crop in crop_refs(crops["sample"], crops["box"])]
    webp, stop = crops["webp"].numpy().tobytes(), np.cumsum(crops["webp_size"].numpy())
    pictures = [webp[a:b] for a, b in pairwise([0, *stop.tolist()])]
    return pa.table({"key": keys, "webp": pictures}, schema=THUMBNAILS)


def crop_refs(sample: Int64[Tensor, " n"], box: Int32[Tensor, "n 4"]) -> list[CropRef]:
    """Return crops from the tensors that say what they are."""
    return [CropRef(s, Box(*b)) for s, b in zip(sample.tolist(), box.tolist(), strict=True)]


def _byte_tensor(data: bytes) -> UInt8[Tensor, " n"]:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def _box_tensor(found: list[Box]) -> Int32[Tensor, "n 4"]:
    return torch.tensor([box.as_tuple() for box in found], dtype=torch.int32).reshape(-1, 4)
