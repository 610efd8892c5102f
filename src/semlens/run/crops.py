"""Cropping and embedding examples, in shards over the samples that components refer to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from jaxtyping import Float16
from torch import Tensor

from semlens.models.activations import LayerLayout
from semlens.run.crop_tasks import BATCHES_PER_BLOCK, CropTask, crop_refs, merge_crops
from semlens.run.plan import Plan
from semlens.run.shards import Shards, Stage
from semlens.stages.crop_regions import ExamplePairs
from semlens.stages.embed import CropRef
from semlens.stages.select_examples import LayerExamples
from semlens.store.schema import THUMBNAILS
from semlens.types import Crop

STEPS = ("crop", "embed")
_SAMPLES_PER_SHARD = 512
"""Referenced samples per shard."""


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
        ``vector``, ``sample`` and ``box`` of each new crop, their concatenated thumbnails
        ``webp`` with ``webp_size``, and the crop's box in each.
    whole
        Unit vectors of whole images, by sample.
    """

    box: np.ndarray
    mask: np.ndarray
    crop: np.ndarray
    new_crops: Mapping[str, Tensor]
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


def referenced_samples(pairs: ExamplePairs, whole: Collection[int]) -> tuple[list[int], list[int]]:
    """Return the samples of the pairs, and those that are only embedded whole.

    The latter come last, so that the batches in which regions are found are full.
    """
    cropped = sorted(set(pairs.sample.tolist()))
    return cropped, sorted(set(whole).difference(cropped))


def crop_stage(
    plan: Plan,
    layouts: Sequence[LayerLayout],
    crops: Sequence[Crop],
    digests: Sequence[str],
    pairs: ExamplePairs,
    existing: Mapping[CropRef, int],
    whole: Collection[int],
    key: str,
) -> Stage:
    """Return the stage that finds each pair's box and embeds new crops and some whole images."""
    cropped, others = referenced_samples(pairs, whole)
    referenced = [*cropped, *others]
    existing_of: dict[int, dict[CropRef, int]] = {}
    for crop, index in existing.items():
        existing_of.setdefault(crop.sample, {})[crop] = index

    def task(samples: range) -> CropTask:
        mine = referenced[samples.start : samples.stop]
        with_pairs = mine[: max(0, len(cropped) - samples.start)]
        return CropTask(
            samples,
            mine,
            {sample: digests[sample] for sample in mine},
            tuple(layouts),
            tuple(crops),
            pairs.for_samples(with_pairs) if with_pairs else pairs.none(),
            {crop: i for sample in mine for crop, i in existing_of.get(sample, {}).items()},
            frozenset(whole).intersection(mine),
        )

    unit = BATCHES_PER_BLOCK * plan.execution.batch_size
    return Stage(STEPS, key, len(referenced), unit, task, _SAMPLES_PER_SHARD)


def load_crops(stage: Stage, shards: Shards, existing: int) -> CroppedPairs:
    """Merge the shards of a complete stage; ``existing`` is the number of existing crops."""
    merged = merge_crops(shards.load(stage))
    is_new = ~merged["pair_known"]
    whole = zip(merged["whole_sample"].tolist(), merged["whole_vector"], strict=True)
    return CroppedPairs(
        merged["pair_box"].numpy(),
        merged["pair_mask"].numpy(),
        (merged["pair_crop"] + existing * is_new).numpy(),
        merged,
        dict(whole),
    )


def thumbnails_table(crops: Mapping[str, Tensor], digests: list[str]) -> pa.Table:
    """Return rows of ``thumbnails/NNNN.parquet``, in the order of the crops."""
    keys = [crop.key(digests[crop.sample]) for crop in crop_refs(crops["sample"], crops["box"])]
    webp, ends = crops["webp"].numpy().tobytes(), np.cumsum(crops["webp_size"].numpy())
    pictures = [webp[a:b] for a, b in pairwise([0, *ends.tolist()])]
    boxes = list(crops["webp_box"].numpy())
    return pa.table({"key": keys, "webp": pictures, "box": boxes}, schema=THUMBNAILS)
