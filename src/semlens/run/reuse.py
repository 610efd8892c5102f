"""What an extension takes over from a database, after a check: statistics and crops.

Statistics are those of all batches but an incomplete last one: with more data it is filled up, and
a model may round differently in another batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from semlens.recipe import FORMAT, fingerprint
from semlens.run.crop_tasks import merge_crops
from semlens.run.crops import CroppedPairs, crop_stage, load_crops, referenced_samples
from semlens.run.known_crops import CropPart, KnownCrops, assemble
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


@dataclass(frozen=True)
class CropUse:
    """Where the crops of an extended database are from.

    Parameters
    ----------
    reused, computed
        Number of crops.
    new_examples, changed_components
        Examples that the database did not have, and components that have one.
    compared
        Examples and whole images that were compared with what is computed now.
    """

    reused: int
    computed: int
    new_examples: int
    changed_components: int
    compared: int


def crops_of_extension(
    database: Database,
    new: NewLayers,
    selected: SelectedExamples,
    shards: Shards,
    complete: Complete,
    *,
    recompute: bool,
) -> tuple[CroppedPairs, CropUse]:
    """Return the crops that a build over all data would have made.

    A build computes crops in other batches, which may round differently. So some blocks of the
    build that have examples of the database are computed, and compared bit by bit. If anything
    differs, all crops are computed.

    Parameters
    ----------
    recompute
        Whether all crops are computed in any case.

    Warns
    -----
    RecomputeWarning
        If a crop of the database differs.
    """
    pairs = selected.pairs
    known = KnownCrops.of(database, new.layouts, new.crops, pairs)
    changed = pairs.take(~known.is_known)
    components = np.column_stack([changed.layer, changed.channel, changed.sign])
    counts = len(changed), len(np.unique(components, axis=0))
    if not recompute:
        checked = [
            _compute_block(selected, block, shards, complete)
            for block in _blocks_to_check(selected, known)
        ]
        thumbnails = new.plan.recipe.thumbnails
        found = [known.compare(part, thumbnails=thumbnails) for part in checked]
        compared, different = (sum(numbers) for numbers in zip((0, 0), *found, strict=True))
        if not different:
            parts = [known.lacking(part) for part in checked]
            parts += _compute_missing(new, selected, known, parts, shards, complete)
            cropped, reused = assemble(pairs, known, parts, thumbnails=thumbnails)
            computed = len(cropped.new_crops["vector"]) - reused
            return cropped, CropUse(reused, computed, *counts, compared)
        warnings.warn(
            f"{different} of {compared} examples that were cropped and embedded again differ in "
            f"bits from those of '{database.path}'. {CAUSES} All crops are computed again.",
            RecomputeWarning,
            stacklevel=2,
        )
    complete(selected.crop)
    cropped = load_crops(selected.crop, shards, 0)
    return cropped, CropUse(0, len(cropped.new_crops["vector"]), *counts, 0)


def _blocks_to_check(selected: SelectedExamples, known: KnownCrops) -> list[range]:
    """Return some of the blocks with something that the database has.

    They are the first, the middle and the last one; of less than twelve blocks only the first and
    the last, and of less than eight only the middle one, so that little is computed twice.
    """
    stage, pairs = selected.crop, selected.pairs
    known_samples = {*pairs.sample[known.is_known].tolist(), *known.whole}
    cropped, others = referenced_samples(pairs, selected.reference)
    numbers = sorted(
        {
            place // stage.unit
            for place, sample in enumerate([*cropped, *others])
            if sample in known_samples
        }
    )
    first, middle, last = numbers[:1], numbers[len(numbers) // 2 :][:1], numbers[-1:]
    chosen = [*first, *last] if len(numbers) >= 8 else middle
    chosen = [*first, *middle, *last] if len(numbers) >= 12 else chosen
    return [
        range(number * stage.unit, min((number + 1) * stage.unit, stage.total)) for number in chosen
    ]


def _compute_block(
    selected: SelectedExamples, block: range, shards: Shards, complete: Complete
) -> CropPart:
    """Compute a block as a build over all data does."""
    complete(selected.crop, block)
    cropped, _ = referenced_samples(selected.pairs, selected.reference)
    pairs = np.flatnonzero(np.isin(selected.pairs.sample, cropped[block.start : block.stop]))
    return CropPart(pairs, merge_crops(shards.load(selected.crop, block)))


def _compute_missing(
    new: NewLayers,
    selected: SelectedExamples,
    known: KnownCrops,
    parts: Sequence[CropPart],
    shards: Shards,
    complete: Complete,
) -> list[CropPart]:
    """Compute what neither the database nor the checked blocks have."""
    missing = ~known.is_known
    whole = set(selected.reference).difference(known.whole)
    for part in parts:
        missing[part.pairs] = False
        whole.difference_update(part.computed["whole_sample"].tolist())
    pairs = selected.pairs.take(missing)
    if not len(pairs) and not whole:
        return []
    existing = known.crops_of(sorted(set(pairs.sample.tolist())))
    fixed = [known.database.fingerprint, np.flatnonzero(missing).tolist(), sorted(whole)]
    key = fingerprint(FORMAT, "extend", selected.crop.key, fixed)
    stage = crop_stage(
        new.plan, new.layouts, new.crops, new.digests, pairs, existing, whole, key
    )  # fmt: skip
    complete(stage)
    return [CropPart(np.flatnonzero(missing), merge_crops(shards.load(stage)))]
