"""Cropping and embedding examples, in shards over the samples that components refer to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float16, Int32, Int64, UInt8
from PIL import Image
from torch import Tensor

from semlens.data.prefetch import prefetch
from semlens.models.activations import LayerLayout
from semlens.run.plan import Advance, Plan, Shards
from semlens.stages.crop_regions import (
    ActivationMaps,
    ConditionalMaps,
    ExamplePairs,
    HeatmapCrops,
    RegionFinder,
    RegionRequest,
    WholeImage,
)
from semlens.stages.embed import CropRef, embed
from semlens.stages.select_examples import LayerExamples
from semlens.store.schema import MASK_BYTES, THUMBNAILS
from semlens.types import Box, Crop

STEPS = ("crop", "embed")
_CACHE_BYTES = 512 * 2**20
_SAMPLES_PER_SHARD = 512
"""Referenced samples per shard."""


class _ImageCache:
    """Caches the decoded images of a shard, so that cropping and embedding decode only once."""

    def __init__(self, read: Callable[[int], Image.Image]) -> None:
        self._read = read
        self._images: dict[int, Image.Image] = {}
        self._bytes = 0

    def __call__(self, sample: int) -> Image.Image:
        if sample not in self._images:
            image = self._read(sample)
            self._bytes += image.width * image.height * 3
            if self._bytes > _CACHE_BYTES:
                return image
            self._images[sample] = image
        return self._images[sample]


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
        int64[n], index of the crop over all crops files, existing ones first.
    new_crops
        For each shard with new crops: ``vector``, ``sample`` and ``box`` of each crop, their
        concatenated thumbnails ``webp`` with ``webp_size``, and the crop's box in each.
    whole
        Unit vectors of whole images, by sample.
    """

    box: np.ndarray
    mask: np.ndarray
    crop: np.ndarray
    new_crops: list[Mapping[str, Tensor]]
    whole: dict[int, Float16[Tensor, " d"]]


def list_pairs(layers: list[LayerExamples]) -> tuple[ExamplePairs, np.ndarray]:
    """List the used example slots of all layers, sorted by sample.

    Returns
    -------
    tuple
        The pairs, and int64[n 3] with each pair's layer, row in the layer, and rank.
    """
    columns_by_layer: list[tuple[np.ndarray, ...]] = []
    for layer_index, layer in enumerate(layers):
        row, rank = np.nonzero(layer.used.numpy())
        sample, position = (
            tensor.numpy()[row, rank] for tensor in (layer.top.sample, layer.top.position)
        )
        layer_column = np.full_like(row, layer_index)
        columns_by_layer.append(
            (layer_column, row, rank, layer.index[row], layer.sign[row], sample, position)
        )
    columns = [np.concatenate(column) for column in zip(*columns_by_layer, strict=True)]
    order = np.argsort(columns[5], kind="stable")
    layer_column, row, rank, channel, sign, sample, position = (column[order] for column in columns)
    pairs = ExamplePairs(layer_column.astype(np.int32), channel, sign, sample, position)
    return pairs, np.stack([layer_column, row, rank], axis=1)


def region_finder(
    plan: Plan, layouts: Sequence[LayerLayout], crops: Sequence[Crop]
) -> RegionFinder:
    """Return the function that finds the crop regions of each layer's examples."""
    execution, recipe = plan.execution, plan.recipe
    if set(crops) <= {"none"}:
        return WholeImage(execution.threads)
    by_map = {i: layout for i, layout in enumerate(layouts) if crops[i] == "activation"}
    by_relevance = {i: layout.name for i, layout in enumerate(layouts) if crops[i] == "crp"}
    blur, thresholds = recipe.crop_blur, (recipe.threshold("activation"), recipe.threshold("crp"))
    maps = (
        ActivationMaps(plan.model, by_map, blur, thresholds[0]),
        ConditionalMaps(by_relevance, recipe.readout, plan.engines, blur, thresholds[1]),
    )
    return HeatmapCrops(plan.model, maps, execution.batch_size, execution.threads)


