"""Directions: fitted once for a build, or into a file that any database of the model can take."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from semlens.data.images import Images
from semlens.data.load import ImagesLike, as_images
from semlens.data.verified_images import content_digests
from semlens.dictionaries.dictionary import Dictionary, DictionaryInfo
from semlens.dictionaries.request import (
    HEADS,
    OWN,
    DictionaryRequest,
    head_dictionary,
    parse_components,
)
from semlens.dictionaries.train_sae import SAE, SaeTraining, train_sae
from semlens.errors import RecipeError
from semlens.models.activations import CHANNELS_FIRST, LayerLayout
from semlens.models.load import ModelLike, as_model
from semlens.models.subject import SubjectModel
from semlens.progress import Progress, progress_bars, progress_listener, report_progress
from semlens.recipe import fingerprint
from semlens.regular_files import user_path
from semlens.run.plan import Execution, Plan
from semlens.stages.collect import layer_layouts
from semlens.stages.sampled_vectors import (
    IMAGES,
    VECTORS,
    sample_activations,
    sampled_images,
    shuffled_activations,
)
from semlens.store import file_names
from semlens.store.dictionary_files import header, load_dictionary, save_dictionary
from semlens.store.manifest import LayerEntry
from semlens.store.reader import Database
from semlens.store.writer import BuildWriter
from semlens.types import Layout


def fit_to_images(
    model: SubjectModel,
    images: Images,
    layout: LayerLayout,
    kind: str,
    directions: int,
    training: SaeTraining | None = None,
    *,
    seed: int = 0,
    batch_size: int = 32,
    workers: int = 2,
) -> Dictionary:
    """Fit directions to the activations of a layer; those of other kinds to a sample of them.

    Parameters
    ----------
    kind, directions
        As in ``nmf:16``.
    training
        How a sparse autoencoder is trained.

    Raises
    ------
    LayerError, RecipeError
        If so many directions cannot be fitted.
    DataError
        If no image can be read.
    """
    training = training or SaeTraining()
    if kind == SAE:
        training.active_of(directions)  # before a pass over the images
    info = DictionaryInfo(
        layout.name, kind, "linear", channels_first=layout.form in CHANNELS_FIRST,
        model=model.fingerprint, data=images.spec,
    )  # fmt: skip
    sample = sample_activations(
        model, images, layout, seed=seed, batch_size=batch_size, workers=workers
    )
    if kind == SAE:
        batches = shuffled_activations(
            model, images, layout, size=training.step_vectors, seed=seed, batch_size=batch_size,
            workers=workers,
        )  # fmt: skip
        return train_sae(batches, sample, directions, info, training, seed, model.device)
    from semlens.dictionaries.fit import (
        fit_directions,  # scikit-learn, which a search does not need
    )

    title = f"fitting {kind}:{directions} to {layout.name}"
    report_progress(title, 0, 1)
    dictionary = fit_directions(kind, sample, directions, info, seed)
    report_progress(title, 1, 1)
    return dictionary


SEED = 0
"""Seed of all fits of a build."""


class UnknownModelWarning(UserWarning):
    """Directions whose file does not say on which model they were fitted."""


def add_dictionaries(path: Path, plan: Plan, database: Database | None, *, fit: bool) -> Plan:
    """Return the plan with a model that has all directions: of the database, and new ones.

    Parameters
    ----------
    fit
        Whether directions may be fitted.

    Raises
    ------
    RecipeError
        If the database has other directions under a name, a file does not fit its layer, or
        directions would have to be fitted and must not be.
    """
    loaded = {part.info.name: part for part in database.dictionaries} if database else {}
    base = replace(plan, model=plan.model.with_dictionaries(()))
    for layer, request in plan.dictionaries:
        name = request.name(layer)
        if name in loaded:
            _check_same(loaded[name], request, path)
            continue
        if request.kind == HEADS and request.file is None:
            loaded[name] = head_dictionary(base.model.module, layer, request.directions)
            continue
        [layout] = layer_layouts(base.model, [layer], plan.recipe.readout)
        if request.file is not None:
            loaded[name] = _from_file(request, layout, base.model.fingerprint)
        elif fit:
            loaded[name] = _fitted(path, base, layout, request)
        else:
            raise RecipeError(
                f"'{request}' of layer '{layer}' would be fitted by each part of the build.",
                "Expected a file: all parts need the same directions.",
                f"Run 'semlens db fit' once, then use --components {request.kind}:FILE.",
            )
    return replace(plan, model=plan.model.with_dictionaries(loaded.values()))


def _check_same(existing: Dictionary, request: DictionaryRequest, path: Path) -> None:
    """Raise an error if a database has other directions of the same name."""
    same = (
        request.directions in (None, existing.directions)
        if request.file is None
        else existing.fingerprint
        == _placed(
            _read(request), existing.info.layer, channels_first=existing.info.channels_first
        ).fingerprint
    )
    if not same:
        raise RecipeError(
            f"The database '{path}' has other directions '{existing.info.name}' than "
            f"'{request}': {existing.directions} of them.",
            "Expected the same.",
            "Leave the layer out, or build into a new path.",
        )


def _read(request: DictionaryRequest) -> Dictionary:
    """Return the directions of a file, if they are of the kind that is asked for."""
    assert request.file is not None  # noqa: S101  # the caller's condition
    read = load_dictionary(request.file)
    if read.info.kind != request.kind:
        raise RecipeError(
            f"'{request.file}' holds directions of the kind {read.info.kind}.",
            f"Expected {request.kind}.",
            f"Use {read.info.kind}:{request.file}.",
        )
    return read


def _placed(dictionary: Dictionary, layer: str, *, channels_first: bool) -> Dictionary:
    """Set the layer and the order of its axes, which a file may not have or name differently."""
    dictionary.info = replace(dictionary.info, layer=layer, channels_first=channels_first)
    return dictionary


def _from_file(request: DictionaryRequest, layout: LayerLayout, model: str) -> Dictionary:
    """Return the directions of a file for a layer of a model.

    Raises
    ------
    RecipeError
        If they were fitted on another model or layer, or have other channels.

    Warns
    -----
    UnknownModelWarning
        If the file does not say on which model they were fitted.
    """
    dictionary = _read(request)
    made = dictionary.info
    if made.model is not None and (made.model, made.layer) != (model, layout.name):
        other = "another model" if made.model != model else f"layer '{made.layer}'"
        raise RecipeError(
            f"The directions of '{request.file}' were fitted on {other}.",
            f"Expected layer '{layout.name}' of this model: its weights and preprocessing.",
            f"Fit {request.kind} to it, or use the file with the model that it is of.",
        )
    if dictionary.channels != layout.components:
        raise RecipeError(
            f"The directions of '{request.file}' have {dictionary.channels} channels, and layer "
            f"'{layout.name}' has {layout.components}.",
            "Expected directions of this layer.",
            f"They were fitted on '{made.layer or 'a layer that is not recorded'}'.",
        )
    if made.model is None:
        warnings.warn(
            f"'{request.file}' does not say on which model its directions were fitted; its layer "
            f"is '{made.layer or 'not recorded'}'. That they belong to layer '{layout.name}' of "
            "this model is not checked.",
            UnknownModelWarning,
            stacklevel=2,
        )
    return _placed(dictionary, layout.name, channels_first=layout.form in CHANNELS_FIRST)


def _fitted(path: Path, plan: Plan, layout: LayerLayout, request: DictionaryRequest) -> Dictionary:
    """Return fitted directions: those of an interrupted build, or new ones."""
    assert request.directions is not None  # noqa: S101  # the caller's condition
    training = SaeTraining().model_dump() if request.kind == SAE else None
    read = None  # an autoencoder is trained on all images
    if request.kind != SAE:
        read = sampled_images(len(plan.images), np.random.default_rng(SEED))
    key = fingerprint(
        plan.model.fingerprint, len(plan.images), str(request), layout.name,
        list(content_digests(plan.images, plan.execution.threads, read)),
        [SEED, IMAGES, VECTORS], training,
    )  # fmt: skip
    file = path / file_names.PARTIAL / "dictionaries" / f"{key}.safetensors"
    try:
        return load_dictionary(file)
    except RecipeError:
        pass  # it has not been fitted, or the file is damaged
    dictionary = fit_to_images(
        plan.model, plan.images, layout, request.kind, request.directions, seed=SEED,
        batch_size=plan.execution.batch_size, workers=plan.execution.threads,
    )  # fmt: skip
    save_dictionary(file, dictionary)
    return dictionary


def write_layer_dictionary(
    writer: BuildWriter, entry: LayerEntry, dictionary: Dictionary
) -> LayerEntry:
    """Write the directions of a layer; return its entry with what they are."""
    file = file_names.dictionary_file(entry.name)
    writer.tensors(file, dictionary.tensors(), header(dictionary))
    return entry.model_copy(update={"dictionary": dictionary.info})


SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Fit:
    """Directions, and the file that holds them."""

    path: Path
    dictionary: Dictionary

    @property
    def frame(self) -> pd.DataFrame:
        """One row: what was fitted, and how well."""
        info = self.dictionary.info
        row: dict[str, Any] = {
            "layer": info.layer,
            "kind": info.kind,
            "directions": self.dictionary.directions,
            "channels": self.dictionary.channels,
            "vectors": info.vectors,
            "explained": info.explained,
        }
        if info.mean_active is not None:
            row |= {"active": info.mean_active, "dead": info.dead}
        return pd.DataFrame([row])

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "file": str(self.path.resolve()),
            "directions": self.dictionary.directions,
            "channels": self.dictionary.channels,
            **asdict(self.dictionary.info),
        }


def fit(
    path: str | Path,
    model: ModelLike,
    images: ImagesLike,
    layer: str,
    components: str,
    *,
    training: SaeTraining | None = None,
    seed: int = 0,
    layout: Layout = "auto",
    execution: Execution | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Fit directions to the activations of a layer, and write them to a file.

    Builds of the same model take the file as ``components="sae:FILE"``, so that databases of
    several data sets have the same components.

    Parameters
    ----------
    path
        The file, which ends in ``.safetensors``; an existing one is replaced at the end.
    model, images
        Objects, or SPECs to load; images may also be a list.
    layer
        A name as in ``named_modules``.
    components
        ``sae:N``, ``nmf:N``, ``semi-nmf:N``, ``pca:N`` or ``kmeans:N``.
    training
        How a sparse autoencoder is trained.
    seed
        Of the choice of vectors, and of the fit.
    layout
        Order of a map's axes, if it cannot be inferred from the model.
    execution
        Batch size and decoding threads.
    progress
        See :func:`semlens.build`.

    Raises
    ------
    RecipeError
        If the components or the file have another form.
    LayerError
        If so many directions cannot be fitted, or the layer does not exist.
    DataError
        If no image can be read.

    Examples
    --------
    >>> import semlens as sl
    >>> sl.fit("sae.safetensors", "torchvision/resnet18:DEFAULT", "photos/", "layer4",
    ...        "sae:2048").frame                                   # doctest: +SKIP
    """
    file = user_path(path)
    if file.suffix != SUFFIX:
        raise RecipeError(
            f"The directions cannot be written to '{path}'.",
            f"Expected a path that ends in {SUFFIX}.",
            "Choose another path.",
        )
    request = _request(components, training)
    subject = as_model(model).with_dictionaries(())
    if layout != "auto":
        subject = replace(subject, layout=layout)
    data = as_images(images)
    execution = (execution or Execution()).for_source(data)
    with progress_listener(progress) if progress else progress_bars():
        [measured] = layer_layouts(subject, [layer], "mean")
        assert request.directions is not None  # noqa: S101  # as just checked
        dictionary = fit_to_images(
            subject, data, measured, request.kind, request.directions, training, seed=seed,
            batch_size=execution.batch_size, workers=execution.threads,
        )  # fmt: skip
        save_dictionary(file, dictionary)
    return Fit(file, dictionary)


def _request(components: str, training: SaeTraining | None) -> DictionaryRequest:
    """Return what to fit: one kind, so many directions."""
    own, requests = parse_components(components)
    if own or len(requests) != 1 or requests[0].directions is None or requests[0].kind == HEADS:
        raise RecipeError(
            f"The components are '{components}'.",
            "Expected one kind with a number.",
            f"Try {SAE}:256 or nmf:16; '{OWN}', '{HEADS}' and files need no fit.",
        )
    if training is not None and requests[0].kind != SAE:
        raise RecipeError(
            f"Settings of a training are given for {components}.",
            f"Expected {SAE}:N, which is trained.",
            "Leave them out.",
        )
    return requests[0]
