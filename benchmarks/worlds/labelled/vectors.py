"""Vectors of a world's images and words, each computed once per embedder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import semlens as sl
from benchmarks.harness import log
from benchmarks.worlds.labelled.scenes import WorldImages
from semlens.embedders.embedder import Embedder
from semlens.lenses.query_embedding import LABEL_TEMPLATES, embed_texts, null_vector, unit
from semlens.store.atomic_files import write_atomic

BATCH = 500
"""Images between two lines of the log."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """Unit vectors of words, of the empty prompt, and of whole images."""

    words: np.ndarray
    null: np.ndarray
    probe: np.ndarray
    unseen: np.ndarray


def world_vectors(images: WorldImages, spec: str, path: Path) -> Vectors:
    """Load vectors from a file, or embed words and images and write it."""
    if not path.is_file():
        embedder = sl.load_embedder(spec)
        null = null_vector(embedder, LABEL_TEMPLATES)
        if null is None:
            raise ValueError(f"The embedder '{spec}' has no text tower. Labels need one.")
        vectors = Vectors(
            unit(embed_texts(embedder, images.words, LABEL_TEMPLATES)),
            unit(null[None])[0],
            embed_pixels(embedder, images.probe.pixels, f"{images.spec.name}, {spec}, probe"),
            embed_pixels(embedder, images.unseen.pixels, f"{images.spec.name}, {spec}, unseen"),
        )
        save_arrays(path, **asdict(vectors))
    with np.load(path) as saved:
        return Vectors(**saved)


def embed_pixels(embedder: Embedder, pixels: np.ndarray, what: str) -> np.ndarray:
    """Return float32[n d], the vectors of images uint8[n h w 3]."""
    blocks: list[np.ndarray] = []
    for start in range(0, len(pixels), BATCH):
        some = [Image.fromarray(one) for one in pixels[start : start + BATCH]]
        blocks.append(embedder.embed_images(some).numpy())
        log(f"{what}: {start + len(some)} of {len(pixels)} images embedded")
    return np.concatenate(blocks)


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write a file of arrays, or none if interrupted."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # by name, numpy would add a suffix
            np.savez(file, allow_pickle=False, **arrays)

    write_atomic(path, write)


class RememberingEmbedder(Embedder):
    """An embedder that knows the vectors of some images already; its results are the same."""

    def __init__(self, embedder: Embedder, pixels: np.ndarray, vectors: np.ndarray) -> None:
        self.spec, self.fingerprint = embedder.spec, embedder.fingerprint
        self.dim, self.has_text = embedder.dim, embedder.has_text
        self._embedder = embedder
        self._row = {hashlib.sha256(one.tobytes()).digest(): i for i, one in enumerate(pixels)}
        self._vectors = torch.from_numpy(vectors)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Prepare an image, with its number among the known ones before the first value."""
        row = self._row.get(hashlib.sha256(np.asarray(image).tobytes()).digest(), -1)
        prepared = self._embedder.preprocess(image)
        return torch.cat([torch.full_like(prepared[:1], row), prepared])

    def _images(self, batch: Tensor) -> Tensor:
        rows = batch[:, 0, 0, 0].long()
        vectors = torch.empty(len(batch), self.dim)
        known = rows >= 0
        vectors[known] = self._vectors[rows[known]]
        if not bool(known.all()):
            vectors[~known] = self._embedder.embed_batch(batch[~known, 1:])
        return vectors

    def _texts(self, texts: Sequence[str]) -> Tensor:
        return self._embedder.embed_texts(texts)
