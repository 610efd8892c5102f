"""Cropping and embedding examples, in shards over the samples they are from, and writing them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float16
from torch import Tensor

from semlens.models.activations import LayerLayout
from semlens.run.crop_tasks import BATCHES_PER_BLOCK, CropTask, crop_refs, merge_crops
from semlens.run.plan import Plan
from semlens.run.shards import Shards, Stage
from semlens.stages.collect import Collected
from semlens.stages.crop_regions import ExamplePairs
from semlens.stages.embed import CropRef
from semlens.stages.select_examples import LayerExamples, examples_table, theta
from semlens.store import file_names
from semlens.store.manifest import LayerEntry
from semlens.store.schema import SAMPLES, THUMBNAILS
from semlens.store.writer import BuildWriter
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


CROPS_PER_FILE = 4096
"""Crops in a file of vectors, and thumbnails in a file of thumbnails."""


def write_crops(
    writer: BuildWriter,
    crops: Mapping[str, Tensor],
    digests: list[str],
    plan: Plan,
    crop_sizes: list[int],
) -> list[int]:
    """Write the files of new crops; return the sizes of all crops files, existing ones first.

    The files do not depend on the shards in which the crops were computed.
    """
    webp_ends = np.cumsum([0, *crops["webp_size"].tolist()])
    for start in range(0, len(crops["vector"]), CROPS_PER_FILE):
        rows = slice(start, start + CROPS_PER_FILE)
        tensors = {name: crops[name][rows] for name in ("vector", "sample", "box")}
        writer.tensors(file_names.crops_file(len(crop_sizes)), tensors)
        if plan.recipe.thumbnails:
            ends = webp_ends[start : rows.stop + 1]
            pictures = {
                "webp": crops["webp"][ends[0] : ends[-1]],
                "webp_size": crops["webp_size"][rows],
                "webp_box": crops["webp_box"][rows],
            }
            writer.table(
                file_names.thumbnails_file(len(crop_sizes)),
                thumbnails_table({**tensors, **pictures}, digests),
                rows_per_group=file_names.THUMBNAIL_GROUP,
                compressed_column="webp",
            )
        crop_sizes.append(len(tensors["vector"]))
    return crop_sizes


def write_layer(
    writer: BuildWriter,
    layer: LayerExamples,
    first_row: int,
    cropped: CroppedPairs,
    slots: np.ndarray,
    layer_index: int,
    vectors: Tensor,
    plan: Plan,
) -> None:
    """Write a layer's concept vectors and examples."""
    of_layer = slots[:, 0] == layer_index
    row_and_rank = tuple(torch.from_numpy(slots[of_layer, i]) for i in (1, 2))

    def to_slots(values: np.ndarray) -> Tensor:
        """Return values of the layer's pairs [n ...] as [C m ...], with zeros in unused slots."""
        layer_values = torch.from_numpy(values[of_layer])
        filled = torch.zeros(*layer.used.shape, *layer_values.shape[1:], dtype=layer_values.dtype)
        filled[row_and_rank] = layer_values
        return filled

    crop = to_slots(cropped.crop)
    means = theta(vectors, crop, layer.used, layer.top.strength, plan.recipe.aggregate)
    writer.tensors(file_names.theta_file(layer.layout.name), {"theta": means})
    table = examples_table(layer, first_row, to_slots(cropped.box), crop, to_slots(cropped.mask))
    writer.table(
        file_names.examples_file(layer.layout.name), table, rows_per_group=file_names.EXAMPLE_GROUP
    )


def samples_table(plan: Plan, digests: list[str], collected: Collected) -> pa.Table:
    """Return rows of ``samples.parquet``."""
    count = len(plan.images)
    return pa.table(
        {
            "sample": range(count),
            "path": plan.images.ids,
            "sha256": digests,
            "target": plan.targets.names or [None] * count,
            "logit": plan.targets.logits,
            "error": [collected.unreadable.get(i) for i in range(count)],
        },
        schema=SAMPLES,
    )


def layer_entry(
    layer: LayerExamples, crop: Crop, first_row: int, collected: Collected, rank_rules: str | None
) -> LayerEntry:
    """Return a layer's entry in the manifest."""
    layout = layer.layout
    return LayerEntry(
        name=layout.name,
        form=layout.form,
        channels=layout.components,
        height=layout.height,
        width=layout.width,
        prefix=layout.prefix,
        first=first_row,
        rows=len(layer.index),
        lowest=layer.lowest,
        not_finite=len(collected.layers[layout.name].not_finite),
        crop=crop,
        rank_rules=rank_rules,
    )
