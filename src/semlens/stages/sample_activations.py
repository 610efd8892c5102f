"""A random sample of a layer's activation vectors, on which directions are fitted."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from semlens.data.images import Images
from semlens.errors import DataError
from semlens.models.activations import LayerLayout
from semlens.models.subject import SubjectModel
from semlens.progress import report_progress
from semlens.stages.layer_vectors import layer_vectors

IMAGES = 2048
"""Images at most from which vectors are taken."""
VECTORS = 32768
"""Vectors at most, one per position or token."""


def sampled_images(count: int, random: np.random.Generator, most_images: int = IMAGES) -> list[int]:
    """Return the images, of so many, from which vectors are taken."""
    return np.sort(random.permutation(count)[:most_images]).tolist()


def sample_activations(
    model: SubjectModel,
    images: Images,
    layout: LayerLayout,
    *,
    seed: int = 0,
    batch_size: int = 32,
    workers: int = 2,
    most_images: int = IMAGES,
    most_vectors: int = VECTORS,
) -> Float32[Tensor, "n c"]:
    """Return activation vectors of random positions of random images.

    Positions are uniform over the layer's map or tokens, equally many per image. Images that
    cannot be read and vectors that are not finite are left out.

    Raises
    ------
    DataError
        If no vector is left.
    """
    random = np.random.default_rng(seed)
    chosen = sampled_images(len(images), random, most_images)
    per_image = math.ceil(most_vectors / len(chosen))
    vectors: list[Tensor] = []
    title, done = f"activations of {layout.name}", 0
    report_progress(title, 0, len(chosen))
    for outputs in layer_vectors(model, images, layout, chosen, batch_size, workers):
        for positions in [] if outputs is None else outputs:  # [p c]
            rows = random.permutation(len(positions))[:per_image]
            vectors.append(positions[torch.from_numpy(np.sort(rows))])
        done = min(done + batch_size, len(chosen))
        report_progress(title, done, len(chosen))
    sample = torch.cat(vectors)[:most_vectors] if vectors else torch.zeros(0, layout.components)
    sample = sample[torch.isfinite(sample).all(1)]
    if not len(sample):
        raise DataError(
            f"Layer '{layout.name}' has no finite activations on the images of '{images.spec}'.",
            "Expected at least one readable image.",
            "Check the files, or choose another layer.",
        )
    return sample
