"""Does the model mistake spurious features for a class? Real images against spurious ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int64
from PIL import Image
from scipy.special import softmax

from semlens.analysis.audit.model_test_result import ModelTest, Outputs, SpuriousSet
from semlens.analysis.auroc import auroc, auroc_interval
from semlens.analysis.classes import class_name, class_samples, find_class
from semlens.analysis.correct.corrected_model import with_weights
from semlens.data.artefact import Artefact, Artefacts, artefact_seed, as_artefacts
from semlens.data.images import Images
from semlens.data.load import as_images
from semlens.errors import DataError, ModelError
from semlens.models.forward import ImageReader, logits
from semlens.models.subject import SubjectModel
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Target

ALL_SETS, ALL_ARTEFACTS = "all sets", "all artefacts"
"""Names of several sets together, and of several artefacts on one image."""
ImagesLike = Images | str | Path | Sequence[Any]
"""Images: an object, a folder or another SPEC, or a list of pictures or paths."""
Spurious = Annotated[
    ImagesLike | Mapping[str, ImagesLike] | None,
    setting("Images of spurious features only; each sub-folder is a set."),
]


@question("model", "images")
def model_test(
    database: Database,
    target: Target,
    *,
    spurious: Spurious = None,
    artefacts: Artefacts = (),
    real: Annotated[
        ImagesLike | None, setting("Images of the class [the database's samples of it].")
    ] = None,
    count: Annotated[
        int, setting("Images of the class, and of other classes, at most.", ge=1)
    ] = 500,
    seed: Annotated[int, setting("Of the images drawn, and of artefacts' places.", ge=0)] = 0,
    weights: Annotated[
        str | Path | None, setting("Test these weights of the model, such as corrected ones.")
    ] = None,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
) -> ModelTest:
    """Test a model with images that show spurious features only (paper, 4.2 and F.1.1).

    Parameters
    ----------
    target
        The class.
    spurious
        Sets by name, or images whose first-level folders are the sets. Several sets are also
        tested all together.
    artefacts
        Each is inserted into images of other classes; several are also inserted all at once.
    real
        Images of the class; by default the database's samples of it.
    count
        Real images of the database, and images of other classes, at most.
    seed
        Which images of other classes, and where artefacts lie.
    weights
        File of other weights for the database's model, such as corrected ones.

    Raises
    ------
    DataError
        If there is nothing spurious to test with, or no image of the class.
    ModelError
        If the model has no such class, or the weights do not fit.
    """
    put = as_artefacts(artefacts)
    if not put and not spurious:
        raise DataError(
            "There is nothing spurious to test with.",
            "Expected images of spurious features only, or an artefact to insert.",
            "Give spurious=FOLDER or artefacts=['hue'].",
        )
    number, sets = find_class(database, target), _named(spurious)
    # what is missing is known before the model is loaded
    own = None if real is None else as_images(real)
    samples = class_samples(database, number, count) if own is None else np.arange(len(own))
    model = database.model if weights is None else with_weights(database.model, weights)
    ask = partial(_outputs, model, number, batch_size)
    told_real = ask("real images", (own or database.images).read, samples.tolist())
    found: list[SpuriousSet] = []
    for name, source, places in sets:
        outputs = ask(name, source.read, places.tolist())
        found.append(_tested(name, source.spec, told_real, outputs))
    if len(found) > 1:
        sources = ", ".join(dict.fromkeys(tested.source for tested in found))
        pooled = _pooled([tested.outputs for tested in found])
        found.append(_tested(ALL_SETS, sources, told_real, pooled))
    if put:
        others = _others(database, number, count, seed).tolist()
        without = ask("without artefact", database.images.read, others)
        for name, several in _combined(put):
            outputs = ask(f"with {name}", _inserting(database.images, several, seed), others)
            source = " + ".join(artefact.spec for artefact in several)
            found.append(_tested(name, source, told_real, outputs, without))
    return ModelTest(number, class_name(database, number), model.spec, told_real, tuple(found))


def _outputs(
    model: SubjectModel,
    target: int,
    batch_size: int,
    what: str,
    read: ImageReader,
    samples: Sequence[int],
) -> Outputs:
    """Run the model over images and keep what it says of the class."""
    if len(samples) == 0:
        raise DataError(
            f"There are no images for '{what}'.", "Expected at least one.", "Give some."
        )
    scores = logits(model, read, samples, batch_size, what)
    if not 0 <= target < scores.shape[1]:
        raise ModelError(
            f"The model has no logit {target}.",
            f"Expected one from 0 to {scores.shape[1] - 1}.",
            "Test a model with the classes of the database.",
        )
    if scores.shape[1] == 1:  # a sigmoid's: the other class has a logit of zero
        scores = np.concatenate([scores, np.zeros_like(scores)], 1)
    mine = scores[:, target]
    return Outputs(
        mine,
        softmax(scores.astype(np.float64), axis=1)[:, target].astype(np.float32),
        1 + (scores > mine[:, None]).sum(1),
    )


def _tested(
    name: str, source: str, real: Outputs, outputs: Outputs, without: Outputs | None = None
) -> SpuriousSet:
    value = _auroc(real, outputs)
    return SpuriousSet(
        name,
        source,
        outputs,
        value,
        auroc_interval(value, len(real), len(outputs)),
        without,
        float("nan") if without is None else _auroc(real, without),
    )


def _pooled(parts: Sequence[Outputs]) -> Outputs:
    """Join the outputs of several sets."""
    return Outputs(
        np.concatenate([part.logit for part in parts]),
        np.concatenate([part.probability for part in parts]),
        np.concatenate([part.rank for part in parts]),
    )


def _auroc(real: Outputs, outputs: Outputs) -> float:
    return float(auroc(real.logit[:, None], outputs.logit[:, None])[0])


def _named(
    spurious: ImagesLike | Mapping[str, ImagesLike] | None,
) -> list[tuple[str, Images, Int64[np.ndarray, " n"]]]:
    """Return name, images and samples of each set."""
    if not spurious:
        return []
    if isinstance(spurious, Mapping):
        sets = {name: as_images(given) for name, given in spurious.items()}
        return [(name, images, np.arange(len(images))) for name, images in sets.items()]
    shown = as_images(spurious)
    folders = np.array([name.split("/", 1)[0] if "/" in name else "" for name in shown.ids])
    return [
        (name or "spurious", shown, np.flatnonzero(folders == name))
        for name in sorted(set(folders.tolist()))
    ]


def _others(database: Database, target: int, count: int, seed: int) -> Int64[np.ndarray, " n"]:
    """Draw readable samples of other classes.

    Raises
    ------
    DataError
        If there are none.
    """
    table = database.samples
    other = (table["logit"].astype("Float64") != target).fillna(False).to_numpy(bool)
    found = np.flatnonzero(other & table["error"].isna().to_numpy())
    if len(found) == 0:
        raise DataError(
            f"The database has no samples of other classes than '{class_name(database, target)}'.",
            "Expected some, to insert artefacts into.",
            "Give images of spurious features instead.",
        )
    return np.sort(np.random.default_rng(seed).permutation(found)[: max(count, 1)])


def _combined(artefacts: Sequence[Artefact]) -> list[tuple[str, tuple[Artefact, ...]]]:
    """Return each artefact, and all at once, with names that differ."""
    kinds = [artefact.name for artefact in artefacts]
    names = [
        f"{kind} {kinds[: place + 1].count(kind)}" if kinds.count(kind) > 1 else kind
        for place, kind in enumerate(kinds)
    ]
    found = [(name, (one,)) for name, one in zip(names, artefacts, strict=True)]
    return [*found, (ALL_ARTEFACTS, tuple(artefacts))] if len(artefacts) > 1 else found


def _inserting(images: Images, artefacts: Sequence[Artefact], seed: int) -> ImageReader:
    """Return what reads an image and inserts all of the artefacts, one after the other."""

    def read(sample: int) -> Image.Image:
        image = images.read(sample)
        for number, artefact in enumerate(artefacts):
            image = artefact.insert(image, artefact_seed(seed + number, sample))
        return image

    return read
