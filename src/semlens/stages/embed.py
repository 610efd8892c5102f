"""Embedding crops: one vector per unique crop, one decode per unique sample (paper, Eq. 2)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import torch
from jaxtyping import Float16, Float32
from PIL import Image
from torch import Tensor

from semlens.data.prefetch import prefetch
from semlens.draw.crop_window import box_within, cut_window, window_around
from semlens.draw.encode_images import encode_webp
from semlens.embedders.embedder import Embedder
from semlens.embedders.precision import embedding_in
from semlens.errors import EmbedderError
from semlens.models.fitting_batches import FittingBatches
from semlens.types import Box, Precision, Thumbnail

THUMBNAIL = 120
"""Side of a thumbnail in pixels; the crop takes 96 of them, or more at the image's edges."""


@dataclass(frozen=True, order=True)
class CropRef:
    """A box of a sample; equal crops of several components are embedded once."""

    sample: int
    box: Box

    def key(self, digest: str) -> str:
        """Return a hash of the image's digest and the box."""
        text = f"{digest}:{self.box.as_tuple()}:{THUMBNAIL}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def embed(
    embedder: Embedder,
    crops: Sequence[CropRef],
    read: Callable[[int], Image.Image],
    *,
    thumbnails: Collection[CropRef],
    precision: Precision = "float32",
    batch_size: int = 32,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Float16[Tensor, "u d"], list[Thumbnail]]:
    """Embed crops that are sorted by sample.

    Parameters
    ----------
    thumbnails
        The crops of which thumbnails are made.

    Returns
    -------
    tuple
        Unit vectors, and the thumbnails, in the order of the crops.

    Notes
    -----
    The last batch is filled up with zeros: with batches of one size, the libraries that compute the
    model add in one order, and a crop gets the same vector whatever crops are embedded with it.
    """
    by_sample = {sample: list(group) for sample, group in groupby(crops, lambda crop: crop.sample)}

    def prepare(sample: int) -> list[tuple[Tensor, Thumbnail | None]]:
        image = read(sample)
        return [
            (
                embedder.preprocess(image.crop(crop.box.as_tuple())),
                thumbnail(image, crop.box) if crop in thumbnails else None,
            )
            for crop in by_sample[sample]
        ]

    def prepared() -> Iterator[tuple[Tensor, Thumbnail | None]]:
        for sample_crops in prefetch(prepare, by_sample, workers, ahead=batch_size):
            yield from sample_crops
            progress(1)

    vectors = [torch.zeros(0, embedder.dim, dtype=torch.float16)]
    pictures: list[Thumbnail] = []
    passes = FittingBatches()
    stream = prepared()
    with embedding_in(precision):
        while batch := list(islice(stream, batch_size)):
            inputs, drawn = zip(*batch, strict=True)
            filled = torch.zeros(batch_size, *inputs[0].shape, dtype=inputs[0].dtype)
            torch.stack(inputs, out=filled[: len(inputs)])
            embedded = passes.run(embedder.embed_batch, filled, torch.cat)[: len(inputs)]
            _check_vectors(embedder, embedded)
            vectors.append(embedded.to(torch.float16))
            pictures += filter(None, drawn)
    return torch.cat(vectors), pictures


def _check_vectors(embedder: Embedder, vectors: Float32[Tensor, "b d"]) -> None:
    has_direction = vectors.norm(dim=1) > 0  # false for NaN
    if not bool(has_direction.all()):
        raise EmbedderError(
            f"The embedder '{embedder.spec}' gives {int((~has_direction).sum())} of "
            f"{len(vectors)} crops a vector of zeros, or one that is not finite.",
            "Expected a direction for each.",
            "Use another embedder; of self:LAYER, another layer.",
        )


def thumbnail(image: Image.Image, box: Box) -> Thumbnail:
    """Return a box of an image with its surroundings."""
    window = window_around(box, image.size)
    webp = encode_webp(cut_window(image, window, THUMBNAIL), method=2)
    return Thumbnail(webp, box_within(box, window, THUMBNAIL))
