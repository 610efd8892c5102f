"""The computation of a shard of crops: regions, vectors and thumbnails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int32, Int64, UInt8
from PIL import Image
from torch import Tensor

from semlens.data.prefetch import prefetch
from semlens.data.verified_images import VerifiedImages
from semlens.models.activations import LayerLayout
from semlens.run.executors.executor import Advance, Inputs
from semlens.stages.crop_regions import (
    ActivationMaps,
    ConditionalMaps,
    ExamplePairs,
    HeatmapCrops,
    RegionFinder,
    RegionRequest,
    WholeImage,
)
from semlens.stages.embed import CropRef, embed, known_vectors
from semlens.stages.own_boxes import OwnBoxRegions
from semlens.store.schema import MASK_BYTES
from semlens.types import Box, Crop

_CACHE_BYTES = 512 * 2**20
BATCHES_PER_BLOCK = 4
"""Batches of images whose crops are embedded together; shards are cut between blocks, so that a
crop always meets the same batch mates."""


class _ImageCache:
    """Caches the decoded images of a shard, so that cropping and embedding decode only once."""

    def __init__(self, read: Callable[[int], Image.Image]) -> None:
        self._read = read
        self._images: dict[int, Image.Image] = {}
        self._bytes = 0
        self.sizes: dict[int, tuple[int, int]] = {}
        """Width and height of the images that were read."""

    def __call__(self, sample: int) -> Image.Image:
        if sample not in self._images:
            image = self._read(sample)
            self.sizes[sample] = image.size
            self._bytes += image.width * image.height * 3
            if self._bytes > _CACHE_BYTES:
                return image
            self._images[sample] = image
        return self._images[sample]


@dataclass(frozen=True)
class CropTask:
    """Finds the boxes of pairs, and embeds the crops that do not exist yet and whole images.

    Parameters
    ----------
    samples
        Range in the list of all referenced samples.
    referenced
        The samples themselves: those of the pairs, ascending, then those that are only embedded
        whole.
    digests
        Digest of each of them.
    crops
        How each layer is cropped.
    pairs
        The pairs of these samples.
    existing
        Indices of the existing crops of these samples.
    whole
        The samples that are embedded whole.
    """

    samples: range
    referenced: Sequence[int]
    digests: Mapping[int, str]
    layouts: Sequence[LayerLayout]
    crops: Sequence[Crop]
    pairs: ExamplePairs
    existing: Mapping[CropRef, int]
    whole: frozenset[int]

    def __call__(self, inputs: Inputs, advance: Mapping[str, Advance]) -> Mapping[str, Tensor]:
        """Return the merged tensors of all blocks; see :func:`merge_crops`."""
        find_regions = region_finder(inputs, self.layouts, self.crops)
        size = BATCHES_PER_BLOCK * inputs.batch_size
        return merge_crops(
            self._block(inputs, find_regions, self.referenced[start : start + size], advance)
            for start in range(0, len(self.referenced), size)
        )

    def _block(
        self,
        inputs: Inputs,
        find_regions: RegionFinder,
        samples: Sequence[int],
        advance: Mapping[str, Advance],
    ) -> Mapping[str, Tensor]:
        images = VerifiedImages(inputs.images, self.digests)
        read, threads, existing = _ImageCache(images.read), inputs.threads, self.existing
        cropped = samples[: int(np.isin(samples, self.pairs.sample).sum())]
        sample_of_pair = self.pairs.for_samples(cropped).sample if cropped else np.zeros(0, int)
        # an image that is read for a thumbnail anyway is not read twice, for its size alone
        read_anyway = set(cropped if inputs.recipe.thumbnails else ())

        def size(sample: int) -> tuple[int, int]:
            if sample in read.sizes:
                return read.sizes[sample]
            if inputs.embedder.has_precomputed and sample not in read_anyway:
                return images.size(sample)
            return read(sample).size

        request = RegionRequest(cropped, self.pairs, read, size, advance["crop"])
        regions = find_regions(request) if cropped else []
        crops = [
            CropRef(int(sample), region.box)
            for sample, region in zip(sample_of_pair, regions, strict=True)
        ]
        new = sorted({crop for crop in crops if crop not in existing})
        whole_samples = [sample for sample in samples if sample in self.whole]
        sizes = prefetch(size, whole_samples, threads)
        whole_images = [
            CropRef(s, Box(0, 0, *z)) for s, z in zip(whole_samples, sizes, strict=True)
        ]
        embedded = sorted({*new, *whole_images})
        known = known_vectors(inputs.embedder, inputs.images.ids, embedded, size, threads)
        vectors, thumbnails = embed(
            inputs.embedder,
            embedded,
            read,
            thumbnails=set(new) if inputs.recipe.thumbnails else (),
            precision=inputs.recipe.embedder_precision,
            known=known,
            batch_size=inputs.batch_size,
            workers=threads,
            progress=advance["embed"],
        )
        row = {crop: index for index, crop in enumerate(embedded)}
        new_index = {crop: index for index, crop in enumerate(new)}
        return {
            "pair_box": _box_tensor([crop.box for crop in crops]),
            "pair_crop": torch.tensor(
                [new_index.get(crop, existing.get(crop, 0)) for crop in crops], dtype=torch.int64
            ),
            "pair_known": torch.tensor([crop in existing for crop in crops], dtype=torch.bool),
            # all ones for whole images and boxes of the user
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


def merge_crops(results: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Concatenate the crops of blocks or shards, in the order of their samples.

    ``pair_crop`` is the index of a pair's crop among the new ones, or among the existing ones where
    ``pair_known``; only the former is shifted.
    """
    parts = list(results)
    crops = np.cumsum([0, *(len(part["vector"]) for part in parts)]).tolist()
    shifted = [
        {**part, "pair_crop": part["pair_crop"] + first * ~part["pair_known"]}
        for part, first in zip(parts, crops[:-1], strict=True)
    ]
    return {name: torch.cat([part[name] for part in shifted]) for name in shifted[0]}


def region_finder(
    inputs: Inputs, layouts: Sequence[LayerLayout], crops: Sequence[Crop]
) -> RegionFinder:
    """Return the function that finds the crop regions of each layer's examples."""
    recipe = inputs.recipe
    if set(crops) <= {"none"}:
        return WholeImage(inputs.threads)
    if inputs.boxes is not None:
        return OwnBoxRegions(inputs.model, layouts, inputs.boxes, inputs.images.ids, inputs.threads)
    by_map = {i: layout for i, layout in enumerate(layouts) if crops[i] == "activation"}
    by_relevance = {i: layout.name for i, layout in enumerate(layouts) if crops[i] == "crp"}
    blur, thresholds = recipe.crop_blur, (recipe.threshold("activation"), recipe.threshold("crp"))
    maps = (
        ActivationMaps(inputs.model, by_map, blur, thresholds[0]),
        ConditionalMaps(
            by_relevance, recipe.readout, inputs.engines, blur, thresholds[1], inputs.model.slices
        ),
    )
    return HeatmapCrops(inputs.model, maps, inputs.batch_size, inputs.threads)


def crop_refs(sample: Int64[Tensor, " n"], box: Int32[Tensor, "n 4"]) -> list[CropRef]:
    """Return crops from tensors of samples and boxes."""
    return [CropRef(s, Box(*b)) for s, b in zip(sample.tolist(), box.tolist(), strict=True)]


def _byte_tensor(data: bytes) -> UInt8[Tensor, " n"]:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())


def _box_tensor(boxes: list[Box]) -> Int32[Tensor, "n 4"]:
    return torch.tensor([box.as_tuple() for box in boxes], dtype=torch.int32).reshape(-1, 4)
