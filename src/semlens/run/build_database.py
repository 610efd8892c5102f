"""The build on one machine: stages over shards, resumable, the manifest last."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from semlens.data.verified_images import VerifiedImages, content_digests
from semlens.errors import DataError, RecipeError
from semlens.models.activations import LayerLayout
from semlens.models.forward import check_logits
from semlens.progress import report
from semlens.relevance.presets import check_rules
from semlens.run.crops import (
    CroppedPairs,
    attributor,
    crop_pairs,
    crop_refs,
    references,
    thumbnails_table,
)
from semlens.run.plan import Advance, Plan, Shards
from semlens.run.relevance import add_relevance, relabel
from semlens.stages.collect import Collected, collect, layer_forms
from semlens.stages.embed import CropRef
from semlens.stages.select_examples import (
    LayerExamples,
    components_table,
    examples_table,
    select,
    theta,
)
from semlens.store import file_names
from semlens.store.manifest import NAME, LayerEntry, Manifest, Source
from semlens.store.reader import Database, data_fingerprint
from semlens.store.schema import SAMPLES
from semlens.store.writer import BuildWriter, move_staged, writing
from semlens.types import Crop


def build_database(path: Path, plan: Plan) -> Database:
    """Make a database, go on with one, or add layers or other classes to one.

    A shard is saved as soon as it is done, and the manifest last of all: whenever the
    process ends, running it again does only what is missing and ends with the same bytes.

    Raises
    ------
    BusyError
        If another process is writing to it.
    StaleError
        If it was made from another model, other data or another embedder, or if images change
        while it is made.
    RecipeError
        If it was made with other settings, or no layer is named.
    DataError
        If no image can be read.
    """
    if not plan.layers:
        raise RecipeError(
            "No layer is named.", "Expected at least one.", "Run 'semlens layers MODEL'."
        )
    check_rules(plan.recipe.rules)
    if plan.relevance:
        check_logits(plan.model)
    if plan.recipe.layout != "auto":
        plan = replace(plan, model=replace(plan.model, layout=plan.recipe.layout))
    with writing(path):
        database = None
        if (path / NAME).is_file():
            move_staged(path, Manifest.load(path).files)
            database = Database(path)
            _check_same(database, plan)
        known = database.layers if database else ()
        plan = replace(plan, layers=tuple(n for n in dict.fromkeys(plan.layers) if n not in known))
        # a wrong layer is known before the data is hashed
        forms = layer_forms(plan.model, plan.layers, plan.recipe.readout)
        digests = _digests(plan)
        plan = replace(plan, images=VerifiedImages(plan.images, digests))
        if database:
            database.check_images(plan.images, digests)
            database, plan = relabel(database, plan)
        shards = Shards(path / file_names.PARTIAL)
        if plan.layers:
            database = _add_layers(path, database, plan, forms, digests, shards)
        assert database is not None  # noqa: S101  # a new one has layers
        if plan.relevance or database.manifest.relevance is not None:
            database = add_relevance(database, plan, shards)
        shutil.rmtree(shards.folder, ignore_errors=True)
        return database


def _check_same(database: Database, plan: Plan) -> None:
    database.check_model(plan.model)
    database.check_embedder(plan.embedder)
    different = database.manifest.recipe.differences(plan.recipe)
    if different:
        raise RecipeError(
            f"The database '{database.path}' was built with other settings.",
            f"They differ in {'; '.join(different)}.",
            "Give the same settings to add layers, or build into a new path.",
        )


def _digests(plan: Plan) -> list[str]:
    digests: list[str] = []
    for digest in content_digests(plan.images, plan.execution.threads):
        digests.append(digest)
        report("hash", len(digests), len(plan.images))
    return digests


def _add_layers(
    path: Path,
    database: Database | None,
    plan: Plan,
    forms: list[LayerLayout],
    digests: list[str],
    shards: Shards,
) -> Database:
    """Collect, select, attribute, embed and index the plan's layers."""
    data, model = data_fingerprint(plan.images.ids, digests), plan.model.fingerprint
    key = plan.collect_key(data, model)
    crops = plan.crops(forms)
    collected = _collect(plan, forms, shards, key)
    layers = [select(collected, form, plan.recipe.signs) for form in forms]
    pairs, slots = references(layers)
    old = database.manifest if database else None
    key = plan.embed_key(key, crops, old.crops if old else [])
    cropped = crop_pairs(
        plan, attributor(plan, forms, crops), pairs, _known_crops(database), shards, key
    )

    writer = BuildWriter(path, old)
    vectors = [torch.from_numpy(database.crop_vectors)] if database else []
    sizes = _write_crops(writer, cropped.fresh, digests, plan, list(old.crops) if old else [])
    joined = torch.cat([*vectors, *(part["vector"] for part in cropped.fresh)])
    entries = list(old.layers) if old else []
    for number, layer in enumerate(layers):
        first = entries[-1].first + entries[-1].rows if entries else 0
        _write_layer(writer, layer, first, cropped, slots, number, joined, plan)
        entries.append(_entry(layer, crops[number], first, collected))
    tables = [components_table(layer) for layer in layers]
    if database:
        tables.insert(0, database.files.table(file_names.COMPONENTS))
    else:
        samples = _samples_table(plan, digests, collected)
        writer.table(file_names.SAMPLES, samples, group=file_names.SAMPLE_GROUP)
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
            relevance=old.relevance if old else None,
            crops=sizes,
            files={},
        )
    )
    return Database(path)


