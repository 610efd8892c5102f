"""Directions of a layer, fitted once into a file that any database of the model can take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from semlens.data.images import Images
from semlens.data.load import as_images
from semlens.dictionaries.dictionary import Dictionary
from semlens.dictionaries.request import HEADS, OWN, DictionaryRequest, parse_components
from semlens.dictionaries.train_sae import SAE, SaeTraining
from semlens.errors import RecipeError
from semlens.models.load import load_model
from semlens.models.subject import SubjectModel
from semlens.progress import Progress, progress_bars, progress_listener
from semlens.regular_files import user_path
from semlens.run.dictionaries import fit_to_images
from semlens.run.plan import Execution
from semlens.stages.collect import layer_layouts
from semlens.store.dictionary_files import save_dictionary
from semlens.types import Layout

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
    model: SubjectModel | str,
    images: Images | str | Path | Sequence[Any],
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
    subject = load_model(model) if isinstance(model, str) else model
    subject = subject.with_dictionaries(())
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
