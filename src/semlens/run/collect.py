"""Collecting examples and statistics, in shards of whole batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from semlens.data.verified_images import VerifiedImages
from semlens.errors import DataError
from semlens.models.activations import LayerLayout
from semlens.run.executors.executor import Advance, Inputs
from semlens.run.plan import Plan
from semlens.run.shards import Shards, Stage, merge_all
from semlens.stages.collect import Collected, collect


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
    """
    loaded = (
        (Collected.from_tensors(tensors, plan.layers) for tensors in shards.load(stage, samples))
        for samples in (stage.whole, range(stage.whole.stop, stage.total))
    )
    whole, rest = (merge_all(parts, Collected.merge) for parts in loaded)
    collected = merge_all([part for part in (whole, rest) if part is not None], Collected.merge)
    assert collected is not None  # noqa: S101  # a stage has samples
    if len(collected.unreadable) == stage.total:
        raise DataError(
            f"None of the {stage.total} images of '{plan.images.spec}' can be read. "
            f"{next(iter(collected.unreadable.values()))}",
            "Expected at least one readable image.",
            "Check the files.",
        )
    return collected, whole
