"""Building a database: stages over shards, resumable, the manifest last."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import torch

from semlens.data.verified_images import stale_error
from semlens.embedders.embedder import check_precision
from semlens.embedders.precomputed import PrecomputedVectors
from semlens.errors import RecipeError, StaleError
from semlens.models.activations import LayerLayout
from semlens.models.forward import check_classes
from semlens.models.inspection import check_reproducible
from semlens.relevance.presets import check_rules
from semlens.run.crops import (
    CroppedPairs,
    layer_entry,
    load_crops,
    samples_table,
    write_crops,
    write_layer,
)
from semlens.run.dictionaries import add_dictionaries, write_layer_dictionary
from semlens.run.executors.executor import Workers
from semlens.run.layer_stages import (
    NewLayers,
    SelectedExamples,
    write_layer_reference,
    write_reference,
)
from semlens.run.plan import Plan
from semlens.run.relevance import add_relevance, relabel
from semlens.run.shards import Complete, Shards, Stage, hash_images
from semlens.stages.collect import layer_layouts
from semlens.stages.embed import check_known_vectors
from semlens.stages.own_boxes import check_same_boxes, count_without_box
from semlens.stages.select_examples import components_table
from semlens.store import file_names
from semlens.store.manifest import MANIFEST_NAME, Manifest, Source
from semlens.store.model_output import output_entry
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
    WorkerError
        If workers cannot be started, or are lost again and again.
    """
    plan = check_plan(plan)
    with write_lock(path):
        database, plan, layouts = open_existing(path, plan)
        with plan.execution.executor.start(plan.inputs) as workers:
            digests = hash_images(plan, workers)
            shards = Shards(path / file_names.PARTIAL)
            complete = completion(plan, shards, workers, digests)
            return finish(path, database, plan, layouts, digests, shards, complete)


def completion(plan: Plan, shards: Shards, workers: Workers, digests: Sequence[str]) -> Complete:
    """Return the function that completes a stage, or a part of it, with workers."""

    def complete(stage: Stage, within: range | None = None) -> None:
        try:
            shards.complete(stage, workers, plan.execution, within)
        except StaleError as error:  # it lists the images of one shard
            raise stale_error(plan.images, dict(enumerate(digests)), []) from error

    return complete


def check_plan(plan: Plan) -> Plan:
    """Check what needs no database; return the plan with the layout of its recipe."""
    if not plan.layers:
        raise RecipeError(
            "No layer is named.", "Expected at least one.", "Run 'semlens layers MODEL' for a list."
        )
    check_rules(plan.recipe.rules)
    if plan.relevance or plan.recipe.rank == "relevance":
        check_explained(plan)
    check_classes(plan.model, plan.targets.logits)
    if plan.recipe.layout != "auto":
        plan = replace(plan, model=replace(plan.model, layout=plan.recipe.layout))
    check_known_vectors(plan.embedder, plan.images)
    check_precision(plan.embedder, plan.recipe.embedder_precision)
    return plan


def check_explained(plan: Plan) -> None:
    """Raise an error if there is no class, or single value, to explain on each image.

    Raises
    ------
    ModelError
        If the model returns no logits; or values or an embedding, and the class is to be predicted.
    """
    answer = plan.model.answer
    by_prediction = plan.recipe.rank == "relevance" or not any(
        logit is not None for logit in plan.targets.logits
    )
    if answer.task == "embedding" or (by_prediction and answer.count > 1):
        answer.check_classes()


def open_existing(
    path: Path, plan: Plan, *, fit: bool = True
) -> tuple[Database | None, Plan, list[LayerLayout]]:
    """Return the database if there is one, and the plan and layouts of the layers it lacks.

    Parameters
    ----------
    fit
        Whether directions that the plan asks for may be fitted.
    """
    database = None
    if (path / MANIFEST_NAME).is_file():
        move_staged(path, Manifest.load(path).files)
        database = Database(path)
        _check_compatible(database, plan)
        plan = _keep_extendable(database, plan)
    existing_layers = database.layers if database else ()
    plan = add_dictionaries(path, plan, database, fit=fit)
    plan = replace(
        plan, layers=tuple(n for n in dict.fromkeys(plan.layers) if n not in existing_layers)
    )
    # fails for a wrong layer before the data is hashed
    layouts = layer_layouts(plan.model, plan.layers, plan.recipe.readout)
    check_reproducible(plan.model, layouts, plan.recipe.readout)
    return database, plan, layouts


def _check_compatible(database: Database, plan: Plan) -> None:
    database.check_model(plan.model)
    database.check_embedder(plan.embedder)
    check_same_boxes(database.manifest, plan.boxes, plan.images.ids)
    different = database.manifest.recipe.differences(plan.recipe)
    if different:
        raise RecipeError(
            f"The database '{database.path}' was built with other settings.",
            f"They differ in {'; '.join(different)}.",
            "Use the same settings to add layers, or build into a new path.",
        )


