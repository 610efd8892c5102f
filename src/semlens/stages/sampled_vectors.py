"""An endless stream of a layer's activation vectors in random order, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from semlens.data.images import Images
from semlens.errors import DataError
from semlens.models.activations import LayerLayout, flatten
from semlens.models.hooks import run_layers
from semlens.models.subject import SubjectModel, batch_inputs, prepared_batches
from semlens.progress import report_progress


def layer_vectors(
    model: SubjectModel,
    images: Images,
    layout: LayerLayout,
    samples: Sequence[int],
    batch_size: int,
    workers: int,
) -> Iterator[Float32[Tensor, "b p c"] | None]:
    """Yield the vectors of the readable images of each batch, on the CPU; None if there are none.

    Parameters
    ----------
    samples
        Numbers of the images, in the order in which they are run.
    """
    for batch in prepared_batches(model, images.read, samples, batch_size, workers):
        ready = [item for item in batch if item.inputs is not None]
        if not ready:
            yield None
            continue
        outputs = run_layers(
            model.module, batch_inputs(model, ready), [layout.name],
            lambda _, output: flatten(layout, output), stop_early=True,
        )  # fmt: skip
        # a copy: what was computed in inference mode cannot be used in training
        yield outputs[layout.name].transpose(1, 2).cpu().clone()


BUFFER = 2**28
"""Bytes of the vectors that are held; mixing them takes as much again."""


def shuffled_activations(
    model: SubjectModel,
    images: Images,
    layout: LayerLayout,
    *,
    size: int,
    seed: int = 0,
    batch_size: int = 32,
    workers: int = 2,
    buffer: int = BUFFER,
) -> Iterator[Float32[Tensor, "_ c"]]:
    """Yield batches of activation vectors of all positions of all images, endlessly.

    The images are run in a new random order in each pass. A buffer mixes the vectors of many
    images: whenever it is full, a random half of it is yielded. If all vectors fit into the
    buffer, the model is run only once. Vectors that are not finite are left out.

    Parameters
    ----------
    size
        Vectors per batch; fewer only if there are fewer in all.
    buffer
        Bytes of the vectors that are held; at least four batches are.

    Raises
    ------
    DataError
        If a pass over the images gives no vector.
    """
    generator = torch.Generator().manual_seed(seed)
    room = max(buffer // (4 * layout.components), 4 * size)
    held: list[Tensor] = []
    is_first_pass = fits = True
    while True:
        order = torch.randperm(len(images), generator=generator).tolist()
        received = 0
        for outputs in layer_vectors(model, images, layout, order, batch_size, workers):
            if outputs is None:
                continue
            vectors = outputs.flatten(0, 1)
            vectors = vectors[torch.isfinite(vectors).all(1)]
            received += len(vectors)
            held.append(vectors)
            if sum(map(len, held)) >= room:
                fits = False
                mixed = _mixed(torch.cat(held), generator)
                half = len(mixed) // (2 * size) * size
                yield from mixed[:half].split(size)
                held = [mixed[half:].clone()]
        if not received:
            raise DataError(
                f"Layer '{layout.name}' has no finite activations on the images of "
                f"'{images.spec}'.",
                "Expected at least one readable image.",
                "Check the files, or choose another layer.",
            )
        if is_first_pass and fits:
            yield from _repeated(torch.cat(held), size, generator)
        is_first_pass = False


def _repeated(vectors: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of vectors that are all in memory, in a new order in each pass."""
    size = min(size, len(vectors))
    while True:
        mixed = _mixed(vectors, generator)
        yield from mixed[: len(mixed) // size * size].split(size)


def _mixed(vectors: Tensor, generator: torch.Generator) -> Tensor:
    return vectors[torch.randperm(len(vectors), generator=generator)]


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
