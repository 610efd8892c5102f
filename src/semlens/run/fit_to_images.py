"""Fitting directions to the activations of a layer on images."""

from __future__ import annotations

from semlens.data.images import Images
from semlens.dictionaries.dictionary import Dictionary, DictionaryInfo
from semlens.dictionaries.train_sae import SAE, SaeTraining, train_sae
from semlens.models.activations import LayerLayout
from semlens.models.subject import SubjectModel
from semlens.progress import report_progress
from semlens.stages.sample_activations import sample_activations
from semlens.stages.shuffled_activations import shuffled_activations


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
        layout.name, kind, "linear", channels_first=layout.form == "map",
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