def _keep_extendable(database: Database, plan: Plan) -> Plan:
    """Return the plan with what an extendable database needs of every later build."""
    kept = database.manifest.extendable
    if kept is None:
        if plan.extendable:
            raise RecipeError(
                f"The database '{database.path}' was built without the state of an extension.",
                "It cannot be added later.",
                "Build into a new path.",
            )
        return plan
    if plan.model.device.type != kept.device:
        raise RecipeError(
            f"The model is on a device of type '{plan.model.device.type}'.",
            f"The extendable database '{database.path}' was built on '{kept.device}', whose "
            "results differ in rounding.",
            "Use that device, or build into a new path.",
        )
    execution = replace(plan.execution, batch_size=kept.batch_size)
    return replace(plan, extendable=True, execution=execution)


def finish(
    path: Path,
    database: Database | None,
    plan: Plan,
    layouts: list[LayerLayout],
    digests: list[str],
    shards: Shards,
    complete: Complete,
) -> Database:
    """Complete all stages of a build, and write the database."""
    if database:
        database.check_images(plan.images, digests)
        database, plan = relabel(database, plan)
    if plan.layers:
        new = NewLayers(database, plan, layouts, plan.crops(layouts), digests)
        selected = complete_layers(new, shards, complete)
        previous = database.manifest if database else None
        cropped = load_crops(selected.crop, shards, sum(previous.crops) if previous else 0)
        writer = BuildWriter(path, previous)
        writer.commit(write_layers(writer, new, selected, cropped))
        database = Database(path)
    assert database is not None  # noqa: S101  # a new database has layers
    if plan.relevance or database.manifest.relevance is not None:
        database = add_relevance(database, plan, digests, shards, complete)
    shutil.rmtree(shards.folder, ignore_errors=True)
    return database


def complete_layers(new: NewLayers, shards: Shards, complete: Complete) -> SelectedExamples:
    """Collect and select, and complete the crops of the new layers."""
    collect = new.collect
    complete(collect)
    selected = new.select(collect, shards)
    complete(selected.crop)
    return selected


def write_layers(
    writer: BuildWriter, new: NewLayers, selected: SelectedExamples, cropped: CroppedPairs
) -> Manifest:
    """Write the files of new layers, and of a new database; return the manifest to commit."""
    plan, database, digests = new.plan, new.database, list(new.digests)
    previous = database.manifest if database else None
    collected, reference = selected.collected, selected.reference
    reference_count = previous.reference if previous else len(reference)
    if reference and not previous:
        write_reference(writer, reference, cropped.whole)
    old_vectors = [torch.from_numpy(database.crop_vectors)] if database else []
    crop_sizes = write_crops(
        writer, cropped.new_crops, digests, plan, list(previous.crops) if previous else []
    )
    all_vectors = torch.cat([*old_vectors, cropped.new_crops["vector"]])
    entries = list(previous.layers) if previous else []
    for layer_index, layer in enumerate(selected.layers):
        first_row = entries[-1].first + entries[-1].rows if entries else 0
        write_layer(
            writer, layer, first_row, cropped, selected.slots, layer_index, all_vectors, plan
        )
        crop = new.crops[layer_index]
        entry = layer_entry(layer, crop, first_row, collected, plan.rank_rules)
        if reference_count:
            rows = collected.layers[entry.name].reference
            entry = write_layer_reference(writer, entry, rows, reference)
        if plan.boxes is not None:
            mine = selected.pairs.layer == layer_index
            pairs, regions = selected.pairs.take(mine), cropped.box[mine]
            count = count_without_box(plan.boxes, plan.images.ids, layer.layout, pairs, regions)
            entry = entry.model_copy(update={"without_box": count})
        if entry.name in plan.model.dictionaries:
            entry = write_layer_dictionary(writer, entry, plan.model.dictionaries[entry.name])
        if plan.extendable and selected.of_whole_batches is not None:
            state = selected.of_whole_batches.layers[entry.name].tensors()
            writer.tensors(file_names.state_file(entry.name), state)
        entries.append(entry)
    dictionaries = plan.model.dictionaries
    tables = [components_table(one, dictionaries.get(one.layout.name)) for one in selected.layers]
    if database:
        tables.insert(0, database.files.table(file_names.COMPONENTS))
    else:
        samples = samples_table(plan, digests, collected)
        writer.table(file_names.SAMPLES, samples, rows_per_group=file_names.SAMPLE_GROUP)
    writer.table(file_names.COMPONENTS, pa.concat_tables(tables))
    data = data_fingerprint(plan.images.ids, digests)
    return Manifest(
        model=Source(spec=plan.model.spec, fingerprint=plan.model.fingerprint),
        data=Source(spec=plan.images.spec, fingerprint=data),
        embedder=Source(spec=plan.embedder.spec, fingerprint=plan.embedder.fingerprint),
        vectors=plan.embedder.digest if isinstance(plan.embedder, PrecomputedVectors) else None,
        boxes=plan.boxes_entry,
        recipe=plan.recipe,
        output=output_entry(plan.model),
        classes=None if (names := plan.model.class_names) is None else list(names),
        samples=len(plan.images),
        unreadable=len(collected.unreadable),
        dim=plan.embedder.dim,
        layers=entries,
        relevance=previous.relevance if previous else None,
        crops=crop_sizes,
        reference=reference_count,
        extendable=plan.extendable_entry,
        files={},
    )
