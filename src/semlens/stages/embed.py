"""Embed: one vector per unique crop, one decode per unique sample (paper, Eq. 2)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    """A piece of a sample; equal crops of two components are one."""

    sample: int
    box: Box

    def key(self, digest: str) -> str:
        """Content hash: the image's bytes and the box."""
        text = f"{digest}:{self.box.as_tuple()}:{THUMBNAIL}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Embedded:
    """Unit vectors of crops, in the crops' order, and their WebP thumbnails (or none)."""

    vectors: Float16[Tensor, "u d"]
    thumbnails: list[bytes]


def embed(
    embedder: Embedder,
    crops: Sequence[CropRef],
    read: Callable[[int], Image.Image],
    *,
    thumbnails: bool,
    batch_size: int = 32,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> Embedded:
    """Embed crops that are sorted by sample."""
    by_sample: dict[int, list[Box]] = {}
    for crop in crops:
        by_sample.setdefault(crop.sample, []).append(crop.box)

    def prepare(sample: int) -> list[tuple[Tensor, bytes]]:
        image = read(sample)
        made: list[tuple[Tensor, bytes]] = []
        for box in by_sample[sample]:
            piece = image.crop(box.as_tuple())
            made.append((embedder.preprocess(piece), _webp(piece) if thumbnails else b""))
        return made

    vectors: list[Tensor] = []
    pictures: list[bytes] = []
    waiting: list[Tensor] = []

    def flush() -> None:
        if waiting:
            vectors.append(embedder.embed_batch(torch.stack(waiting)).to(torch.float16))
            waiting.clear()

    for made in prefetch(prepare, by_sample, workers, ahead=batch_size):
        for tensor, picture in made:
            waiting.append(tensor)
            pictures.append(picture)
            if len(waiting) == batch_size:
                flush()
        progress(1)
    flush()
    found = torch.cat(vectors) if vectors else torch.zeros(0, embedder.dim, dtype=torch.float16)
    return Embedded(found, pictures if thumbnails else [])


def _webp(image: Image.Image) -> bytes:
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80, method=2)
    return buffer.getvalue()
