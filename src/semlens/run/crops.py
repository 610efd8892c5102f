"""Attribute and embed, shard by shard over the samples that some component refers to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from semlens.models.activations import LayerForm
from semlens.relevance.boxes import MASK_CELLS
from semlens.run.plan import Plan, Progress
from semlens.stages.attribute import Attributor, Cut, References, WholeImage
from semlens.stages.embed import CropRef, embed
from semlens.stages.heat import ActivationMaps, ConditionalMaps, Heatmaps
from semlens.stages.select import LayerExamples
from semlens.store.files import load_tensors, save_table, save_tensors
from semlens.types import Box, Crop

_HELD_BYTES = 512 * 2**20
MASK_BYTES = MASK_CELLS**2 // 8
SHARD = 512
"""Referenced samples per shard."""


class _Decoded:
    """Decoded images of the current shard, so that attribute and embed decode once."""

    def __init__(self, read: Callable[[int], Image.Image]) -> None:
        self._read = read
        self._held: dict[int, Image.Image] = {}
        self._bytes = 0

    def read(self, sample: int) -> Image.Image:
        held = self._held.get(sample)
        if held is not None:
            return held
        image = self._read(sample)
        size = image.width * image.height * 3
        if self._bytes + size <= _HELD_BYTES:
            self._held[sample] = image
            self._bytes += size
        return image

    def clear(self) -> None:
        self._held.clear()
        self._bytes = 0


@dataclass(frozen=True)
class CroppedPairs:
    """Box and crop of every pair, and the files that hold the new crops.

    Parameters
    ----------
    box
        int32[n 4] in original pixels.
    mask
        uint8[n 32], display masks over the boxes.
    crop
        int64[n], the crop's number over all crops files, old ones first.
    shards
        (tensors, thumbnails) per shard that brought new crops.
    sizes
        Number of new crops in each of ``shards``.
    """

    box: np.ndarray
    mask: np.ndarray
    crop: np.ndarray
    shards: list[tuple[Path, Path]]
    sizes: list[int]


def references(layers: list[LayerExamples]) -> tuple[References, np.ndarray]:
    """List the used example slots of all layers, sorted by sample.

    Returns
    -------
    tuple
        The pairs, and int64[n 3] with each pair's layer, row in the layer, and rank.
    """
    slots: list[np.ndarray] = []
    samples: list[np.ndarray] = []
    for number, layer in enumerate(layers):
        used = layer.used.numpy()
        row, rank = np.nonzero(used)
        slots.append(np.stack([np.full_like(row, number), row, rank], axis=1))
        samples.append(layer.top.sample.numpy()[used])
    slot, sample = np.concatenate(slots), np.concatenate(samples)
    order = np.argsort(sample, kind="stable")
    slot, sample = slot[order], sample[order]
    channel, sign = np.zeros(len(slot), np.int32), np.ones(len(slot), np.int8)
    position = np.zeros(len(slot), np.int32)
    for number, layer in enumerate(layers):
        mine = slot[:, 0] == number
        channel[mine] = layer.index[slot[mine, 1]]
        sign[mine] = layer.sign[slot[mine, 1]]
        position[mine] = layer.top.position.numpy()[slot[mine, 1], slot[mine, 2]]
    return References(slot[:, 0].astype(np.int32), channel, sign, sample, position), slot


def attributor(plan: Plan, forms: Sequence[LayerForm], crops: Sequence[Crop]) -> Attributor:
    """Return the way in which each layer's examples are cropped."""
    execution, recipe = plan.execution, plan.recipe
    if set(crops) <= {"none"}:
        return WholeImage(execution.threads)
    maps: list[Heatmaps] = []
    by_map = {i: form for i, form in enumerate(forms) if crops[i] == "activation"}
    if by_map:
        threshold = recipe.threshold("activation")
        maps.append(ActivationMaps(plan.model, by_map, recipe.crop_blur, threshold))
    by_relevance = {i: form.name for i, form in enumerate(forms) if crops[i] == "crp"}
    if by_relevance:
        threshold = recipe.threshold("crp")
        maps.append(
            ConditionalMaps(by_relevance, recipe.readout, plan.engines, recipe.crop_blur, threshold)
        )
    return Cut(plan.model, maps, execution.batch_size, execution.threads)


