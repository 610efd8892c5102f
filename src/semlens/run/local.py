"""The build on one machine: stages over shards, resumable, the manifest last."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from semlens.data.digests import content_digests
from semlens.data.images import Images
from semlens.data.targets import TargetMap
from semlens.errors import DataError, RecipeError
from semlens.models.activations import LayerForm
from semlens.models.forward import check_logits
from semlens.relevance.presets import check_rules
from semlens.run.crops import CroppedPairs, crop_pairs, references
from semlens.run.plan import Plan, Progress
from semlens.run.relevance import add_relevance
from semlens.stages.collect import Collected, collect, layer_forms
from semlens.stages.embed import CropRef
from semlens.stages.index import components_table, examples_table, theta
from semlens.stages.select import LayerExamples, select
from semlens.store import layout
from semlens.store.files import file_digest, load_table, load_tensors, save_table, save_tensors
from semlens.store.lock import writing
from semlens.store.manifest import NAME, LayerEntry, Manifest, Source
from semlens.store.reader import Database, data_fingerprint
from semlens.types import Box, Crop


def build_database(
    path: Path, plan: Plan, targets: TargetMap, progress: Progress = lambda *_: None
) -> Database:
    """Make a database, go on with one, or add layers to one.

    A shard is saved as soon as it is done, and the manifest last of all: whenever the
    process ends, running it again does only what is missing and ends with the same bytes.

    Raises
    ------
    BusyError
        If another process is writing to it.
    StaleError
        If it was made from another model, other data or another embedder.
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
    with writing(path):
        build = _Build(path, plan, targets, progress)
        database = build.run()
        if plan.relevance or database.manifest.relevance is not None:
            database = add_relevance(path, build.plan, targets, progress)
        shutil.rmtree(path / layout.PARTIAL, ignore_errors=True)
        return database