def _collect(plan: Plan, forms: list[LayerLayout], shards: Shards, key: str) -> Collected:
    size, total = plan.execution.batch_size, len(plan.images)

    def compute(shard: range, advance: Mapping[str, Advance]) -> Mapping[str, Tensor]:
        return collect(
            plan.model,
            plan.images,
            forms,
            range(shard.start // size, -(-shard.stop // size)),
            examples=plan.recipe.examples,
            readout=plan.recipe.readout,
            signs=plan.recipe.signs,
            batch_size=size,
            workers=plan.execution.threads,
            progress=advance["collect"],
        ).tensors()

    parts = shards.of(("collect",), key, plan.execution.shards(total), total, compute)
    found = reduce(Collected.merge, (Collected.from_tensors(p, plan.layers) for p in parts))
    if len(found.unreadable) == total:
        raise DataError(
            f"None of the {total} images of '{plan.images.spec}' can be read. "
            f"{next(iter(found.unreadable.values()))}",
            "Expected at least one whole image.",
            "Check the files.",
        )
    return found


def _known_crops(database: Database | None) -> dict[CropRef, int]:
    if database is None:
        return {}
    samples, boxes = map(torch.from_numpy, (database.crop_samples, database.crop_boxes))
    return {crop: place for place, crop in enumerate(crop_refs(samples, boxes))}


def _write_crops(
    writer: BuildWriter,
    fresh: list[Mapping[str, Tensor]],
    digests: list[str],
    plan: Plan,
    sizes: list[int],
) -> list[int]:
    """Write the files of new crops; return the sizes of all crops files, old ones first."""
    for part in fresh:
        kept = {name: part[name] for name in ("vector", "sample", "box")}
        writer.tensors(file_names.crops_file(len(sizes)), kept)
        if plan.recipe.thumbnails:
            writer.table(
                file_names.thumbnails_file(len(sizes)),
                thumbnails_table(part, digests),
                group=file_names.THUMBNAIL_GROUP,
                packed="webp",
            )
        sizes.append(len(part["vector"]))
    return sizes


def _write_layer(
    writer: BuildWriter,
    layer: LayerExamples,
    first: int,
    cropped: CroppedPairs,
    slots: np.ndarray,
    number: int,
    vectors: Tensor,
    plan: Plan,
) -> None:
    mine = slots[:, 0] == number
    place = tuple(torch.from_numpy(slots[mine, i]) for i in (1, 2))

    def by_slot(values: np.ndarray) -> Tensor:
        """Values of the layer's pairs [n ...], as [C m ...]; zeros in unused slots."""
        picked = torch.from_numpy(values[mine])
        found = torch.zeros(*layer.used.shape, *picked.shape[1:], dtype=picked.dtype)
        found[place] = picked
        return found

    crop = by_slot(cropped.crop)
    means = theta(vectors, crop, layer.used, layer.top.activation, plan.recipe.aggregate)
    writer.tensors(file_names.theta_file(layer.form.name), {"theta": means})
    table = examples_table(layer, first, by_slot(cropped.box), crop, by_slot(cropped.mask))
    writer.table(file_names.examples_file(layer.form.name), table, group=file_names.EXAMPLE_GROUP)


def _samples_table(plan: Plan, digests: list[str], collected: Collected) -> pa.Table:
    count = len(plan.images)
    return pa.table(
        {
            "sample": range(count),
            "path": plan.images.ids,
            "sha256": digests,
            "target": plan.targets.names or [None] * count,
            "logit": plan.targets.logits,
            "error": [collected.unreadable.get(i) for i in range(count)],
        },
        schema=SAMPLES,
    )


def _entry(layer: LayerExamples, crop: Crop, first: int, collected: Collected) -> LayerEntry:
    form = layer.form
    return LayerEntry(
        name=form.name,
        form=form.form,
        channels=form.components,
        height=form.height,
        width=form.width,
        prefix=form.prefix,
        first=first,
        rows=len(layer.index),
        lowest=layer.lowest,
        not_finite=len(collected.not_finite[form.name]),
        crop=crop,
    )
