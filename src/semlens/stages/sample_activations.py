"""A random sample of a layer's activation vectors, on which directions are fitted."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from semlens.data.images import Images
from semlens.errors import DataError
from semlens.models.activations import LayerLayout, flatten
from semlens.models.hooks import run_layers
from semlens.models.subject import SubjectModel
from semlens.progress import report_progress
from semlens.stages.batches import batch_inputs, prepared_batches

IMAGES = 2048
"""Images at most from which vectors are taken."""
VECTORS = 32768
"""Vectors at most, one per position or token."""


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
    chosen = np.sort(random.permutation(len(images))[:most_images]).tolist()
    per_image = math.ceil(most_vectors / len(chosen))
    vectors: list[Tensor] = []
    for outputs in _outputs(model, images, layout, chosen, batch_size, workers):
        for positions in outputs:  # [p c]
            rows = random.permutation(len(positions))[:per_image]
            vectors.append(positions[torch.from_numpy(np.sort(rows))])
    sample = torch.cat(vectors)[:most_vectors] if vectors else torch.zeros(0, layout.components)
    sample = sample[torch.isfinite(sample).all(1)]
    if not len(sample):
        raise DataError(
            f"Layer '{layout.name}' has no finite activations on the images of '{images.spec}'.",
            "Expected at least one readable image.",
            "Check the files, or choose another layer.",
        )
    return sample


def _outputs(
    model: SubjectModel,
    images: Images,
    layout: LayerLayout,
    chosen: list[int],
    batch_size: int,
    workers: int,
) -> Iterator[Float32[Tensor, "b p c"]]:
    """Yield the activation vectors of all positions, batch by batch, on the CPU."""
    name, done = layout.name, 0
    title = f"activations of {name}"
    report_progress(title, 0, len(chosen))
    for batch in prepared_batches(model, images.read, chosen, batch_size, workers):
        ready = [item for item in batch if item.inputs is not None]
        if ready:
            inputs = batch_inputs(model, ready)
            flat = run_layers(
                model.module, inputs, [name], lambda _, out: flatten(layout, out), stop_early=True
            )[name]
            yield flat.transpose(1, 2).cpu()
        done += len(batch)
        report_progress(title, done, len(chosen))
