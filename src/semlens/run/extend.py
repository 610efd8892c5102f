"""Adding data to a database: the database that a build over all the data would have made."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from semlens.data.class_mapping import (
    UNLABELLED,
    TargetMap,
    UnmappedWarning,
    map_targets,
    read_classes,
)
from semlens.data.images import Images, JoinedImages
from semlens.data.load import ImagesLike, as_images, check_server, load_images
from semlens.data.own_boxes import OwnBoxes, load_boxes
from semlens.embedders.embedder import Embedder
from semlens.errors import RecipeError
from semlens.models.inspection import check_reproducible
from semlens.models.load import ModelLike
from semlens.progress import Progress, progress_bars, progress_listener
from semlens.regular_files import user_path
from semlens.run.build_database import completion, write_layers
from semlens.run.executors.executor import Executor
from semlens.run.layer_stages import NewLayers
from semlens.run.plan import Execution, Plan
from semlens.run.relevance import write_relevance
from semlens.run.reuse import CropUse, continue_collect, continue_relevance, crops_of_extension
from semlens.run.shards import Complete, Shards, hash_images
from semlens.run.stale_images import check_contents, check_names
from semlens.stages.collect import layer_layouts
from semlens.stages.embed import check_known_vectors
from semlens.stages.own_boxes import check_boxes, check_same_boxes
from semlens.store import file_names
from semlens.store.manifest import Extendable, Manifest
from semlens.store.reader import Database
from semlens.store.writer import BuildWriter, move_staged, remove_unlisted, write_lock


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


def extend(
    path: str | Path,
    images: ImagesLike,
    *,
    model: ModelLike | None = None,
    data: ImagesLike | None = None,
    embedder: Embedder | str | None = None,
    classes: str | Path | None = None,
    targets: Sequence[str] | None = None,
    device: str | None = None,
    execution: Execution | None = None,
    executor: Executor | str | None = None,
    recompute_crops: bool = False,
    boxes: str | Path | None = None,
    progress: Progress | None = None,
) -> Extension:
    """Add images to a database that was built with ``extendable=True``, in place.

    The result has the same bytes as a build over all the images, as :class:`semlens.JoinedImages`,
    with the batch size of the database. If it is interrupted, the same call continues.

    Parameters
    ----------
    path
        The database's folder.
    images
        The new images: an object, a SPEC or a list.
    model, data, embedder
        Objects or SPECs that replace those recorded in the database; ``data`` are its images.
    classes, targets
        Classes of the new images, as for :func:`build`; those of the others stay.
    device
        By default that of the build; another type is refused.
    execution, executor, progress
        See :func:`build`.
    recompute_crops
        Compute all crops, rather than check a few and take over the others.
    boxes
        File of boxes for ``crop="boxes"``, of old and new images; by default that of the build,
        read again. Images of the database must have the same boxes as before.

    Raises
    ------
    RecipeError
        If it was not built with ``extendable=True``, the device is of another type, or it has
        these images already.
    StaleError
        If images of the database are missing or have changed.

    Examples
    --------
    >>> import semlens as sl
    >>> sl.extend("photos.semlens", "photos-of-may/").samples      # doctest: +SKIP
    """
    started = time.monotonic()
    path, more = user_path(path), as_images(images)
    mapping = read_classes(Path(classes)) if classes is not None else None
    execution = (execution or Execution()).computed_by(executor)
    kept = _extendable(path, Manifest.load(path))
    device = device or kept.device
    _check_device(device.partition(":")[0], kept, path)
    with progress_listener(progress) if progress else progress_bars(), write_lock(path):
        manifest = Manifest.load(path)
        move_staged(path, manifest.files)
        remove_unlisted(path, manifest.files)
        database = Database(path, model=model, embedder=embedder, device=device)
        _check_device(database.model.device.type, kept, path)
        old = _images_of(database, data)
        check_names(database, old, more)
        if _has(old, more):
            shutil.rmtree(path / file_names.PARTIAL, ignore_errors=True)
            nothing = CropUse(sum(manifest.crops), 0, 0, 0, 0)
            count, batches = manifest.samples, _batches(manifest.samples, kept)
            return Extension(
                count, count, batches, batches, nothing, "none", time.monotonic() - started
            )
        joined = JoinedImages([old, more])
        plan = Plan(
            database.model,
            joined,
            database.embedder,
            tuple(database.layers),
            manifest.recipe,
            replace(execution, batch_size=kept.batch_size).for_source(joined),
            _targets(database, more, targets, mapping),
            relevance=manifest.relevance is not None,
            boxes=_boxes(manifest, boxes, old, joined),
            extendable=True,
        )
        check_known_vectors(plan.embedder, plan.images)
        with plan.execution.executor.start(plan.inputs) as workers:
            digests = hash_images(plan, workers)
            check_contents(database, old, more, digests)
            shards = Shards(path / file_names.PARTIAL)
            complete = completion(plan, shards, workers, digests)
            is_continued, crops, relevance = _extend(
                database, kept, plan, digests, shards, complete, recompute=recompute_crops
            )
    whole = kept.whole(manifest.samples) if is_continued else range(0)
    return Extension(
        manifest.samples,
        len(joined),
        len(whole) // kept.batch_size,
        _batches(len(joined), kept),
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


def _images_of(database: Database, data: ImagesLike | None) -> Images:
    """Return the images of a database, listed as they are now."""
    if data is not None and not isinstance(data, str | Path):
        return as_images(data)
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


def _boxes(
    manifest: Manifest, boxes: str | Path | None, old: Images, joined: Images
) -> OwnBoxes | None:
    """Return the boxes of all images, if examples are cropped to boxes."""
    entry = manifest.boxes
    check_boxes(manifest.recipe, given=entry is not None or boxes is not None)
    loaded = load_boxes(boxes or entry.spec, joined.ids) if entry is not None else None
    check_same_boxes(manifest, loaded, old.ids)
    return loaded


def _targets(
    database: Database,
    images: Images,
    targets: Sequence[str] | None,
    mapping: Mapping[str, int] | None,
) -> TargetMap:
    """Return the classes of the database and those of the new images."""
    table, model = database.files.table(file_names.SAMPLES), database.model
    names = images.targets if targets is None else targets
    new = map_targets(names, len(images), model.class_names, model.synsets, mapping)
    if new.notice:
        warnings.warn(new.notice, UnmappedWarning, stacklevel=3)
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
