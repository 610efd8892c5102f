"""Embedding crops: one vector per unique crop, one decode per unique sample (paper, Eq. 2)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import torch
from jaxtyping import Float16
from PIL import Image
from torch import Tensor

from semlens.data.prefetch import prefetch
from semlens.embedders.load import Embedder
from semlens.types import Box

THUMBNAIL = 96
"""Longer side of a thumbnail in pixels."""


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
    batch_size: int = 32,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Float16[Tensor, "u d"], list[bytes]]:
    """Embed crops that are sorted by sample.

    Parameters
    ----------
    thumbnails
        The crops of which thumbnails are made.

    Returns
    -------
    tuple
        Unit vectors and WebP thumbnails, in the order of the crops.
    """
    by_sample = {sample: list(group) for sample, group in groupby(crops, lambda crop: crop.sample)}

    def prepare(sample: int) -> list[tuple[Tensor, bytes]]:
        image = read(sample)
        pieces = [(crop, image.crop(crop.box.as_tuple())) for crop in by_sample[sample]]
        return [(embedder.preprocess(p), _webp(p) if c in thumbnails else b"") for c, p in pieces]

    def prepared() -> Iterator[tuple[Tensor, bytes]]:
        for sample_crops in prefetch(prepare, by_sample, workers, ahead=batch_size):
            yield from sample_crops
            progress(1)

    vectors = [torch.zeros(0, embedder.dim, dtype=torch.float16)]
    pictures: list[bytes] = []
    stream = prepared()
    while batch := list(islice(stream, batch_size)):
        inputs, webp = zip(*batch, strict=True)
        vectors.append(embedder.embed_batch(torch.stack(inputs)).to(torch.float16))
        pictures += filter(None, webp)
    return torch.cat(vectors), pictures


def _webp(image: Image.Image) -> bytes:
    thumbnail = image.copy()
    thumbnail.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    thumbnail.save(buffer, "WEBP", quality=80, method=2)
    return buffer.getvalue()
