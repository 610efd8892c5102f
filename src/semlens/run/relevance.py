"""Class relevance of a finished database's layers, shard by shard."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from semlens.data.targets import TargetMap
from semlens.errors import RelevanceError
from semlens.mergeable.statistics import ByClass
from semlens.recipe import FORMAT, fingerprint
from semlens.run.plan import Plan, Progress
from semlens.stages.relate import Related, relate
from semlens.store import layout
from semlens.store.files import file_digest, load_tensors, save_table, save_tensors
from semlens.store.manifest import LayerEntry, RelevanceEntry
from semlens.store.reader import Database

FLOOR = 1e-3
"""Shares under a thousandth, on every sample and on average, are not kept."""


def add_relevance(path: Path, plan: Plan, targets: TargetMap, progress: Progress) -> Database:
    """Compute what class relevance a database still lacks, and add it.

    Shards are saved as they are done; the manifest names the new files last of all.

    Raises
    ------
    RelevanceError
        If the model has no logits, or no relevance of it can be computed.
    """
    database = Database(path)
    lacking = [
        layer
        for layer in database.manifest.layers
        if layout.relevance_file(layer.name) not in database.manifest.files
    ]
    if not lacking:
        return database
    rules = plan.engines.name([layer.name for layer in lacking])
    before = database.manifest.relevance
    if before is not None and before.rules != rules:
        raise RelevanceError(
            f"The new layers would follow the rules '{rules}'.",
            f"Expected '{before.rules}', as the layers that are there.",
            "Build all of them into a new path.",
        )
    related = _related(database, plan, lacking, targets, progress)
    written = dict(database.manifest.files)
    for layer in lacking:
        name = layout.relevance_file(layer.name)
        save_table(path / name, relevance_table(related.layers[layer.name], layer))
        written[name] = file_digest(path / name)
    some = related.layers[lacking[0].name]
    counts = pa.table({"class": some.classes.numpy(), "samples": some.count.numpy()})
    save_table(path / layout.RELEVANCE_CLASSES, counts)
    written[layout.RELEVANCE_CLASSES] = file_digest(path / layout.RELEVANCE_CLASSES)
    manifest = database.manifest.model_copy(
        update={
            "files": dict(sorted(written.items())),
            "relevance": RelevanceEntry(rules=rules, targets=_kind(targets), floor=FLOOR),
        }
    )
    manifest.save(path)
    return Database(path)


def _kind(targets: TargetMap) -> Literal["classes", "predictions"]:
    return "predictions" if all(logit is None for logit in targets.logits) else "classes"


def _related(
    database: Database,
    plan: Plan,
    lacking: list[LayerEntry],
    targets: TargetMap,
    progress: Progress,
) -> Related:
    partial = database.path / layout.PARTIAL
    partial.mkdir(exist_ok=True)
    rows = {layer.name: layer.rows for layer in lacking}
    readable = np.flatnonzero(database.samples["error"].isna().to_numpy()).tolist()
    predicted = _kind(targets) == "predictions"
    known = {i: logit for i, logit in enumerate(targets.logits) if logit is not None}
    samples: list[int] = [i for i in readable if predicted or i in known]
    execution = plan.execution
    key = fingerprint(
        FORMAT, "relate", database.manifest.model.fingerprint, database.manifest.data.fingerprint,
        rows, plan.engines.name(list(rows)), list(targets.logits), execution.batch_size,
        plan.model.device.type,
    )  # fmt: skip
    merged: Related | None = None
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress("relate", done, len(samples))

    for shard in execution.shards(len(samples)):
        name = f"relate-{key[:16]}-{shard.start:08d}-{shard.stop:08d}.safetensors"
        if (partial / name).is_file():
            part = Related.from_tensors(load_tensors(partial / name), list(rows))
            advance(len(shard))
        else:
            part = relate(
                plan.model, plan.engines, plan.images, rows, samples[shard.start : shard.stop],
                None if predicted else known, batch_size=execution.batch_size,
                workers=execution.threads, progress=advance,
            )  # fmt: skip
            save_tensors(partial / name, part.tensors())
        merged = part if merged is None else merged.merge(part)
    if merged is None:
        raise RelevanceError(
            "No sample has a class that is a logit of the model.",
            "Expected samples whose class names are the model's.",
            "Map them with --classes FILE, or leave --relevance out.",
        )
    return merged


def relevance_table(found: ByClass, layer: LayerEntry) -> pa.Table:
    """Rows of ``relevance/LAYER.parquet``: component, class, mean and maximum share."""
    mean, most = found.mean.numpy(), found.maximum.numpy()
    kept = (np.abs(mean) >= FLOOR) | (most >= FLOOR)
    place, component = np.nonzero(kept)
    return pa.table(
        {
            "component": pa.array(component + layer.first, pa.int32()),
            "class": pa.array(found.classes.numpy()[place], pa.int32()),
            "mean": pa.array(mean[kept], pa.float32()),
            "max": pa.array(most[kept], pa.float32()),
        }
    )