class _Build:
    """One run of a build; holds what its steps share."""

    def __init__(self, path: Path, plan: Plan, targets: TargetMap, progress: Progress) -> None:
        self.path = path
        self.partial = path / layout.PARTIAL
        self.targets = targets
        self.progress = progress
        self.existing = Database(path) if (path / NAME).is_file() else None
        if self.existing is not None:
            _check_same(self.existing, plan)
            known = self.existing.layers
            plan = replace(plan, layers=tuple(n for n in plan.layers if n not in known))
        if plan.recipe.layout != "auto":
            plan = replace(plan, model=replace(plan.model, layout=plan.recipe.layout))
        self.plan = replace(plan, layers=tuple(dict.fromkeys(plan.layers)))

    def run(self) -> Database:
        # a wrong layer is known before the data is hashed
        forms = layer_forms(self.plan.model, self.plan.layers, self.plan.recipe.readout)
        digests = self._digests()
        if self.existing is not None:
            self.existing.check_images(self.plan.images, digests)
            _check_targets(self.existing, self.targets)
            if not self.plan.layers:
                return Database(self.path)
        data = data_fingerprint(self.plan.images.ids, digests)
        model = self.plan.model.fingerprint
        key = self.plan.collect_key(data, model)
        self.partial.mkdir(exist_ok=True)
        ways = self.plan.crops(forms)
        collected = self._collect(forms, key)
        layers = [select(collected, form, self.plan.recipe.signs) for form in forms]
        pairs, slots = references(layers)
        known = self._known_crops()
        old = self.existing.manifest.crops if self.existing else []
        cropped = crop_pairs(
            self.plan,
            layers,
            ways,
            pairs,
            known,
            digests,
            self.partial,
            self.plan.embed_key(key, ways, old),
            self.progress,
        )
        self._write(
            layers,
            ways,
            cropped,
            slots,
            collected,
            digests,
            Source(spec=self.plan.images.spec, fingerprint=data),
            model,
        )
        return Database(self.path)

    # -- steps --------------------------------------------------------------------------------

    def _digests(self) -> list[str]:
        images: Images = self.plan.images
        digests: list[str] = []
        for digest in content_digests(images, self.plan.execution.threads):
            digests.append(digest)
            self.progress("hash", len(digests), len(images))
        return digests

    def _collect(self, forms: list[LayerForm], key: str) -> Collected:
        plan, execution = self.plan, self.plan.execution
        total, done = len(plan.images), 0
        merged: Collected | None = None

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.progress("collect", done, total)

        for shard in execution.shards(total):
            name = f"collect-{key[:16]}-{shard.start:08d}-{shard.stop:08d}.safetensors"
            path = self.partial / name
            if path.is_file():
                part = Collected.from_tensors(load_tensors(path), plan.layers)
                advance(len(shard))
            else:
                size = execution.batch_size
                part = collect(
                    plan.model,
                    plan.images,
                    forms,
                    range(shard.start // size, -(-shard.stop // size)),
                    examples=plan.recipe.examples,
                    readout=plan.recipe.readout,
                    signs=plan.recipe.signs,
                    batch_size=size,
                    workers=execution.threads,
                    progress=advance,
                )
                save_tensors(path, part.tensors())
            merged = part if merged is None else merged.merge(part)
        if merged is None or len(merged.unreadable) == total:
            first = next(iter(merged.unreadable.values()), "") if merged else ""
            raise DataError(
                f"None of the {total} images of '{plan.images.spec}' can be read. {first}",
                "Expected at least one whole image.",
                "Check the files.",
            )
        return merged

    def _known_crops(self) -> dict[CropRef, int]:
        known: dict[CropRef, int] = {}
        for number in range(len(self.existing.manifest.crops) if self.existing else 0):
            tensors = load_tensors(self.path / layout.crops_file(number))
            boxes = tensors["box"].tolist()
            for sample, box in zip(tensors["sample"].tolist(), boxes, strict=True):
                known[CropRef(sample, Box(*box))] = len(known)
        return known

    # -- writing ------------------------------------------------------------------------------

    def _write(
        self,
        layers: list[LayerExamples],
        ways: list[Crop],
        cropped: CroppedPairs,
        slots: np.ndarray,
        collected: Collected,
        digests: list[str],
        data: Source,
        model: str,
    ) -> None:
        plan, old = self.plan, self.existing
        written: dict[str, str] = dict(old.manifest.files) if old else {}
        crops = list(old.manifest.crops) if old else []
        vectors = [torch.from_numpy(old.crop_vectors)] if old else []
        for (tensors, thumbnails), size in zip(cropped.shards, cropped.sizes, strict=True):
            parts = load_tensors(tensors)
            kept = {name: parts[name] for name in ("vector", "sample", "box")}
            name = layout.crops_file(len(crops))
            save_tensors(self.path / name, kept)
            written[name] = file_digest(self.path / name)
            if plan.recipe.thumbnails:
                name = layout.thumbnails_file(len(crops))
                save_table(
                    self.path / name,
                    load_table(thumbnails),
                    group=layout.THUMBNAIL_GROUP,
                    packed="webp",
                )
                written[name] = file_digest(self.path / name)
            vectors.append(kept["vector"])
            crops.append(size)
        joined = torch.cat(vectors) if vectors else torch.zeros(0, plan.embedder.dim).half()

        entries = list(old.manifest.layers) if old else []
        for number, layer in enumerate(layers):
            first = entries[-1].first + entries[-1].rows if entries else 0
            mine = slots[:, 0] == number
            box = torch.zeros(*layer.used.shape, 4, dtype=torch.int32)
            crop = torch.zeros(layer.used.shape, dtype=torch.int64)
            mask = torch.zeros(*layer.used.shape, cropped.mask.shape[1], dtype=torch.uint8)
            place = tuple(torch.from_numpy(slots[mine, i]) for i in (1, 2))
            box[place], crop[place] = (
                torch.from_numpy(cropped.box[mine]),
                torch.from_numpy(cropped.crop[mine]),
            )
            mask[place] = torch.from_numpy(cropped.mask[mine])
            name = layer.form.name
            means = theta(joined, crop, layer.used, layer.activation, plan.recipe.aggregate)
            save_tensors(self.path / layout.theta_file(name), {"theta": means})
            table = examples_table(layer, first, box, crop, mask)
            save_table(self.path / layout.examples_file(name), table, group=layout.EXAMPLE_GROUP)
            for file in (layout.theta_file(name), layout.examples_file(name)):
                written[file] = file_digest(self.path / file)
            entries.append(_entry(layer, ways[number], first, collected))

        self._write_tables(layers, collected, digests, written)
        Manifest(
            model=Source(spec=plan.model.spec, fingerprint=model),
            data=data,
            embedder=Source(spec=plan.embedder.spec, fingerprint=plan.embedder.fingerprint),
            recipe=plan.recipe,
            classes=list(plan.model.classes) if plan.model.classes is not None else None,
            samples=len(plan.images),
            unreadable=len(collected.unreadable),
            dim=plan.embedder.dim,
            layers=entries,
            relevance=old.manifest.relevance if old else None,
            crops=crops,
            files=dict(sorted(written.items())),
        ).save(self.path)

    def _write_tables(
        self,
        layers: list[LayerExamples],
        collected: Collected,
        digests: list[str],
        written: dict[str, str],
    ) -> None:
        table = components_table(layers)
        if self.existing is not None:
            before = load_table(self.path / layout.COMPONENTS)
            table = pa.concat_tables([before.slice(0, self.existing.manifest.rows), table])
        save_table(self.path / layout.COMPONENTS, table)
        written[layout.COMPONENTS] = file_digest(self.path / layout.COMPONENTS)
        if self.existing is None:
            images = self.plan.images
            count = len(images)
            names = images.targets if images.targets is not None else [None] * count
            samples = pa.table(
                {
                    "sample": pa.array(range(count), pa.int64()),
                    "path": pa.array(images.ids, pa.string()),
                    "sha256": pa.array(digests, pa.string()),
                    "target": pa.array(names, pa.string()),
                    "logit": pa.array(self.targets.logits, pa.int32()),
                    "error": pa.array(
                        [collected.unreadable.get(i) for i in range(count)], pa.string()
                    ),
                }
            )
            save_table(self.path / layout.SAMPLES, samples, group=layout.SAMPLE_GROUP)
            written[layout.SAMPLES] = file_digest(self.path / layout.SAMPLES)


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


def _check_targets(database: Database, targets: TargetMap) -> None:
    before = [None if np.isnan(v) else int(v) for v in database.samples["logit"].astype(float)]
    changed = sum(a != b for a, b in zip(before, targets.logits, strict=True))
    if changed:
        raise RecipeError(
            f"{changed} images of '{database.path}' now have another class.",
            "Expected the classes that the database was built with.",
            "Give the same --classes and --targets, or build into a new path.",
        )


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