def crop_pairs(
    plan: Plan,
    find_regions: RegionFinder,
    pairs: ExamplePairs,
    existing: Mapping[CropRef, int],
    whole: Collection[int],
    shards: Shards,
    key: str,
) -> CroppedPairs:
    """Find each pair's box, and embed the crops that do not exist yet and some whole images."""
    samples = sorted({*pairs.sample.tolist(), *whole})

    def compute(shard: range, advance: Mapping[str, Advance]) -> Mapping[str, Tensor]:
        return _crop(
            plan, find_regions, pairs, samples[shard.start : shard.stop], existing, whole, advance
        )

    ranges = plan.execution.shards(len(samples), _SAMPLES_PER_SHARD)
    shard_tensors = list(shards.load_or_compute(STEPS, key, ranges, len(samples), compute))
    first_indices = np.cumsum([len(existing), *(len(shard["vector"]) for shard in shard_tensors)])
    crops = [
        np.where(shard["pair_known"], 0, first) + shard["pair_crop"].numpy()
        for shard, first in zip(shard_tensors, first_indices[:-1], strict=True)
    ]
    return CroppedPairs(
        np.concatenate(
            [np.zeros((0, 4), np.int32), *(shard["pair_box"].numpy() for shard in shard_tensors)]
        ),
        np.concatenate(
            [
                np.zeros((0, MASK_BYTES), np.uint8),
                *(shard["pair_mask"].numpy() for shard in shard_tensors),
            ]
        ),
        np.concatenate([np.zeros(0, np.int64), *crops]),
        [shard for shard in shard_tensors if len(shard["vector"])],
        {
            sample: vector
            for shard in shard_tensors
            for sample, vector in zip(
                shard["whole_sample"].tolist(), shard["whole_vector"], strict=True
            )
        },
    )


def _crop(
    plan: Plan,
    find_regions: RegionFinder,
    pairs: ExamplePairs,
    samples: list[int],
    existing: Mapping[CropRef, int],
    whole: Collection[int],
    advance: Mapping[str, Advance],
) -> Mapping[str, Tensor]:
    read, threads = _ImageCache(plan.images.read), plan.execution.threads
    sample_of_pair = pairs.for_samples(samples).sample
    request = RegionRequest(np.unique(sample_of_pair).tolist(), pairs, read, advance["crop"])
    regions = find_regions(request) if request.samples else []
    crops = [
        CropRef(int(sample), region.box)
        for sample, region in zip(sample_of_pair, regions, strict=True)
    ]
    new = sorted({crop for crop in crops if crop not in existing})
    whole_samples = [sample for sample in samples if sample in whole]
    sizes = prefetch(lambda sample: read(sample).size, whole_samples, threads)
    whole_images = [CropRef(s, Box(0, 0, *z)) for s, z in zip(whole_samples, sizes, strict=True)]
    embedded = sorted({*new, *whole_images})
    vectors, thumbnails = embed(
        plan.embedder,
        embedded,
        read,
        thumbnails=set(new) if plan.recipe.thumbnails else (),
        batch_size=plan.execution.batch_size,
        workers=threads,
        progress=advance["embed"],
    )
    row = {crop: index for index, crop in enumerate(embedded)}
    new_index = {crop: index for index, crop in enumerate(new)}
    return {
        "pair_box": _box_tensor([crop.box for crop in crops]),
        "pair_crop": torch.tensor([new_index.get(crop, existing.get(crop, 0)) for crop in crops]),
        "pair_known": torch.tensor([crop in existing for crop in crops]),
        # all ones for whole images
        "pair_mask": _byte_tensor(
            b"".join(region.mask or bytes([255] * MASK_BYTES) for region in regions)
        ).reshape(-1, MASK_BYTES),
        "vector": vectors[[row[crop] for crop in new]],
        "sample": torch.tensor([crop.sample for crop in new], dtype=torch.int64),
        "box": _box_tensor([crop.box for crop in new]),
        "webp": _byte_tensor(b"".join(thumbnail.webp for thumbnail in thumbnails)),
        "webp_size": torch.tensor(
            [len(thumbnail.webp) for thumbnail in thumbnails], dtype=torch.int64
        ),
        "webp_box": _box_tensor([thumbnail.box for thumbnail in thumbnails]),
        "whole_sample": torch.tensor(whole_samples, dtype=torch.int64),
        "whole_vector": vectors[[row[image] for image in whole_images]],
    }


def thumbnails_table(crops: Mapping[str, Tensor], digests: list[str]) -> pa.Table:
    """Return rows of ``thumbnails/NNNN.parquet``, in the order of the crops."""
    keys = [crop.key(digests[crop.sample]) for crop in crop_refs(crops["sample"], crops["box"])]
    webp, ends = crops["webp"].numpy().tobytes(), np.cumsum(crops["webp_size"].numpy())
    pictures = [webp[a:b] for a, b in pairwise([0, *ends.tolist()])]
    boxes = list(crops["webp_box"].numpy())
    return pa.table({"key": keys, "webp": pictures, "box": boxes}, schema=THUMBNAILS)


def crop_refs(sample: Int64[Tensor, " n"], box: Int32[Tensor, "n 4"]) -> list[CropRef]:
    """Return crops from tensors of samples and boxes."""
    return [CropRef(s, Box(*b)) for s, b in zip(sample.tolist(), box.tolist(), strict=True)]


def _byte_tensor(data: bytes) -> UInt8[Tensor, " n"]:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def _box_tensor(boxes: list[Box]) -> Int32[Tensor, "n 4"]:
    return torch.tensor([box.as_tuple() for box in boxes], dtype=torch.int32).reshape(-1, 4)
