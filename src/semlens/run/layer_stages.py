"""The stages of new layers: what is collected, which examples are used, what is cropped."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float16, Float32
from torch import Tensor

from semlens.data.verified_images import VerifiedImages
from semlens.errors import DataError
from semlens.models.activations import LayerLayout
from semlens.run.crop_tasks import crop_refs
from semlens.run.crops import crop_stage, list_pairs
from semlens.run.executors.executor import Advance, Inputs
from semlens.run.plan import Plan
from semlens.run.shards import Shards, Stage
from semlens.stages.collect import Collected, collect, reads_by_direction
from semlens.stages.crop_regions import ExamplePairs
from semlens.stages.embed import CropRef, check_whole_vectors
from semlens.stages.select_examples import LayerExamples, select_examples
from semlens.store import file_names
from semlens.store.manifest import LayerEntry, LayerReference, Manifest
from semlens.store.reader import Database, data_fingerprint
from semlens.store.writer import BuildWriter
from semlens.streaming.statistics import SampleReadouts, choose_samples
from semlens.types import Crop

_CHUNK = 1024
"""Components that are converted at a time."""
_TOP_EXPONENT = 15
"""Scaled values lie below 2^15; the largest float16 is just below 2^16."""
_SMALLEST_EXPONENT = -126
"""Of a float32 that is not subnormal."""
_LARGEST_HALF = 2**15 - 2**4
"""The float16 before 2^15, which times the largest scale would overflow in float32."""


def reference_readouts(
    readouts: SampleReadouts, samples: Sequence[int], columns: int
) -> tuple[dict[str, Tensor], list[int]]:
    """Return the first ``columns`` readouts of some samples as ``readout`` and ``scale``.

    Returns
    -------
    tuple
        The tensors, and the rows of ``samples`` on which some readout is not finite. There, all
        readouts are zero.
    """
    not_finite = [
        row
        for row, sample in enumerate(samples)
        if not torch.isfinite(readouts.rows[sample][:columns]).all()
    ]
    readout = torch.empty(columns, len(samples), dtype=torch.float16)
    scale = torch.empty(columns)
    for start in range(0, columns, _CHUNK):
        chunk = slice(start, min(start + _CHUNK, columns))
        values = readouts.stack(samples, chunk)
        values[not_finite] = 0
        readout[chunk], scale[chunk] = scale_to_half(values.T)
    return {"readout": readout, "scale": scale}, not_finite


def scale_to_half(
    values: Float32[Tensor, "c s"],
) -> tuple[Float16[Tensor, "c s"], Float32[Tensor, " c"]]:
    """Divide each component's values by a power of two, so that none overflows in float16.

    The product of both results differs from the values by at most 2^-11 of the value, or 2^-39 of
    the component's largest absolute value, whichever is larger. Zeros stay zeros, and the order of
    a component's values is kept, except that close ones may become equal.
    """
    array = values.numpy()
    largest = np.abs(array).max(axis=1, initial=0)
    exponent = np.maximum(np.frexp(largest)[1] - _TOP_EXPONENT, _SMALLEST_EXPONENT)
    scaled = np.ldexp(array, -exponent[:, None]).clip(-_LARGEST_HALF, _LARGEST_HALF)
    scale = np.ldexp(np.float32(1), exponent)
    return torch.from_numpy(scaled.astype(np.float16)), torch.from_numpy(scale)


@dataclass(frozen=True)
class CollectTask:
    """Runs the model over whole batches.

    Parameters
    ----------
    digests
        Digest of each sample of the shard.
    reference
        The reference samples of the shard.
    """

    samples: range
    digests: Mapping[int, str]
    layouts: Sequence[LayerLayout]
    reference: frozenset[int]

    def __call__(self, inputs: Inputs, advance: Mapping[str, Advance]) -> Mapping[str, Tensor]:
        """Return the tensors of a :class:`~semlens.stages.collect.Collected`."""
        size = inputs.batch_size
        return collect(
            inputs.model,
            VerifiedImages(inputs.images, self.digests),
            self.layouts,
            range(self.samples.start // size, -(-self.samples.stop // size)),
            examples=inputs.recipe.examples,
            readout=inputs.recipe.readout,
            signs=inputs.recipe.signs,
            engines=inputs.engines if inputs.recipe.rank == "relevance" else None,
            reference=self.reference,
            batch_size=size,
            workers=inputs.threads,
            progress=advance["collect"],
        ).tensors()


def collect_stage(
    plan: Plan,
    layouts: Sequence[LayerLayout],
    digests: Sequence[str],
    reference: Sequence[int],
    key: str,
) -> Stage:
    """Return the stage that collects examples and statistics of the plan's layers."""
    chosen = frozenset(reference)

    def task(samples: range) -> CollectTask:
        of_shard = {sample: digests[sample] for sample in samples}
        return CollectTask(samples, of_shard, tuple(layouts), chosen.intersection(samples))

    return Stage(("collect",), key, len(plan.images), plan.execution.batch_size, task)


