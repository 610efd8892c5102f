"""Adding data to a database: the database that a build over all the data would have made."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from semlens.data.class_mapping import UNLABELLED, TargetMap, UnmappedWarning, map_targets
from semlens.data.images import Images, JoinedImages
from semlens.data.load import check_server, load_images
from semlens.data.own_boxes import load_boxes
from semlens.embedders.load import Embedder
from semlens.errors import RecipeError
from semlens.models.reproducibility import check_reproducible
from semlens.models.subject import SubjectModel
from semlens.run.build_database import completion, write_layers
from semlens.run.layer_stages import NewLayers
from semlens.run.plan import Execution, Plan
from semlens.run.relevance import write_relevance
from semlens.run.reuse_crops import CropUse, crops_of_extension
from semlens.run.shards import Complete, Shards, hash_images
from semlens.run.stale_images import check_contents, check_names
from semlens.run.state import continue_collect, continue_relevance
from semlens.stages.collect import layer_layouts
from semlens.stages.embed import check_known_vectors
from semlens.stages.own_boxes import check_boxes, check_same_boxes
from semlens.store import file_names
from semlens.store.manifest import Extendable, Manifest
from semlens.store.reader import Database
from semlens.store.writer import BuildWriter, move_staged, remove_unlisted, write_lock


@dataclass(frozen=True)
class Addition:
    """What is added to a database, and with what.

    Parameters
    ----------
    images
        The new images.
    model, data, embedder
        Objects, or SPECs of their current locations, in place of those of the build.
    classes
        Logit of class names of the new images.
    targets
        Class name of each new image, which replaces that of the data.
    device
        By default that of the build.
    execution
        How it is executed; the batch size is that of the build.
    recompute_crops
        Whether to compute all crops.
    boxes
        File of the boxes of all images, if not that of the build.
    """

    images: Images
    model: SubjectModel | str | None = None
    data: Images | str | Path | None = None
    embedder: Embedder | str | None = None
    classes: Mapping[str, int] | None = None
    targets: Sequence[str] | None = None
    device: str | None = None
    execution: Execution = Execution()
    recompute_crops: bool = False
    boxes: str | Path | None = None


@dataclass(frozen=True)
class Extension:
    """What an extension did.

    Parameters
    ----------
    samples_before, samples
        Number of images before and after; equal if the database already had the data.
    batches_reused, batches
        Batches of which the statistics were kept, and all.
    crops
        Where the crops are from.
    relevance
        ``none``, ``continued``, or why it was computed again.
    seconds
        Wall-clock time.
    """

    samples_before: int
    samples: int
    batches_reused: int
    batches: int
    crops: CropUse
    relevance: str
    seconds: float


def extend_database(path: Path, addition: Addition) -> Extension:
    """Add images to a database, in place.

    The manifest is written last: after an interruption the database is the old or the new one, and
    the same call continues.

    Raises
    ------
    RecipeError
        If the database does not have the state, the device is of another type, or the database
        has all the images already.
    StaleError
        If images of the database are missing or have changed.
    """
    started = time.monotonic()
    kept = _extendable(path, Manifest.load(path))
    device = addition.device or kept.device
    _check_device(device.partition(":")[0], kept, path)
    with write_lock(path):
        manifest = Manifest.load(path)
        move_staged(path, manifest.files)
        remove_unlisted(path, manifest.files)
        database = Database(path, model=addition.model, embedder=addition.embedder, device=device)
        _check_device(database.model.device.type, kept, path)
        old = _images_of(database, addition.data)
        check_names(database, old, addition.images)
        if _has(old, addition.images):
            shutil.rmtree(path / file_names.PARTIAL, ignore_errors=True)
            nothing = CropUse(sum(manifest.crops), 0, 0, 0, 0)
            count, batches = manifest.samples, _batches(manifest.samples, kept)
            return Extension(
                count, count, batches, batches, nothing, "none", time.monotonic() - started
            )
        plan = _plan(database, old, addition, kept)
        check_known_vectors(plan.embedder, plan.images)
        with plan.execution.executor.start(plan.inputs) as workers:
            digests = hash_images(plan, workers)
            check_contents(database, old, addition.images, digests)
            shards = Shards(path / file_names.PARTIAL)
            complete = completion(plan, shards, workers, digests)
            recompute = addition.recompute_crops
            is_continued, crops, relevance = _extend(
                database, kept, plan, digests, shards, complete, recompute=recompute
            )
    whole = kept.whole(manifest.samples) if is_continued else range(0)
    return Extension(
        manifest.samples,
        len(plan.images),
        len(whole) // kept.batch_size,
        _batches(len(plan.images), kept),
        crops,
        relevance,
        time.monotonic() - started,
    )


def _batches(samples: int, kept: Extendable) -> int:
    return -(-samples // kept.batch_size)


def _extendable(path: Path, manifest: Manifest) -> Extendable:
    if manifest.extendable is None:
        raise RecipeError(
            f"The database '{path}' cannot be extended: it does not have the state of its "
            "statistics.",
            "Expected a database that was built to be extended.",
            "Build it again with extendable=True (--extendable).",
        )
    return manifest.extendable


def _check_device(device: str, kept: Extendable, path: Path) -> None:
    if device != kept.device:
        raise RecipeError(
            f"The device is of type '{device}'.",
            f"'{path}' was built on '{kept.device}', whose results differ in rounding.",
            "Extend it on such a device, or build a new database.",
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise RecipeError(
            "There is no CUDA device.",
            f"'{path}' was built on one, and results on a CPU differ in rounding.",
            "Extend it on a machine with a GPU, or build a new database.",
        )


def _images_of(database: Database, data: Images | str | Path | None) -> Images:
    """Return the images of a database, listed as they are now."""
    if isinstance(data, Images):
        return data
    spec = str(data or database.manifest.data.spec)
    check_server(spec, given=data is not None)
    return load_images(spec)


def _has(old: Images, more: Images) -> bool:
    """Return whether the new data is a source of the old; Python objects may share a SPEC.

    Raises
    ------
    RecipeError
        If some of its sources are, and others are not.
    """
    sources = old.sources if isinstance(old, JoinedImages) else (old,)
    new = more.sources if isinstance(more, JoinedImages) else (more,)
    specs = {source.spec for source in sources if not source.spec.startswith("python:")}
    known = [part.spec for part in new if part.spec in specs]
    if known and len(known) < len(new):
        raise RecipeError(
            f"The database has the images of {', '.join(known)} already.",
            "Expected only new data, or only data that the database has.",
            "Leave them out.",
        )
    return bool(known)


def _plan(database: Database, old: Images, addition: Addition, kept: Extendable) -> Plan:
    """Return the plan of a build over all the data."""
    images = JoinedImages([old, addition.images])
    recipe = database.manifest.recipe
    execution = replace(addition.execution, batch_size=kept.batch_size).for_source(images)
    entry = database.manifest.boxes
    check_boxes(recipe, given=entry is not None or addition.boxes is not None)
    boxes = load_boxes(addition.boxes or entry.spec, images.ids) if entry is not None else None
    check_same_boxes(database.manifest, boxes, old.ids)
    return Plan(
        database.model,
        images,
        database.embedder,
        tuple(database.layers),
        recipe,
        execution,
        _targets(database, addition),
        relevance=database.manifest.relevance is not None,
        boxes=boxes,
        extendable=True,
    )


def _targets(database: Database, addition: Addition) -> TargetMap:
    """Return the classes of the database and those of the new images."""
    table, images = database.files.table(file_names.SAMPLES), addition.images
    names = images.targets if addition.targets is None else addition.targets
    model = database.model
    new = map_targets(names, len(images), model.classes, model.synsets, addition.classes)
    if new.notice:
        warnings.warn(new.notice, UnmappedWarning, stacklevel=4)
    logits = (*table["logit"].to_pylist(), *new.logits)
    old_names = table["target"].to_pylist()
    if new.names is None and not any(name is not None for name in old_names):
        return TargetMap(logits)
    all_names = (*old_names, *(new.names or (None,) * len(images)))
    return TargetMap(logits, tuple(UNLABELLED if n is None else n for n in all_names))


def _extend(
    database: Database,
    kept: Extendable,
    plan: Plan,
    digests: list[str],
    shards: Shards,
    complete: Complete,
    *,
    recompute: bool,
) -> tuple[bool, CropUse, str]:
    """Build over all the data from the state of the database, and replace it."""
    layouts = layer_layouts(plan.model, plan.layers, plan.recipe.readout)
    check_reproducible(plan.model, layouts, plan.recipe.readout)
    new = NewLayers(None, plan, layouts, plan.crops(layouts), digests)
    collect = new.collect
    is_continued = continue_collect(database, kept, new, collect, shards, complete)
    complete(collect)
    selected = new.select(collect, shards)
    cropped, use = crops_of_extension(
        database, new, selected, shards, complete, recompute=recompute
    )
    relate, relevance = None, "none"
    if plan.relevance:
        relate, relevance = continue_relevance(
            database, plan, selected, digests, shards, is_same=is_continued
        )
        complete(relate)
    writer = BuildWriter(database.path, database.manifest)
    writer.drop("")
    manifest = write_layers(writer, new, selected, cropped)
    if relate is not None:
        entry = write_relevance(writer, plan, manifest.layers, relate, shards, keep_state=True)
        manifest = manifest.model_copy(update={"relevance": entry})
    writer.commit(manifest)
    shutil.rmtree(shards.folder, ignore_errors=True)
    return is_continued, use, relevance
