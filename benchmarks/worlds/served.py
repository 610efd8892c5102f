"""Databases that are served: any size, in the real format, with realistic thumbnails."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

import semlens as sl
from benchmarks.worlds.many_components import Size, write
from semlens.embedders.demo import DemoEmbedder
from semlens.embedders.embedder import Embedder
from semlens.lenses.compare.component_sets import component_sets
from semlens.lenses.describe.concept_map import cluster_cache, layout_cache

DIM = 512


class WideDemo(Embedder):
    """The bundled embedder, with vectors padded by zeros to 512 dimensions."""

    spec, fingerprint, has_text, dim = "python:wide-demo", "wide demo", True, DIM

    def __init__(self) -> None:
        self._embedder = DemoEmbedder()

    def preprocess(self, image: Any) -> Tensor:
        """Preprocess as the bundled embedder does."""
        return self._embedder.preprocess(image)

    def _images(self, batch: Tensor) -> Tensor:
        return self._pad(self._embedder.embed_batch(batch))

    def _texts(self, texts: Sequence[str]) -> Tensor:
        return self._pad(self._embedder.embed_texts(texts))

    def _pad(self, vectors: Tensor) -> Tensor:
        return functional.pad(vectors, (0, self.dim - vectors.shape[1]))


def thumbnails(count: int = 256) -> list[bytes]:
    """Return WebPs of 96 pixels and about 2 KB, as of photographs."""
    rng = np.random.default_rng(0)
    encoded: list[bytes] = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        large = np.asarray(small.resize((96, 96), Image.Resampling.BICUBIC), np.float32)
        grain = rng.normal(0, 12, large.shape)
        picture = Image.fromarray((large + grain).clip(0, 255).astype(np.uint8))
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=80, method=2)
        encoded.append(buffer.getvalue())
    return encoded


def size_of(components: int, images: int, quick: bool) -> Size:
    """Return a size with these numbers of components and example images, one crop per image."""
    layers = 20 if components >= 100 else 2
    return Size(
        layers=layers, rows=components // layers, dim=DIM, classes=10 if quick else 1000,
        samples=images, crops=images, examples=5 if quick else 30, relevant=5 if quick else 40,
    )  # fmt: skip


def database(work: Path, components: int, images: int, quick: bool) -> Path:
    """Write a database unless it exists."""
    path = work / f"web-{components}-{images}.semlens"
    if not (path / "manifest.json").is_file():
        torch.manual_seed(0)
        write(path, size_of(components, images, quick), WideDemo(), thumbnails())
    return path


def save_random_layout(path: Path) -> None:
    """Save a random clustered layout: UMAP of 100,000 components would take almost an hour."""
    sets = component_sets([sl.open(path, embedder=WideDemo())])
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 60, len(sets[0]))
    points = rng.normal(0, 8, (60, 2))[cluster] + rng.normal(0, 1, (len(sets[0]), 2))
    positions = pd.DataFrame(points.astype(np.float32), columns=["x", "y"])
    layout_cache(sets, None, 0).save(positions.assign(placed=False))
    clusters = pd.DataFrame({"cluster": cluster, "placed": False})
    cluster_cache(sets, None, "kmeans", None, 0).save(clusters)
