"""Continuing the stages of a build from the state of a database, if its bits are the same."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

from semlens.recipe import FORMAT, fingerprint
from semlens.run.layer_stages import NewLayers, SelectedExamples
from semlens.run.plan import Plan
from semlens.run.relevance import explained_samples, relate_stage
from semlens.run.shards import Complete, Shards, Stage
from semlens.run.state import (
    CAUSES,
    RecomputeWarning,
    batch_to_check,
    differing_examples,
    read_collected,
    read_totals,
)
from semlens.stages.collect import Collected
from semlens.store.manifest import Extendable
from semlens.store.reader import Database


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
