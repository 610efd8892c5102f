"""The state of a build that more data can continue: statistics of all batches but the last.

The last batch, if it is incomplete, is left out: with more data it is filled up, and a model may
round differently in another batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from semlens.recipe import FORMAT, fingerprint
from semlens.run.layer_stages import NewLayers, SelectedExamples
from semlens.run.plan import Plan
from semlens.run.relevance import ClassRelevanceTotals, explained_samples, relate_stage
from semlens.run.shards import Complete, Shards, Stage
from semlens.stages.collect import Collected, LayerStatistics
from semlens.store import file_names
from semlens.store.atomic_files import load_tensors
from semlens.store.manifest import Extendable
from semlens.store.reader import Database


class RecomputeWarning(UserWarning):
    """What a database holds has other bits than this machine computes: it is computed again."""


CAUSES = (
    "Probably the database was built on another processor, with another version of PyTorch or with "
    "another number of compute threads."
)


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
    layers: dict[str, LayerStatistics] = {}
    for name in database.layers:
        path = database.files.verified_path(file_names.state_file(name))
        layer = LayerStatistics.from_tensors(load_tensors(path))
        rows = {s: row for s, row in layer.reference.rows.items() if s in reference}
        layers[name] = replace(layer, reference=replace(layer.reference, rows=rows))
    errors = database.samples["error"].iloc[: whole.stop].dropna()
    return Collected(layers, {int(sample): str(reason) for sample, reason in errors.items()})


def batch_to_check(state: Collected, batch_size: int) -> range:
    """Return the samples of the batch with the most examples."""
    samples = torch.cat([one.top.sample[one.top.filled] for one in state.layers.values()])
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
    for name, layer in state.layers.items():
        top = layer.top
        of_batch = top.filled & (top.sample >= samples.start) & (top.sample < samples.stop)
        component, slot = of_batch.nonzero(as_tuple=True)
        # a key holds the bits of the readout, and the sample
        keys = top.key[component, slot][:, None]
        found = (batch.layers[name].top.key[component] == keys).any(1)
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


def continue_collect(
    database: Database,
    kept: Extendable,
    new: NewLayers,
    collect: Stage,
    shards: Shards,
    complete: Complete,
) -> bool:
    """Save the statistics of the database as the first shard, unless this machine rounds otherwise.

    One batch is computed again to find out.
    """
    state = read_collected(database, kept, new.reference)
    if state is None:
        return True
    batch = batch_to_check(state, kept.batch_size)
    check = replace(collect, key=fingerprint(FORMAT, "check", collect.key))
    complete(check, batch)
    (tensors,) = shards.load(check, batch)
    now = Collected.from_tensors(tensors, database.layers)
    compared, different = differing_examples(state, now, batch)
    if different:
        warnings.warn(
            f"{different} of {compared} readouts that were computed again differ in bits from "
            f"those of '{database.path}'. {CAUSES} All statistics are computed again.",
            RecomputeWarning,
            stacklevel=4,
        )
        return False
    shards.save(collect, kept.whole(database.manifest.samples), state.tensors())
    return True


def continue_relevance(
    database: Database,
    plan: Plan,
    selected: SelectedExamples,
    digests: Sequence[str],
    shards: Shards,
    *,
    is_same: bool,
) -> tuple[Stage, str]:
    """Save the class relevance of the database as the first shard, if it can be continued.

    Parameters
    ----------
    is_same
        Whether this machine rounds like that of the build.
    """
    rows = {layer.layout.name: len(layer.index) for layer in selected.layers}
    unreadable = set(selected.collected.unreadable)
    stage = relate_stage(plan, rows, unreadable, digests)
    entry, count = database.manifest.relevance, database.manifest.samples
    totals = read_totals(database, list(rows))
    if not is_same:
        return stage, "computed again: readouts differ in bits"
    if totals is None or entry is None:
        return stage, "computed again: the database does not have its state"
    if any(totals.layers[name].total.shape[1] != rows[name] for name in rows):
        return stage, "computed again: a layer has other signs than before"
    if plan.engines.rules_name(list(rows)) != entry.rules:
        return stage, "computed again: the rules differ"
    before, known = explained_samples(plan.targets.logits[:count], unreadable)
    after, known_after = explained_samples(plan.targets.logits, unreadable)
    whole = len(before) // stage.unit * stage.unit
    if (known is None) != (known_after is None) or before[:whole] != after[:whole]:
        return stage, "computed again: predicted classes were explained, now those of the data are"
    shards.save(stage, range(whole), totals.tensors())
    return stage, "continued"