class NotFiniteWarning(UserWarning):
    """Activations on some images are NaN or infinite."""


_NAMED = 3
"""Images that a warning names."""


def _warn_not_finite(plan: Plan, collected: Collected) -> None:
    """Say which images are left out of the statistics and examples of which layers."""
    layers = [name for name, layer in collected.layers.items() if layer.not_finite]
    samples = sorted({i for name in layers for i in collected.layers[name].not_finite})
    if not samples:
        return
    named = ", ".join(plan.images.ids[i] for i in samples[:_NAMED])
    warnings.warn(
        f"Activations of {', '.join(layers)} are NaN or infinite on {len(samples)} of "
        f"{len(plan.images)} images ({named}{', ...' if len(samples) > _NAMED else ''}). There, "
        "these components have no statistics and no examples. Check these images, the "
        "preprocessing, and the numeric type of the model.",
        NotFiniteWarning,
        stacklevel=3,
    )


def load_collected(plan: Plan, stage: Stage, shards: Shards) -> tuple[Collected, Collected | None]:
    """Merge the shards of a complete stage.

    Returns
    -------
    tuple
        The results of all samples, and those of all whole batches, or None if there is none.

    Raises
    ------
    DataError
        If no image can be read.

    Warns
    -----
    NotFiniteWarning
        If activations on some images are NaN or infinite.
    """
    collected, whole = shards.merged(
        stage, lambda tensors: Collected.from_tensors(tensors, plan.layers), Collected.merge
    )
    if len(collected.unreadable) == stage.total:
        raise DataError(
            f"None of the {stage.total} images of '{plan.images.spec}' can be read. "
            f"{next(iter(collected.unreadable.values()))}",
            "Expected at least one readable image.",
            "Check the files.",
        )
    _warn_not_finite(plan, collected)
    return collected, whole


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


@dataclass(frozen=True)
class NewLayers:
    """The layers that a build adds.

    Parameters
    ----------
    database
        The database to which they are added, or None if it is new.
    crops
        How each layer is cropped.
    digests
        Digest of each image.
    """

    database: Database | None
    plan: Plan
    layouts: Sequence[LayerLayout]
    crops: Sequence[Crop]
    digests: Sequence[str]

    @cached_property
    def reference(self) -> list[int]:
        """The reference samples, readable or not."""
        previous = self.database.manifest if self.database else None
        return choose_reference(self.plan, self.layouts, previous, self.digests)

    @property
    def collect(self) -> Stage:
        """The stage that runs the model over all images."""
        plan, chosen = self.plan, self.reference
        data = data_fingerprint(plan.images.ids, self.digests)
        key = plan.collect_key(data, plan.model.fingerprint, len(chosen))
        return collect_stage(plan, self.layouts, self.digests, chosen, key)

    def select(self, collect: Stage, shards: Shards) -> SelectedExamples:
        """Decide from the complete first stage which signs count and which examples are used."""
        plan, previous = self.plan, self.database.manifest if self.database else None
        chosen = self.reference
        collected, of_whole_batches = load_collected(plan, collect, shards)
        reference = [sample for sample in chosen if sample not in collected.unreadable]
        if previous:
            reference = reference[: previous.reference]
        recipe = plan.recipe
        layers = [
            select_examples(collected, layout, recipe.signs, recipe.rank) for layout in self.layouts
        ]
        pairs, slots = list_pairs(layers)
        key = plan.embed_key(collect.key, list(self.crops), previous.crops if previous else [])
        whole = () if previous else reference  # those of an existing database have vectors
        samples = {*pairs.sample.tolist(), *whole}
        check_whole_vectors(plan.embedder, plan.images.ids, self.crops, samples)
        crop = crop_stage(
            plan, self.layouts, self.crops, self.digests, pairs, self._existing(), whole, key
        )
        return SelectedExamples(collected, of_whole_batches, layers, pairs, slots, reference, crop)

    def _existing(self) -> dict[CropRef, int]:
        if self.database is None:
            return {}
        tensors = map(torch.from_numpy, (self.database.crop_samples, self.database.crop_boxes))
        return {crop: index for index, crop in enumerate(crop_refs(*tensors))}


@dataclass(frozen=True)
class SelectedExamples:
    """What is decided once all images are collected.

    Parameters
    ----------
    of_whole_batches
        The part of ``collected`` to which more data can be added; None if there is none.
    pairs, slots
        The used examples, see :func:`semlens.run.crops.list_pairs`.
    reference
        The readable reference samples.
    crop
        The stage that crops and embeds them.
    """

    collected: Collected
    of_whole_batches: Collected | None
    layers: list[LayerExamples]
    pairs: ExamplePairs
    slots: np.ndarray
    reference: list[int]
    crop: Stage
