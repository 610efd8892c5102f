"""Model test: whether a model predicts a class from images of spurious features alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image

from semlens.data.artefact import Artefact, Artefacts, artefact_seed, as_artefacts
from semlens.data.images import Images
from semlens.data.load import ImagesLike, as_images
from semlens.errors import DataError, ModelError
from semlens.lens import lens
from semlens.lenses.arguments import Class
from semlens.lenses.audit.model_test_result import ModelTest, Outputs, SpuriousSet
from semlens.lenses.classes import class_name, class_samples, known_classes
from semlens.lenses.correct.corrected_model import with_weights
from semlens.lenses.statistics.intervals import auroc, auroc_interval
from semlens.models.forward import ImageReader, logits, predicted_classes
from semlens.models.subject import SubjectModel
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.wording import numbered

ALL_SETS, ALL_ARTEFACTS = "all sets", "all artefacts"
"""Names of all sets together, and of all artefacts on one image."""
ImageSource = ImagesLike
"""Images: an object, a folder or another SPEC, or a list of images or paths."""
Spurious = Annotated[
    ImageSource | Mapping[str, ImageSource] | None,
    setting("Images of spurious features only; each sub-folder is a set."),
]


@lens(
    "model", "images", group="Audit", command="classes model-test",
    example="classes model-test r18.semlens --target ox --artefact 'text:© stock' --artefact hue",
)  # fmt: skip
def model_test(
    database: Database,
    target: Class,
    *,
    spurious: Spurious = None,
    artefacts: Artefacts = (),
    real: Annotated[
        ImageSource | None, setting("Images of the class [the database's samples of it].")
    ] = None,
    count: Annotated[
        int, setting("Maximum number of images of the class, and of other classes.", ge=1)
    ] = 500,
    seed: Annotated[int, setting("Random seed, of images and of artefact positions.", ge=0)] = 0,
    weights: Annotated[
        str | Path | None,
        setting("Weights to test instead of the model's, such as corrected ones."),
    ] = None,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
) -> ModelTest:
    """Test a model on images that show spurious features only (paper, 4.2 and F.1.1).

    Parameters
    ----------
    target
        The class.
    spurious
        Sets by name, or images whose first-level folders are the sets. Several sets are also
        tested together.
    artefacts
        Inserted into images of other classes, each alone and, if several, all together.
    real
        Images of the class; by default the database's samples of it.
    count
        Largest number of real images of the database, and of images of other classes.
    seed
        Random seed: which images of other classes are drawn, and where artefacts are placed.
    weights
        File of weights to test instead of the model's own, such as corrected ones.

    Raises
    ------
    DataError
        If there are neither spurious images nor artefacts, or no images of the class.
    ModelError
        If the model has no such class, or the weights do not fit.
    """
    to_insert = as_artefacts(artefacts)
    if not to_insert and not spurious:
        raise DataError(
            "There are no spurious features to test with.",
            "Expected images of spurious features only, or an artefact to insert.",
            "Pass for example spurious=FOLDER or artefacts=['hue'].",
        )
    image_sets = _image_sets(spurious)
    # missing images are reported before the model is loaded
    real_images = None if real is None else as_images(real)
    samples = (
        class_samples(database, target, count, instead="pass images of the class as real")
        if real_images is None
        else np.arange(len(real_images))
    )
    others = _other_samples(database, target, count, seed).tolist() if to_insert else []
    model = database.model if weights is None else with_weights(database.model, weights)
    run = partial(_outputs, model, target, batch_size)
    on_real = run("real images", (real_images or database.images).read, samples.tolist())
    sets: list[SpuriousSet] = []
    for name, images, members in image_sets:
        outputs = run(name, images.read, members.tolist())
        sets.append(_spurious_set(name, images.spec, on_real, outputs))
    if len(sets) > 1:
        sources = ", ".join(dict.fromkeys(tested.source for tested in sets))
        pooled = _pooled([tested.outputs for tested in sets])
        sets.append(_spurious_set(ALL_SETS, sources, on_real, pooled))
    if to_insert:
        without = run("without artefact", database.images.read, others)
        for name, group in _artefact_groups(to_insert):
            read = _with_artefacts(database.images, group, seed)
            outputs = run(f"with {name}", read, others)
            source = " + ".join(artefact.spec for artefact in group)
            sets.append(_spurious_set(name, source, on_real, outputs, without))
    return ModelTest(target, class_name(database, target), model.spec, on_real, tuple(sets))


def _outputs(
    model: SubjectModel,
    target: int,
    batch_size: int,
    label: str,
    read: ImageReader,
    samples: Sequence[int],
) -> Outputs:
    """Run the model on images and return its outputs for the class."""
    if len(samples) == 0:
        raise DataError(
            f"There are no images for '{label}'.", "Expected at least one.", "Add some images."
        )
    model.answer.check_classes()
    scores = logits(model, read, samples, batch_size, label)
    if not 0 <= target < scores.shape[1]:
        raise ModelError(
            f"The model has no logit {target}.",
            f"Expected one from 0 to {scores.shape[1] - 1}.",
            "Use a model with the classes of the database.",
        )
    scores = scores[predicted_classes(model, scores) >= 0]
    if len(scores) == 0:
        raise ModelError(
            f"The model has no prediction for any image of '{label}': its logits are not numbers.",
            "Expected finite logits.",
            "Check the images and the weights.",
        )
    class_logits = scores[:, target]
    probabilities = model.answer.probabilities(torch.from_numpy(scores.astype(np.float64)))
    probability = np.full(scores.shape, np.nan) if probabilities is None else probabilities.numpy()
    return Outputs(
        class_logits,
        probability[:, target].astype(np.float32),
        1 + (scores > class_logits[:, None]).sum(1),
    )


def _spurious_set(
    name: str, source: str, real: Outputs, outputs: Outputs, without: Outputs | None = None
) -> SpuriousSet:
    separation = _auroc(real, outputs)
    interval = auroc_interval(separation, len(real), len(outputs))
    auroc_without = float("nan") if without is None else _auroc(real, without)
    return SpuriousSet(name, source, outputs, separation, interval, without, auroc_without)


def _pooled(outputs: Sequence[Outputs]) -> Outputs:
    """Concatenate the outputs of several sets."""
    return Outputs(
        np.concatenate([o.logit for o in outputs]),
        np.concatenate([o.probability for o in outputs]),
        np.concatenate([o.rank for o in outputs]),
    )


def _auroc(real: Outputs, outputs: Outputs) -> float:
    return float(auroc(real.logit[:, None], outputs.logit[:, None])[0])


def _image_sets(
    spurious: ImageSource | Mapping[str, ImageSource] | None,
) -> list[tuple[str, Images, Int64[np.ndarray, " n"]]]:
    """Return the name, the images and the samples of each set."""
    if spurious is None or (isinstance(spurious, Sized) and len(spurious) == 0):
        return []
    if isinstance(spurious, Mapping):
        by_name = {name: as_images(source) for name, source in spurious.items()}
        return [(name, images, np.arange(len(images))) for name, images in by_name.items()]
    images = as_images(spurious)
    folders = np.array([path.split("/", 1)[0] if "/" in path else "" for path in images.ids])
    return [
        (folder or "spurious", images, np.flatnonzero(folders == folder))
        for folder in sorted(set(folders.tolist()))
    ]


def _other_samples(
    database: Database, target: int, count: int, seed: int
) -> Int64[np.ndarray, " n"]:
    """Draw readable samples of other classes.

    Raises
    ------
    DataError
        If there are none.
    """
    classes = known_classes(database, "pass images of spurious features only as spurious")
    samples = np.flatnonzero((classes != target) & ~np.isnan(classes))
    if len(samples) == 0:
        raise DataError(
            f"The database only has samples of the class '{class_name(database, target)}'.",
            "Expected samples of other classes, to insert artefacts into.",
            "Pass images of spurious features instead.",
        )
    return np.sort(np.random.default_rng(seed).permutation(samples)[: max(count, 1)])


def _artefact_groups(artefacts: Sequence[Artefact]) -> list[tuple[str, tuple[Artefact, ...]]]:
    """Return each artefact alone, and all together, under unique names."""
    names = numbered([artefact.name for artefact in artefacts])
    groups = [(name, (artefact,)) for name, artefact in zip(names, artefacts, strict=True)]
    return [*groups, (ALL_ARTEFACTS, tuple(artefacts))] if len(artefacts) > 1 else groups


def _with_artefacts(images: Images, artefacts: Sequence[Artefact], seed: int) -> ImageReader:
    """Return a function that reads an image and inserts all artefacts in order."""

    def read(sample: int) -> Image.Image:
        image = images.read(sample)
        for i, artefact in enumerate(artefacts):
            image = artefact.insert(image, artefact_seed(seed + i, sample))
        return image

    return read
