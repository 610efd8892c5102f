"""Adding class relevance to a finished database, and changing the classes of its images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from semlens.data.class_mapping import TargetMap
from semlens.data.images import Images
from semlens.data.verified_images import VerifiedImages
from semlens.errors import RelevanceError
from semlens.models.subject import SubjectModel, batch_inputs, prepared_batches
from semlens.recipe import FORMAT, fingerprint
from semlens.relevance.class_relevance import explain_batch, images_per_pass, shares
from semlens.relevance.make_engine import EngineCache
from semlens.run.executors.executor import Advance, Inputs
from semlens.run.plan import Plan
from semlens.run.shards import Shards, Stage
from semlens.store import file_names
from semlens.store.manifest import LayerEntry, Manifest, RelevanceEntry
from semlens.store.reader import Database, data_fingerprint
from semlens.store.schema import RELEVANCE, RELEVANCE_CLASSES, SAMPLES
from semlens.store.writer import BuildWriter
from semlens.streaming.statistics import ClassShares


@dataclass(frozen=True)
class ClassRelevanceTotals:
    """Shares of relevance by layer; merging is associative and commutative."""

    layers: Mapping[str, ClassShares]

    def merge(self, other: ClassRelevanceTotals) -> ClassRelevanceTotals:
        """Merge the totals of two disjoint sets of samples."""
        return ClassRelevanceTotals(
            {name: shares.merge(other.layers[name]) for name, shares in self.layers.items()}
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all values as named tensors, for a file."""
        return {
            f"{name}/{field}": value
            for name, layer_shares in self.layers.items()
            for field, value in vars(layer_shares).items()
        }

    @classmethod
    def from_tensors(cls, flat: Mapping[str, Tensor], names: Sequence[str]) -> ClassRelevanceTotals:
        """Return totals from the result of :meth:`tensors`."""
        fields = ("classes", "count", "total", "maximum")
        return cls(
            {name: ClassShares(*(flat[f"{name}/{field}"] for field in fields)) for name in names}
        )