def crop_pairs(
    plan: Plan,
    layers: list[LayerExamples],
    crops_of: Sequence[Crop],
    pairs: References,
    known: Mapping[CropRef, int],
    digests: list[str],
    folder: Path,
    key: str,
    progress: Progress,
) -> CroppedPairs:
    """Find each pair's box and embed the crops that are not ``known`` yet."""
    find = attributor(plan, [layer.form for layer in layers], crops_of)
    held = _Decoded(plan.images.read)
    unique = np.unique(pairs.sample).tolist()
    step = plan.execution.shard or SHARD
    boxes: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    crops: list[np.ndarray] = []
    shards: list[tuple[Path, Path]] = []
    sizes: list[int] = []
    base = len(known)
    for start in range(0, len(unique), step):
        samples = unique[start : start + step]
        name = f"crops-{key[:16]}-{start:08d}-{start + len(samples):08d}"
        paths = (folder / f"{name}.safetensors", folder / f"{name}.parquet")
        if not paths[0].is_file():
            _crop_shard(plan, find, pairs, samples, known, digests, held, paths, progress, start)
            held.clear()
        tensors = load_tensors(paths[0])
        progress("crop", start + len(samples), len(unique))
        progress("embed", start + len(samples), len(unique))
        boxes.append(tensors["pair_box"].numpy())
        masks.append(tensors["pair_mask"].numpy())
        old = tensors["pair_known"].numpy()
        crops.append(np.where(old, 0, base) + tensors["pair_crop"].numpy())
        if len(tensors["vector"]):
            shards.append(paths)
            sizes.append(len(tensors["vector"]))
            base += sizes[-1]
    return CroppedPairs(
        np.concatenate(boxes) if boxes else np.zeros((0, 4), np.int32),
        np.concatenate(masks) if masks else np.zeros((0, MASK_BYTES), np.uint8),
        np.concatenate(crops) if crops else np.zeros(0, np.int64),
        shards,
        sizes,
    )


def _crop_shard(
    plan: Plan,
    find: Attributor,
    pairs: References,
    samples: list[int],
    known: Mapping[CropRef, int],
    digests: list[str],
    held: _Decoded,
    paths: tuple[Path, Path],
    progress: Progress,
    start: int,
) -> None:
    total = len(np.unique(pairs.sample))
    done = {"crop": start, "embed": start}

    def step(stage: str) -> Callable[[int], None]:
        def advance(count: int) -> None:
            done[stage] += count
            progress(stage, done[stage], total)

        return advance

    found = find(samples, pairs, held.read, step("crop"))
    wanted = [
        CropRef(int(sample), region.box)
        for sample, region in zip(pairs.sample[pairs.of(samples)], found, strict=True)
    ]
    fresh = sorted({crop for crop in wanted if crop not in known})
    made = embed(
        plan.embedder,
        fresh,
        held.read,
        thumbnails=plan.recipe.thumbnails,
        batch_size=plan.execution.batch_size,
        workers=plan.execution.threads,
        progress=step("embed"),
    )
    if plan.recipe.thumbnails:
        keys = [crop.key(digests[crop.sample]) for crop in fresh]
        table = pa.table(
            {"key": pa.array(keys, pa.string()), "webp": pa.array(made.thumbnails, pa.binary())}
        )
        save_table(paths[1], table)
    place = {crop: number for number, crop in enumerate(fresh)}
    save_tensors(
        paths[0],
        {
            "pair_box": _box_tensor([crop.box for crop in wanted]),
            "pair_crop": torch.tensor([place.get(c, known.get(c, 0)) for c in wanted]),
            "pair_known": torch.tensor([c in known for c in wanted]),
            "pair_mask": _mask_tensor([region.mask for region in found]),
            "vector": made.vectors,
            "sample": torch.tensor([crop.sample for crop in fresh], dtype=torch.int64),
            "box": _box_tensor([crop.box for crop in fresh]),
        },
    )


def _mask_tensor(found: list[bytes | None]) -> Tensor:
    """Packed masks uint8[n 32]; all ones where there is none."""
    whole = bytes([255] * MASK_BYTES)
    joined = np.frombuffer(b"".join(mask or whole for mask in found), np.uint8)
    return torch.from_numpy(joined.reshape(-1, MASK_BYTES).copy())


def _box_tensor(found: list[Box]) -> Tensor:
    return torch.tensor([box.as_tuple() for box in found], dtype=torch.int32).reshape(-1, 4)
