"""Writing the crops, layers and samples of a build."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from semlens.run.crops import CroppedPairs, thumbnails_table
from semlens.run.plan import Plan
from semlens.stages.collect import Collected
from semlens.stages.select_examples import LayerExamples, examples_table, theta
from semlens.store import file_names
from semlens.store.manifest import LayerEntry
from semlens.store.schema import SAMPLES
from semlens.store.writer import BuildWriter
from semlens.types import Crop

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
        not_finite=len(collected.not_finite[layout.name]),
        crop=crop,
        rank_rules=rank_rules,
    )
