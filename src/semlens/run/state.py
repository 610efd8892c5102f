"""The state of a build that more data can continue: statistics of all batches but the last.

The last batch, if it is incomplete, is left out: with more data it is filled up, and a model may
round differently in another batch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from semlens.stages.class_relevance import ClassRelevanceTotals
from semlens.stages.collect import Collected
from semlens.store import file_names
from semlens.store.atomic_files import load_tensors
from semlens.store.manifest import Extendable
from semlens.store.reader import Database
from semlens.store.writer import BuildWriter
from semlens.streaming.reference import SampleReadouts


class RecomputeWarning(UserWarning):
    """What a database holds has other bits than this machine computes: it is computed again."""


CAUSES = (
    "Probably the database was built on another processor, with another version of PyTorch or with "
    "another number of compute threads."
)


def write_layer_state(writer: BuildWriter, layer: str, whole: Collected) -> None:
    """Write the statistics of a layer; the skipped samples are in ``samples.parquet``."""
    prefix = f"{layer}/"
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in whole.of_layer(layer).tensors().items()
        if name.startswith(prefix)
    }
    writer.tensors(file_names.state_file(layer), tensors)


def read_collected(
    database: Database, extendable: Extendable, reference: Collection[int]
) -> Collected | None:
    """Return the statistics of all layers.

    Parameters
    ----------
    reference
        Samples whose readouts are still wanted.

    Returns
    -------
    Collected or None
        None if there is no whole batch.
    """
    whole = extendable.whole(database.manifest.samples)
    if not whole:
        return None
    flat: dict[str, Tensor] = {}
    for layer in database.layers:
        tensors = load_tensors(database.files.verified_path(file_names.state_file(layer)))
        flat |= {f"{layer}/{name}": tensor for name, tensor in tensors.items()}
    collected = Collected.from_tensors(flat, database.layers)
    errors = database.samples["error"].iloc[: whole.stop].dropna()
    return replace(
        collected,
        unreadable={int(sample): str(reason) for sample, reason in errors.items()},
        reference={
            name: SampleReadouts(
                readouts.components,
                {s: row for s, row in readouts.rows.items() if s in reference},
            )
            for name, readouts in collected.reference.items()
        },
    )


def batch_to_check(state: Collected, batch_size: int) -> range:
    """Return the samples of the batch with the most examples."""
    samples = torch.cat([top.sample[top.filled] for top in state.top.values()])
    number = int(torch.bincount(samples // batch_size).argmax()) if len(samples) else 0
    return range(number * batch_size, (number + 1) * batch_size)


def differing_examples(state: Collected, batch: Collected, samples: range) -> tuple[int, int]:
    """Compare the readouts of examples with those of a batch that is computed now, bit by bit.

    Returns
    -------
    tuple
        Number of examples of these samples in the state, and of those that differ.
    """
    compared = different = 0
    for name, top in state.top.items():
        of_batch = top.filled & (top.sample >= samples.start) & (top.sample < samples.stop)
        component, slot = of_batch.nonzero(as_tuple=True)
        # a key holds the bits of the readout, and the sample
        keys = top.key[component, slot][:, None]
        found = (batch.top[name].key[component] == keys).any(1)
        compared, different = compared + len(found), different + int((~found).sum())
    return compared, different


def read_totals(database: Database, layers: Sequence[str]) -> ClassRelevanceTotals | None:
    """Return the sums of class relevance, or None if there are none of just these layers."""
    if file_names.RELEVANCE_STATE not in database.manifest.files:
        return None
    flat = load_tensors(database.files.verified_path(file_names.RELEVANCE_STATE))
    if {name.rpartition("/")[0] for name in flat} != set(layers):
        return None
    return ClassRelevanceTotals.from_tensors(flat, layers)
