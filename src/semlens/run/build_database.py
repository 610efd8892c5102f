"""Building a database on one machine: stages over shards, resumable, the manifest last."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from semlens.data.verified_images import VerifiedImages, content_digests
from semlens.errors import DataError, RecipeError
from semlens.models.activations import LayerLayout
from semlens.models.forward import check_classes, check_logits
from semlens.models.reproducibility import check_reproducible
from semlens.progress import report_progress
from semlens.relevance.presets import check_rules
from semlens.run.crops import crop_pairs, crop_refs, list_pairs, region_finder
from semlens.run.index import layer_entry, samples_table, write_crops, write_layer
from semlens.run.plan import Advance, Plan, Shards
from semlens.run.reference import choose_reference, write_layer_reference, write_reference
from semlens.run.relevance import add_relevance, relabel
from semlens.stages.collect import Collected, collect, layer_layouts
from semlens.stages.embed import CropRef
from semlens.stages.select_examples import (
    components_table,
    select_examples,
)
from semlens.store import file_names
from semlens.store.manifest import MANIFEST_NAME, Manifest, Source
from semlens.store.reader import Database, data_fingerprint
from semlens.store.writer import BuildWriter, move_staged, write_lock


def build_database(path: Path, plan: Plan) -> Database:
    """Build a database, resume a build, or add layers or other classes to a database.

    Each shard is saved as soon as it is computed, and the manifest is written last: after an
    interruption, the same build computes only what is missing and gives the same bytes.

    Raises
    ------
    BusyError
        If another process is writing to it.
    StaleError
        If the database was built from another model, other data or another embedder, or if images
        change during the build.
    RecipeError
        If the database was built with other settings, or no layer is named.
    DataError
        If no image can be read.
    """
    if not plan.layers:
        raise RecipeError(
            "No layer is named.", "Expected at least one.", "Run 'semlens layers MODEL' for a list."
        )
    check_rules(plan.recipe.rules)
    if plan.relevance:
        check_logits(plan.model)
    check_classes(plan.model, plan.targets.logits)
    if plan.recipe.layout != "auto":
        plan = replace(plan, model=replace(plan.model, layout=plan.recipe.layout))
    with write_lock(path):
        database = None
        if (path / MANIFEST_NAME).is_file():
            move_staged(path, Manifest.load(path).files)
            database = Database(path)
            _check_compatible(database, plan)
        existing_layers = database.layers if database else ()
        plan = replace(
            plan, layers=tuple(n for n in dict.fromkeys(plan.layers) if n not in existing_layers)
        )
        # fails for a wrong layer before the data is hashed
        layouts = layer_layouts(plan.model, plan.layers, plan.recipe.readout)
        check_reproducible(plan.model, layouts, plan.recipe.readout)
        digests = _digests(plan)
        plan = replace(plan, images=VerifiedImages(plan.images, digests))
        if database:
            database.check_images(plan.images, digests)
            database, plan = relabel(database, plan)
        shards = Shards(path / file_names.PARTIAL)
        if plan.layers:
            database = _add_layers(path, database, plan, layouts, digests, shards)
        assert database is not None  # noqa: S101  # a new database has layers
        if plan.relevance or database.manifest.relevance is not None:
            database = add_relevance(database, plan, shards)
        shutil.rmtree(shards.folder, ignore_errors=True)
        return database


def _check_compatible(database: Database, plan: Plan) -> None:
    database.check_model(plan.model)
    database.check_embedder(plan.embedder)
    different = database.manifest.recipe.differences(plan.recipe)
    if different:
        raise RecipeError(
            f"The database '{database.path}' was built with other settings.",
            f"They differ in {'; '.join(different)}.",
            "Use the same settings to add layers, or build into a new path.",
        )


def _digests(plan: Plan) -> list[str]:
    digests: list[str] = []
    for digest in content_digests(plan.images, plan.execution.threads):
        digests.append(digest)
        report_progress("hash", len(digests), len(plan.images))
    return digests


def _add_layers(
    path: Path,
    database: Database | None,
    plan: Plan,
    layouts: list[LayerLayout],
    digests: list[str],
    shards: Shards,
) -> Database:
    """Collect, select, attribute, embed and index the plan's layers."""
    data, model = data_fingerprint(plan.images.ids, digests), plan.model.fingerprint
    previous = database.manifest if database else None
    chosen = choose_reference(plan, layouts, previous, digests)
    key = plan.collect_key(data, model, len(chosen))
    crops = plan.crops(layouts)
    collected = _collect(plan, layouts, chosen, shards, key)
    reference = [sample for sample in chosen if sample not in collected.unreadable]
    if previous:
        reference = reference[: previous.reference]
    layers = [select_examples(collected, layout, plan.recipe.signs) for layout in layouts]
    pairs, slots = list_pairs(layers)
    key = plan.embed_key(key, crops, previous.crops if previous else [])
    cropped = crop_pairs(
        plan,
        region_finder(plan, layouts, crops),
        pairs,
        _existing_crops(database),
        () if previous else set(reference),  # those of an existing database have vectors
        shards,
        key,
    )

    writer = BuildWriter(path, previous)
    reference_count = previous.reference if previous else len(reference)
    if reference and not previous:
        write_reference(writer, reference, cropped.whole)
    old_vectors = [torch.from_numpy(database.crop_vectors)] if database else []
    crop_sizes = write_crops(
        writer, cropped.new_crops, digests, plan, list(previous.crops) if previous else []
    )
    all_vectors = torch.cat([*old_vectors, *(shard["vector"] for shard in cropped.new_crops)])
    entries = list(previous.layers) if previous else []
    for layer_index, layer in enumerate(layers):
        first_row = entries[-1].first + entries[-1].rows if entries else 0
        write_layer(writer, layer, first_row, cropped, slots, layer_index, all_vectors, plan)
        entry = layer_entry(layer, crops[layer_index], first_row, collected)
        if reference_count:
            rows = collected.reference[entry.name]
            entry = write_layer_reference(writer, entry, rows, reference)
        entries.append(entry)
    tables = [components_table(layer) for layer in layers]
    if database:
        tables.insert(0, database.files.table(file_names.COMPONENTS))
    else:
        samples = samples_table(plan, digests, collected)
        writer.table(file_names.SAMPLES, samples, rows_per_group=file_names.SAMPLE_GROUP)
    writer.table(file_names.COMPONENTS, pa.concat_tables(tables))
    writer.commit(
        Manifest(
            model=Source(spec=plan.model.spec, fingerprint=model),
            data=Source(spec=plan.images.spec, fingerprint=data),
            embedder=Source(spec=plan.embedder.spec, fingerprint=plan.embedder.fingerprint),
            recipe=plan.recipe,
            classes=list(plan.model.classes) if plan.model.classes is not None else None,
            samples=len(plan.images),
            unreadable=len(collected.unreadable),
            dim=plan.embedder.dim,
            layers=entries,
            relevance=previous.relevance if previous else None,
            crops=crop_sizes,
            reference=reference_count,
            files={},
        )
    )
    return Database(path)


