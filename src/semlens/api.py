"""The main API: build, open and pull a database."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from semlens.concept_database import ConceptDatabase
from semlens.data.class_mapping import TargetMap, UnmappedWarning, map_targets, read_classes
from semlens.data.images import Images
from semlens.data.load import ImagesLike, as_images
from semlens.data.own_boxes import load_boxes
from semlens.dictionaries.request import OWN, parse_components
from semlens.embedders.embedder import Embedder
from semlens.embedders.load import load_embedder
from semlens.errors import DataError
from semlens.models.forward import predict
from semlens.models.load import ModelLike, as_model
from semlens.models.subject import SubjectModel
from semlens.progress import Progress, progress_bars, progress_listener
from semlens.recipe import Recipe, RecipeSettings
from semlens.regular_files import user_path
from semlens.run.build_database import build_database
from semlens.run.executors.executor import Executor
from semlens.run.plan import Execution, Plan
from semlens.stages.own_boxes import check_boxes


def build(
    path: str | Path,
    model: ModelLike,
    images: ImagesLike,
    embedder: Embedder | str,
    layers: Sequence[str],
    *,
    components: str | Sequence[str] = OWN,
    classes: str | Path | None = None,
    targets: Sequence[str] | None = None,
    boxes: str | Path | None = None,
    relevance: bool = False,
    extendable: bool = False,
    execution: Execution | None = None,
    executor: Executor | str | None = None,
    progress: Progress | None = None,
    recipe: Recipe | None = None,
    **settings: Unpack[RecipeSettings],
) -> ConceptDatabase:
    """Build, resume or extend a concept database.

    A second call with the same recipe resumes an unfinished build, or adds layers, classes or
    class relevance to a finished database.

    Parameters
    ----------
    path
        The database's folder.
    model, images, embedder
        Objects, or SPECs to load; images may also be a list or a map-style data set, and the
        model ``(module, preprocess)``, or a module whose preprocessing is known (of timm, of
        transformers, or of torchvision with published weights).
    layers
        Names as in ``named_modules``.
    components
        What is read of each layer: ``channels`` (its own components), directions that are fitted,
        such as ``nmf:16``, or those of a file, such as ``sae:FILE``; several as a list or
        separated by commas.
    classes
        File that maps class names of the data to logits.
    targets
        Class name of each sample, which replaces the data's own.
    boxes
        CSV or Parquet file with the columns ``image`` (id in the data), ``x0``, ``y0``, ``x1``,
        ``y1`` in pixels of the upright originals, for ``crop="boxes"``.
    relevance
        Whether to compute the relevance of each component for each class. It can be added
        later by the same call.
    extendable
        Whether to keep the state of the statistics, so that :func:`semlens.extend` can add images.
    executor
        What computes: ``"processes:4"``, ``"ray"`` or ``"ray://HOST:PORT"``; by default this
        process. It does not change the result.
    progress
        Called with stage, samples done and their total, instead of progress bars on standard
        error.
    recipe
        The settings, see :class:`semlens.Recipe`.
    settings
        Settings by name that override the recipe: ``examples=20``, ``crop="none"``, ...

    Notes
    -----
    An existing database keeps the classes of its images, unless ``classes`` or ``targets`` are
    given and differ. In that case the classes are replaced and class relevance is recomputed;
    vectors do not change.

    Examples
    --------
    >>> import semlens as sl
    >>> db = sl.build("r18.semlens", "torchvision/resnet18:DEFAULT", "photos/",
    ...               "semlens/demo", layers=["layer4"])           # doctest: +SKIP
    """
    plan = make_plan(
        model,
        images,
        embedder,
        layers,
        components=components,
        classes=classes,
        targets=targets,
        boxes=boxes,
        relevance=relevance,
        extendable=extendable,
        execution=(execution or Execution()).computed_by(executor),
        recipe=recipe,
        **settings,
    )
    with progress_listener(progress) if progress else progress_bars(plan.stages):
        build_database(user_path(path), plan)
    return ConceptDatabase(path, model=plan.model, images=plan.images, embedder=plan.embedder)


def make_plan(
    model: ModelLike,
    images: ImagesLike,
    embedder: Embedder | str,
    layers: Sequence[str],
    *,
    components: str | Sequence[str] = OWN,
    classes: str | Path | None = None,
    targets: Sequence[str] | None = None,
    boxes: str | Path | None = None,
    relevance: bool = False,
    extendable: bool = False,
    execution: Execution | None = None,
    recipe: Recipe | None = None,
    **settings: Unpack[RecipeSettings],
) -> Plan:
    """Return the plan of a build; the arguments are those of :func:`build`."""
    subject = as_model(model)
    data = as_images(images)
    mapping = read_classes(Path(classes)) if classes is not None else None
    names = data.targets if targets is None else targets
    mapped = map_targets(names, len(data), subject.class_names, subject.synsets, mapping)
    if subject.classes is None and mapping is not None:
        subject = _with_two_classes(subject, mapping, data, mapped)
    if mapped.notice:
        warnings.warn(mapped.notice, UnmappedWarning, stacklevel=3)
    values: dict[str, Any] = {**(recipe or Recipe()).model_dump(), **settings}
    settled = Recipe(**values)
    check_boxes(settled, given=boxes is not None)
    if isinstance(embedder, str):
        read = subject if settled.layout == "auto" else replace(subject, layout=settled.layout)
        embedder = load_embedder(embedder, model=read)
    execution = (execution or Execution()).for_source(data)
    own, requests = parse_components(components)
    names_of_layers = [*layers] if own else []
    names_of_layers += [request.name(layer) for layer in layers for request in requests]
    return Plan(
        subject,
        data,
        embedder,
        tuple(names_of_layers),
        settled,
        execution,
        mapped,
        relabel=not (classes is None and targets is None),
        relevance=relevance,
        dictionaries=tuple((layer, request) for layer in layers for request in requests),
        boxes=load_boxes(boxes, data.ids) if boxes is not None else None,
        extendable=extendable,
    )


SAMPLES_OF_A_CLASS = 32
"""Images on which it is checked for which class a single logit stands."""


def _with_two_classes(
    model: SubjectModel, mapping: Mapping[str, int], images: Images, mapped: TargetMap
) -> SubjectModel:
    """Name the classes 0 and 1 of a model with one logit, which stands for class 1 by convention.

    Raises
    ------
    DataError
        If the images contradict the convention: the model is then wrong on most of them.
    """
    is_binary = model.answer_error is None and model.answer.task == "binary"
    if not is_binary or set(mapping.values()) != {0, 1}:
        return model
    names = [" or ".join(name for name, logit in mapping.items() if logit == i) for i in (0, 1)]
    named = replace(model, classes=names)
    of_class = [[i for i, logit in enumerate(mapped.logits) if logit == one] for one in (0, 1)]
    shares = [
        float(np.mean(predict(named, images.read, samples[:SAMPLES_OF_A_CLASS], stage=None) == one))
        for one, samples in enumerate(of_class)
        if samples
    ]
    if shares and float(np.mean(shares)) < 0.5:
        raise DataError(
            f"If the model's one logit stands for class 1 ('{names[1]}'), the model is right on "
            f"{100 * float(np.mean(shares)):.0f} % of the images.",
            "Expected 1 to be the class of images with a positive logit, as in training with 0 "
            "and 1.",
            "Swap the numbers in the file of classes; or name the classes of the model, the "
            "positive one last: SubjectModel(..., classes=[...]).",
        )
    return named


def open(  # noqa: A001  # it is semlens.open
    path: str | Path,
    *,
    model: ModelLike | None = None,
    images: ImagesLike | None = None,
    embedder: Embedder | str | None = None,
    device: str = "cpu",
) -> ConceptDatabase:
    """Open a finished database.

    Parameters
    ----------
    path
        Its folder, or its URL, such as ``s3://bucket/x.semlens`` or
        ``hf://datasets/USER/NAME@REVISION``: files are copied on first use.
    model, images, embedder
        Objects or SPECs that replace those recorded in the database.
    device
        Device of the model and the embedder.

    Raises
    ------
    StoreError
        If there is no database, or it is unfinished.
    StaleError
        If the model or the embedder differs from that of the build.
    """
    return ConceptDatabase(path, model=model, images=images, embedder=embedder, device=device)


def pull(
    source: str, folder: str | Path | None = None, *, progress: Progress | None = None
) -> ConceptDatabase:
    """Copy a published database into a folder of this machine, and open it.

    Every file is compared with its SHA-256 in the manifest, which is written last. If it is
    interrupted, the same call continues with the files that are missing.

    Parameters
    ----------
    source
        ``USER/NAME`` or ``USER/NAME@REVISION`` on the Hugging Face Hub, a URL, or the name of a
        bundled recipe whose database has been published.
    folder
        New folder; by default the name of the database in the current folder.
    progress
        Called with stage, files done and their total, instead of progress bars.

    Raises
    ------
    StoreError
        If there is no such database, you may not read it, a file is damaged, or the folder has
        other files.

    Examples
    --------
    >>> import semlens as sl
    >>> db = sl.pull("ada/resnet50-concepts")                      # doctest: +SKIP
    """
    from semlens.hub.pull import pull_database

    with progress_listener(progress) if progress else progress_bars():
        return ConceptDatabase(pull_database(source, folder))
