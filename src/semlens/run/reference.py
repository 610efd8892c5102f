"""The reference samples of a build: a random subset for labels that need more than examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from semlens.models.activations import LayerLayout
from semlens.run.plan import Plan
from semlens.stages.collect import reads_by_direction
from semlens.stages.reference import reference_readouts
from semlens.store import file_names
from semlens.store.manifest import LayerEntry, LayerReference, Manifest
from semlens.store.writer import BuildWriter
from semlens.streaming.reference import SampleReadouts, choose_samples

MAX_BYTES = 512 * 2**20
"""Bytes of all stored readouts; beyond, fewer samples are chosen."""


def choose_reference(
    plan: Plan,
    layouts: Sequence[LayerLayout],
    previous: Manifest | None,
    digests: Sequence[str],
) -> list[int]:
    """Choose the reference samples, as many as the recipe asks for and ``MAX_BYTES`` permits.

    For layers that are added, they are among those of the database: as many as one build of all
    layers would choose.
    """
    channels = sum(layout.components for layout in layouts)
    channels += sum(layer.channels for layer in previous.layers) if previous else 0
    recipe = plan.recipe
    columns = channels * (1 + reads_by_direction(recipe.readout, recipe.signs, recipe.rank))
    most = MAX_BYTES // (columns * torch.float16.itemsize)
    return choose_samples(plan.images.ids, digests, min(recipe.reference, most))


def write_reference(
    writer: BuildWriter, samples: Sequence[int], vectors: Mapping[int, Tensor]
) -> None:
    """Write the reference samples and the vectors of the whole images."""
    tensors = {
        "sample": torch.tensor(samples),
        "vector": torch.stack([vectors[s] for s in samples]),
    }
    writer.tensors(file_names.REFERENCE, tensors)


def write_layer_reference(
    writer: BuildWriter, entry: LayerEntry, readouts: SampleReadouts, samples: Sequence[int]
) -> LayerEntry:
    """Write a layer's readouts on the reference samples; return its entry with their extent."""
    columns = min(readouts.components, entry.rows)
    tensors, not_finite = reference_readouts(readouts, samples, columns)
    writer.tensors(file_names.reference_file(entry.name), tensors)
    extent = LayerReference(columns=columns, samples=len(samples), not_finite=not_finite)
    return entry.model_copy(update={"reference": extent})