def _collect(
    plan: Plan, layouts: list[LayerLayout], chosen: list[int], shards: Shards, key: str
) -> Collected:
    batch_size, total = plan.execution.batch_size, len(plan.images)
    reference = frozenset(chosen)

    def compute(shard: range, advance: Mapping[str, Advance]) -> Mapping[str, Tensor]:
        return collect(
            plan.model,
            plan.images,
            layouts,
            range(shard.start // batch_size, -(-shard.stop // batch_size)),
            examples=plan.recipe.examples,
            readout=plan.recipe.readout,
            signs=plan.recipe.signs,
            reference=reference,
            batch_size=batch_size,
            workers=plan.execution.threads,
            progress=advance["collect"],
        ).tensors()

    shard_tensors = shards.load_or_compute(
        ("collect",), key, plan.execution.shards(total), total, compute
    )
    collected = reduce(
        Collected.merge, (Collected.from_tensors(tensors, plan.layers) for tensors in shard_tensors)
    )
    if len(collected.unreadable) == total:
        raise DataError(
            f"None of the {total} images of '{plan.images.spec}' can be read. "
            f"{next(iter(collected.unreadable.values()))}",
            "Expected at least one readable image.",
            "Check the files.",
        )
    return collected


def _existing_crops(database: Database | None) -> dict[CropRef, int]:
    if database is None:
        return {}
    samples, boxes = map(torch.from_numpy, (database.crop_samples, database.crop_boxes))
    return {crop: index for index, crop in enumerate(crop_refs(samples, boxes))}
