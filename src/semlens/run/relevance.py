"""Classes of a finished database: other ones for its images, and class relevance by shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce

import numpy as np
import pyarrow as pa
from torch import Tensor

from semlens.data.class_mapping import TargetMap
from semlens.errors import RelevanceError
from semlens.recipe import FORMAT, fingerprint
from semlens.run.plan import Advance, Plan, Shards
from semlens.stages.class_relevance import ClassRelevanceTotals, collect_class_relevance
from semlens.store import file_names
from semlens.store.manifest import LayerEntry, RelevanceEntry
from semlens.store.reader import Database
from semlens.store.schema import RELEVANCE, RELEVANCE_CLASSES, SAMPLES
from semlens.store.writer import BuildWriter
from semlens.streaming.statistics import ByClass

FLOOR = 1e-3
"""Shares under a thousandth, on every sample and on average, are not kept."""


def add_relevance(database: Database, plan: Plan, shards: Shards) -> Database:
    """Compute what class relevance a database still lacks, and add it.

    Shards are saved as they are done; the manifest names the new files last of all.

    Raises
    ------
    RelevanceError
        If the model has no logits, or no relevance of it can be computed.
    """
    manifest = database.manifest
    there = manifest.files
    lacking = [one for one in manifest.layers if file_names.relevance_file(one.name) not in there]
    if not lacking:
        return database
    rules = plan.engines.name([layer.name for layer in lacking])
    before = manifest.relevance
    if before is not None and before.rules != rules and len(lacking) < len(manifest.layers):
        raise RelevanceError(
            f"The new layers would follow the rules '{rules}'.",
            f"Expected '{before.rules}', as the layers that are there.",
            "Build all of them into a new path.",
        )
    related = _related(database, plan, lacking, shards)
    writer = BuildWriter(database.path, manifest)
    for layer in lacking:
        table = relevance_table(related.layers[layer.name], layer)
        writer.table(file_names.relevance_file(layer.name), table)
    some = related.layers[lacking[0].name]
    counts = {"class": some.classes.numpy(), "samples": some.count.numpy()}
    writer.table(file_names.RELEVANCE_CLASSES, pa.table(counts, schema=RELEVANCE_CLASSES))
    known = any(logit is not None for logit in plan.targets.logits)
    targets = "classes" if known else "predictions"
    entry = RelevanceEntry(rules=rules, targets=targets, floor=FLOOR)
    writer.commit(manifest.model_copy(update={"relevance": entry}))
    return Database(database.path)


def _related(
    database: Database, plan: Plan, lacking: list[LayerEntry], shards: Shards
) -> ClassRelevanceTotals:
    rows = {layer.name: layer.rows for layer in lacking}
    logits, execution = plan.targets.logits, plan.execution
    known = {i: logit for i, logit in enumerate(logits) if logit is not None} or None
    readable = np.flatnonzero(database.samples["error"].isna().to_numpy()).tolist()
    samples: list[int] = [i for i in readable if known is None or i in known]
    if not samples:
        raise RelevanceError(
            "No sample has a class that is a logit of the model.",
            "Expected samples that can be read, with class names of the model.",
            "Map the class names to logits with classes=FILE (--classes), or leave relevance out.",
        )

    def compute(shard: range, advance: Mapping[str, Advance]) -> Mapping[str, Tensor]:
        return collect_class_relevance(
            plan.model, plan.engines, plan.images, rows, samples[shard.start : shard.stop],
            known, batch_size=execution.batch_size, workers=execution.threads,
            progress=advance["relate"],
        ).tensors()  # fmt: skip

    key = fingerprint(
        FORMAT, "relate", database.manifest.model.fingerprint, database.manifest.data.fingerprint,
        rows, plan.engines.name(list(rows)), list(logits), execution.batch_size,
        plan.model.device.type,
    )  # fmt: skip
    parts = shards.of(("relate",), key, execution.shards(len(samples)), len(samples), compute)
    return reduce(
        ClassRelevanceTotals.merge,
        (ClassRelevanceTotals.from_tensors(part, list(rows)) for part in parts),
    )


def relevance_table(found: ByClass, layer: LayerEntry) -> pa.Table:
    """Rows of ``relevance/LAYER.parquet``: component, class, mean and maximum share."""
    mean, most = found.mean.numpy(), found.maximum.numpy()
    kept = (np.abs(mean) >= FLOOR) | (most >= FLOOR)
    place, component = np.nonzero(kept)
    return pa.table(
        {
            "component": component + layer.first,
            "class": found.classes.numpy()[place],
            "mean": mean[kept],
            "max": most[kept],
        },
        schema=RELEVANCE,
    )


def relabel(database: Database, plan: Plan) -> tuple[Database, Plan]:
    """Give the images the plan's classes if it says so, or the plan those of the database.

    Class relevance of before is void then: the manifest no longer names its files, and
    :func:`semlens.run.relevance.add_relevance` computes them again.
    """
    table = database.files.table(file_names.SAMPLES)
    kept = TargetMap(tuple(table["logit"].to_pylist()), tuple(table["target"].to_pylist()))
    names = plan.targets.names or (None,) * len(plan.images)
    if not plan.relabel or (plan.targets.logits, names) == (kept.logits, kept.names):
        return database, replace(plan, targets=kept)
    for name, values in (("target", names), ("logit", plan.targets.logits)):
        place = SAMPLES.get_field_index(name)
        table = table.set_column(
            place, SAMPLES.field(name), pa.array(values, SAMPLES.field(name).type)
        )
    writer = BuildWriter(database.path, database.manifest)
    writer.table(file_names.SAMPLES, table, group=file_names.SAMPLE_GROUP)
    if plan.targets.logits != kept.logits:
        writer.forget(file_names.RELEVANCE)
    writer.commit(database.manifest)
    return Database(database.path), plan
