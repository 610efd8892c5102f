"""An endless stream of a layer's activation vectors in random order, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float32
from torch import Tensor

from semlens.data.images import Images
from semlens.errors import DataError
from semlens.models.activations import LayerLayout
from semlens.models.subject import SubjectModel
from semlens.stages.layer_vectors import layer_vectors

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
