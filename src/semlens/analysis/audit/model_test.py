"""Does the model mistake spurious features for a class? Real images against spurious ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64
from PIL import Image
from scipy.special import softmax

from semlens.analysis.audit.tested import ModelTest, Outputs, SpuriousSet
from semlens.analysis.reading import Progress, check_samples, told
from semlens.analysis.separation import auroc, auroc_interval
from semlens.analysis.target import class_name, class_samples
from semlens.data.artefact import Artefact
from semlens.data.images import Images
from semlens.data.with_artefact import artefact_seed
from semlens.errors import DataError, ModelError
from semlens.models.forward import Reader, logits
from semlens.models.subject import SubjectModel
from semlens.store.reader import Database

ALL_SETS, ALL_ARTEFACTS = "all sets", "all artefacts"
"""Names of several sets together, and of several artefacts on one image."""


def model_test(
    database: Database,
    model: SubjectModel,
    target: int,
    *,
    images: Images | None = None,
    spurious: Mapping[str, Images] | Images | None = None,
    artefacts: Sequence[Artefact] = (),
    real: Images | None = None,
    count: int = 500,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = lambda *_: None,
) -> ModelTest:
    """Test a model with images that show spurious features only (paper, 4.2 and F.1.1).

    Parameters
    ----------
    database
        Names the classes, and the samples of each.
    model
        The one to test: the database's, or a corrected one with the same classes.
    target
        The class's logit.
    images
        The database's data. Needed for the real images, unless ``real`` is given, and to
        insert artefacts.
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

    Raises
    ------
    DataError
        If there is nothing spurious to test with, or no image of the class.
    ModelError
        If the model has no such class.
    """
    if not artefacts and not spurious:
        raise DataError(
            "There is nothing spurious to test with.",
            "Expected images of spurious features only, or an artefact to insert.",
            "Give a folder (--spurious FOLDER) or an artefact (--artefact hue).",
        )
    ask = _Asker(model, target, batch_size, progress)
    if real is None:
        samples = class_samples(database, target, count)
        told_real = ask("real images", _needed(database, images).read, samples.tolist())
    else:
        told_real = ask("real images", real.read, range(len(real)))
    found: list[SpuriousSet] = []
    for name, source, numbers in _named(spurious):
        outputs = ask(name, source.read, numbers.tolist())
        found.append(_tested(name, source.spec, told_real, outputs))
    if len(found) > 1:
        sources = ", ".join(dict.fromkeys(tested.source for tested in found))
        pooled = _pooled([tested.outputs for tested in found])
        found.append(_tested(ALL_SETS, sources, told_real, pooled))
    if artefacts:
        clean = _needed(database, images)
        others = _others(database, target, count, seed).tolist()
        without = ask("without artefact", clean.read, others)
        for name, several in _combined(artefacts):
            outputs = ask(f"with {name}", _inserting(clean, several, seed), others)
            source = " + ".join(artefact.spec for artefact in several)
            found.append(_tested(name, source, told_real, outputs, without))
    return ModelTest(target, class_name(database, target), model.spec, told_real, tuple(found))


def _needed(database: Database, images: Images | None) -> Images:
    if images is None:
        raise DataError(
            "The database's images are not given.",
            "Expected them for the real images, or to insert artefacts into.",
            "Give images=db.load_images().",
        )
    check_samples(database, images)
    return images


class _Asker:
    """Runs the model over images and keeps what it says of the class."""

    def __init__(
        self, model: SubjectModel, target: int, batch_size: int, progress: Progress
    ) -> None:
        self._model, self._target = model, target
        self._batch_size, self._progress = batch_size, progress

    def __call__(self, what: str, read: Reader, samples: Sequence[int]) -> Outputs:
        if len(samples) == 0:
            raise DataError(
                f"There are no images for '{what}'.", "Expected at least one.", "Give some."
            )
        reader = told(read, what, len(samples), self._progress)
        scores = logits(self._model, reader, samples, self._batch_size)
        if not 0 <= self._target < scores.shape[1]:
            raise ModelError(
                f"The model has no logit {self._target}.",
                f"Expected one from 0 to {scores.shape[1] - 1}.",
                "Test a model with the classes of the database.",
            )
        if scores.shape[1] == 1:  # a sigmoid's: the other class has a logit of zero
            scores = np.concatenate([scores, np.zeros_like(scores)], 1)
        mine = scores[:, self._target]
        return Outputs(
            mine,
            softmax(scores.astype(np.float64), axis=1)[:, self._target].astype(np.float32),
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
    spurious: Mapping[str, Images] | Images | None,
) -> list[tuple[str, Images, Int64[np.ndarray, " n"]]]:
    """Return name, images and samples of each set."""
    if not spurious:
        return []
    if not isinstance(spurious, Images):
        found = [(name, images, np.arange(len(images))) for name, images in spurious.items()]
        return found
    folders = [name.split("/", 1)[0] if "/" in name else "" for name in spurious.ids]
    names = sorted(set(folders))
    found: list[tuple[str, Images, Int64[np.ndarray, " n"]]] = [
        (name or "spurious", spurious, np.flatnonzero(np.array(folders) == name)) for name in names
    ]
    return found


def _others(database: Database, target: int, count: int, seed: int) -> Int64[np.ndarray, " n"]:
    """Draw readable samples of other classes.

    Raises
    ------
    DataError
        If there are none.
    """
    table = database.samples
    logit = table["logit"].astype("Float64")
    other = (logit != target).fillna(False).to_numpy(bool) & table["error"].isna().to_numpy()
    found = np.flatnonzero(other)
    if len(found) == 0:
        raise DataError(
            f"The database has no samples of other classes than '{class_name(database, target)}'.",
            "Expected some, to insert artefacts into.",
            "Give images of spurious features instead: --spurious FOLDER",
        )
    return np.sort(np.random.default_rng(seed).permutation(found)[: max(count, 1)])


def _combined(artefacts: Sequence[Artefact]) -> list[tuple[str, tuple[Artefact, ...]]]:
    """Return each artefact, and all at once, with names that differ."""
    found: list[tuple[str, tuple[Artefact, ...]]] = []
    kinds = [artefact.name for artefact in artefacts]
    for place, artefact in enumerate(artefacts):
        before = kinds[: place + 1].count(artefact.name)
        several = kinds.count(artefact.name) > 1
        found.append((f"{artefact.name} {before}" if several else artefact.name, (artefact,)))
    return [*found, (ALL_ARTEFACTS, tuple(artefacts))] if len(artefacts) > 1 else found


def _inserting(images: Images, artefacts: Sequence[Artefact], seed: int) -> Reader:
    """Return what reads an image and inserts all of the artefacts, one after the other."""

    def read(sample: int) -> Image.Image:
        image = images.read(sample)
        for number, artefact in enumerate(artefacts):
            image = artefact.insert(image, artefact_seed(seed + number, sample))
        return image

    return read