def collect_class_relevance(
    model: SubjectModel,
    engines: EngineCache,
    images: Images,
    rows: Mapping[str, int],
    samples: Sequence[int],
    targets: Mapping[int, int] | None,
    *,
    batch_size: int = 32,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> ClassRelevanceTotals:
    """Compute the relevance of all components for each sample's class.

    Parameters
    ----------
    rows
        Number of components by layer: channels, or twice as many if both signs count.
    samples
        Samples to explain; samples that cannot be read are skipped.
    targets
        Logit of each sample, or None to explain the predicted class.
    """
    totals = ClassRelevanceTotals({name: ClassShares.empty(count) for name, count in rows.items()})

    for batch in prepared_batches(model, images.read, samples, batch_size, workers):
        ready = [item for item in batch if item.inputs is not None]
        if ready:
            inputs = batch_inputs(model, ready)
            classes = None if targets is None else [targets[item.sample] for item in ready]
            images_at_once = images_per_pass(engines.engine(inputs, list(rows)))
            for start in range(0, len(inputs), images_at_once):
                chunk = slice(start, start + images_at_once)
                chunk_classes = None if classes is None else classes[chunk]
                totals = totals.merge(_batch_totals(engines, inputs[chunk], rows, chunk_classes))
        progress(len(batch))
    return totals


def _batch_totals(
    engines: EngineCache, inputs: Tensor, rows: Mapping[str, int], classes: list[int] | None
) -> ClassRelevanceTotals:
    given = None if classes is None else torch.tensor(classes, dtype=torch.int64)
    engine = engines.engine(inputs, list(rows))
    target, relevance = explain_batch(engine, inputs, list(rows), given)
    by_layer: list[Tensor] = []
    for name, count in rows.items():
        by_sign = relevance.get(name)
        if by_sign is None:  # the logits do not depend on this layer
            by_layer.append(torch.zeros(len(target), count, device=inputs.device))
            continue
        both_signs = count == 2 * by_sign.shape[-1]
        by_layer.append(shares(by_sign.flatten(1) if both_signs else by_sign.sum(1)).float())
    on_cpu = torch.cat(by_layer, dim=1).cpu()  # one copy: the CPU waits for the device at each
    pieces = on_cpu.split([*rows.values()], dim=1)
    return ClassRelevanceTotals(
        {
            name: ClassShares.from_batch(target, piece)
            for name, piece in zip(rows, pieces, strict=True)
        }
    )


MIN_SHARE = 1e-3
"""Shares below a thousandth, on every sample and on average, are not stored."""


@dataclass(frozen=True)
class RelateTask:
    """Computes class relevance on whole batches.

    Parameters
    ----------
    samples
        Range in the list of all samples that are explained.
    explained
        The samples themselves.
    digests
        Digest of each of them.
    rows
        Number of components by layer.
    logits
        Logit of each sample, or None to explain the predicted class.
    """

    samples: range
    explained: Sequence[int]
    digests: Mapping[int, str]
    rows: Mapping[str, int]
    logits: Mapping[int, int] | None

    def __call__(self, inputs: Inputs, advance: Mapping[str, Advance]) -> Mapping[str, Tensor]:
        """Return the tensors of :class:`~semlens.run.relevance.ClassRelevanceTotals`."""
        return collect_class_relevance(
            inputs.model,
            inputs.engines,
            VerifiedImages(inputs.images, self.digests),
            self.rows,
            self.explained,
            self.logits,
            batch_size=inputs.batch_size,
            workers=inputs.threads,
            progress=advance["relate"],
        ).tensors()


def relate_stage(
    plan: Plan,
    rows: Mapping[str, int],
    unreadable: Collection[int],
    digests: Sequence[str],
) -> Stage:
    """Return the stage that computes class relevance.

    Parameters
    ----------
    rows
        Number of components by layer, in the order of the layers of the database.

    Raises
    ------
    RelevanceError
        If no sample has a class that is a logit.
    """
    logits, batch_size = plan.targets.logits, plan.execution.batch_size
    samples, logit_of_sample = explained_samples(logits, unreadable)
    if not samples:
        raise RelevanceError(
            "No sample has a class that is a logit of the model.",
            "Expected readable samples with class names of the model.",
            "Map the class names to logits with classes=FILE (--classes), or omit relevance.",
        )

    def task(shard: range) -> RelateTask:
        mine = samples[shard.start : shard.stop]
        targets = None if logit_of_sample is None else {i: logit_of_sample[i] for i in mine}
        return RelateTask(shard, mine, {i: digests[i] for i in mine}, rows, targets)

    key = fingerprint(
        FORMAT, "relate", plan.model.fingerprint, data_fingerprint(plan.images.ids, digests),
        rows, plan.dictionary_fingerprints, plan.engines.rules_name(list(rows)), list(logits),
        batch_size, plan.model.device.type,
    )  # fmt: skip
    return Stage(("relate",), key, len(samples), batch_size, task)


def explained_samples(
    logits: Sequence[int | None], unreadable: Collection[int]
) -> tuple[list[int], dict[int, int] | None]:
    """Return the samples whose class is explained, and the logit of each sample that has one.

    If none has a logit, all are explained for the class that is predicted, and the latter is None.
    """
    known = {i: logit for i, logit in enumerate(logits) if logit is not None} or None
    readable = (i for i in range(len(logits)) if i not in unreadable)
    return [i for i in readable if known is None or i in known], known


def layers_without_relevance(manifest: Manifest) -> list[LayerEntry]:
    """Return the layers whose class relevance is not in the database."""
    return [
        layer
        for layer in manifest.layers
        if file_names.relevance_file(layer.name) not in manifest.files
    ]


def add_relevance(
    database: Database,
    plan: Plan,
    digests: Sequence[str],
    shards: Shards,
    complete: Callable[[Stage], None],
) -> Database:
    """Compute the class relevance that a database lacks, and add it.

    Shards are saved as soon as they are computed; the manifest is written last.

    Raises
    ------
    RelevanceError
        If the model has no logits, or its relevance cannot be computed.
    """
    manifest = database.manifest
    missing = layers_without_relevance(manifest)
    if not missing:
        return database
    rules = plan.engines.rules_name([layer.name for layer in missing])
    previous = manifest.relevance
    if previous is not None and previous.rules != rules and len(missing) < len(manifest.layers):
        raise RelevanceError(
            f"The new layers would use the rules '{rules}'.",
            f"Expected '{previous.rules}', like the existing layers.",
            "Build all layers into a new path.",
        )
    rows = {layer.name: layer.rows for layer in missing}
    unreadable = np.flatnonzero(database.samples["error"].notna().to_numpy()).tolist()
    stage = relate_stage(plan, rows, set(unreadable), digests)
    complete(stage)
    writer = BuildWriter(database.path, manifest)
    writer.drop(file_names.RELEVANCE_STATE)  # sums of two passes cannot be continued as one
    keep_state = plan.extendable and len(missing) == len(manifest.layers)
    entry = write_relevance(writer, plan, missing, stage, shards, keep_state=keep_state)
    writer.commit(manifest.model_copy(update={"relevance": entry}))
    return Database(database.path)


def write_relevance(
    writer: BuildWriter,
    plan: Plan,
    layers: Sequence[LayerEntry],
    stage: Stage,
    shards: Shards,
    *,
    keep_state: bool,
) -> RelevanceEntry:
    """Write the class relevance of some layers from the shards of a complete stage."""
    names = [layer.name for layer in layers]
    totals, whole = shards.merged(
        stage,
        lambda tensors: ClassRelevanceTotals.from_tensors(tensors, names),
        ClassRelevanceTotals.merge,
    )
    for layer in layers:
        table = relevance_table(totals.layers[layer.name], layer)
        writer.table(file_names.relevance_file(layer.name), table)
    any_layer = totals.layers[names[0]]
    counts = {"class": any_layer.classes.numpy(), "samples": any_layer.count.numpy()}
    writer.table(file_names.RELEVANCE_CLASSES, pa.table(counts, schema=RELEVANCE_CLASSES))
    if keep_state and whole is not None:
        writer.tensors(file_names.RELEVANCE_STATE, whole.tensors())
    has_classes = any(logit is not None for logit in plan.targets.logits)
    targets = "classes" if has_classes else "predictions"
    return RelevanceEntry(rules=plan.engines.rules_name(names), targets=targets, floor=MIN_SHARE)


def relevance_table(shares: ClassShares, layer: LayerEntry) -> pa.Table:
    """Return rows of ``relevance/LAYER.parquet``: component, class, mean and maximum share."""
    mean, maximum = shares.mean.numpy(), shares.maximum.numpy()
    above_floor = (np.abs(mean) >= MIN_SHARE) | (maximum >= MIN_SHARE)
    class_index, component = np.nonzero(above_floor)
    return pa.table(
        {
            "component": component + layer.first,
            "class": shares.classes.numpy()[class_index],
            "mean": mean[above_floor],
            "max": maximum[above_floor],
        },
        schema=RELEVANCE,
    )


def relabel(database: Database, plan: Plan) -> tuple[Database, Plan]:
    """Set the database's classes to those of the plan if it says so, or else the reverse.

    If logits change, previous class relevance becomes invalid: the manifest no longer lists its
    files, and :func:`semlens.run.relevance.add_relevance` recomputes them.
    """
    table = database.files.table(file_names.SAMPLES)
    current = TargetMap(tuple(table["logit"].to_pylist()), tuple(table["target"].to_pylist()))
    names = plan.targets.names or (None,) * len(plan.images)
    if not plan.relabel or (plan.targets.logits, names) == (current.logits, current.names):
        return database, replace(plan, targets=current)
    for name, values in (("target", names), ("logit", plan.targets.logits)):
        column = SAMPLES.get_field_index(name)
        table = table.set_column(
            column, SAMPLES.field(name), pa.array(values, SAMPLES.field(name).type)
        )
    writer = BuildWriter(database.path, database.manifest)
    writer.table(file_names.SAMPLES, table, rows_per_group=file_names.SAMPLE_GROUP)
    if plan.targets.logits != current.logits:
        writer.drop(file_names.RELEVANCE)
        writer.drop(file_names.RELEVANCE_STATE)
    writer.commit(database.manifest)
    return Database(database.path), plan
