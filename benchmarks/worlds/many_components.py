"""Large synthetic databases in the real file format, with vectors that have a real spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from semlens.embedders.embedder import Embedder
from semlens.recipe import Recipe
from semlens.regular_files import file_digest
from semlens.store import file_names
from semlens.store.atomic_files import save_table, save_tensors
from semlens.store.manifest import LayerEntry, Manifest, RelevanceEntry, Source
from semlens.store.schema import COMPONENTS, RELEVANCE_CLASSES, THUMBNAILS


@dataclass(frozen=True)
class Size:
    """Dimensions of the database."""

    layers: int = 20
    rows: int = 5000
    dim: int = 512
    classes: int = 1000
    samples: int = 50_000
    crops: int = 100_000
    examples: int = 30
    relevant: int = 40
    """Relevant components of a class in each layer."""
    crops_per_file: int = 5000


SPECTRUM, MEAN = 0.65, 0.5
"""Power of the rank with which singular values fall; norm of the mean, in spreads."""
QUICK = Size(3, 60, 32, 10, 200, 400, 5, 12)


class RandomWords(Embedder):
    """A random vector per text, seeded by the text: fast and deterministic."""

    spec, has_text = "python:random-words", True

    def __init__(self, dim: int) -> None:
        self.dim, self.fingerprint = dim, f"random words of {dim} dimensions"

    def preprocess(self, image: Any) -> Tensor:
        """Return a dummy: no image is embedded here."""
        return torch.zeros(3, 1, 1)

    def _images(self, batch: Tensor) -> Tensor:
        return torch.ones(len(batch), self.dim)

    def _texts(self, texts: Any) -> Tensor:
        seeds = [int.from_bytes(text.encode()[-7:] + b"\1", "little") for text in texts]
        return torch.stack(
            [torch.randn(self.dim, generator=torch.Generator().manual_seed(s)) for s in seeds]
        )


def write(
    path: Path, size: Size, embedder: Embedder | None = None, pictures: Sequence[bytes] = ()
) -> None:
    """Write the database; ``pictures`` are used as thumbnails of the crops, in turn."""
    rng = np.random.default_rng(0)
    entries = [
        LayerEntry(
            name=f"layer{i}", form="map", channels=size.rows, height=7, width=7, prefix=0,
            first=i * size.rows, rows=size.rows, lowest=0.0, not_finite=0, crop="activation",
        )
        for i in range(size.layers)
    ]  # fmt: skip
    for entry in entries:
        _write_layer(path, entry, size, rng)
    crops_per_file = [
        min(size.crops_per_file, size.crops - start)
        for start in range(0, size.crops, size.crops_per_file)
    ]
    for number, count in enumerate(crops_per_file):
        _write_crops(path, number, count, size, pictures)
    count = size.layers * size.rows
    save_table(path / file_names.COMPONENTS, pa.table({
        "layer": np.repeat([entry.name for entry in entries], size.rows),
        "index": np.tile(np.arange(size.rows, dtype=np.int32), size.layers),
        "sign": np.ones(count, np.int8),
        "kind": ["channel"] * count,
        "samples": np.full(count, size.samples),
        **{name: np.zeros(count) for name in ("mean", "std", "minimum", "maximum", "firing_rate")},
        "examples": np.full(count, size.examples, np.int32),
    }, schema=COMPONENTS))  # fmt: skip
    logit = np.arange(size.samples) % size.classes
    save_table(path / file_names.SAMPLES, pa.table({
        "sample": np.arange(size.samples),
        "path": [f"{i}.png" for i in range(size.samples)],
        "sha256": [f"{i:064x}" for i in range(size.samples)],
        "target": pa.array([f"class {i}" for i in logit]),
        "logit": pa.array(logit, pa.int32()),
        "error": pa.array([None] * size.samples, pa.string()),
    }), rows_per_group=file_names.SAMPLE_GROUP)  # fmt: skip
    save_table(path / file_names.RELEVANCE_CLASSES, pa.table({
        "class": np.arange(size.classes),
        "samples": np.full(size.classes, size.samples // size.classes),
    }, schema=RELEVANCE_CLASSES))  # fmt: skip
    digests = {
        str(file.relative_to(path)): file_digest(file)
        for file in sorted(path.rglob("*")) if file.is_file()
    }  # fmt: skip
    source = Source(spec="python:synthetic", fingerprint="synthetic")
    embedder = embedder or RandomWords(size.dim)
    Manifest(
        model=source, data=source,
        embedder=Source(spec=embedder.spec, fingerprint=embedder.fingerprint),
        recipe=Recipe(examples=size.examples, thumbnails=bool(pictures)),
        classes=[f"class {i}" for i in range(size.classes)],
        samples=size.samples, unreadable=0, dim=size.dim, layers=entries,
        relevance=RelevanceEntry(rules="epsilon-plus-flat", targets="classes", floor=1e-4),
        crops=crops_per_file,
        files=digests,
    ).save(path)  # fmt: skip


def random_vectors(count: int, dim: int) -> torch.Tensor:
    """Return vectors whose singular values fall as those of real ones, around a common mean.

    20 directions have 72 % of the variance of the concept vectors of EfficientNet-Lite0,
    and the mean of the unit vectors has a norm of 0.44.
    """
    spread = torch.arange(1, dim + 1) ** -SPECTRUM
    vectors = torch.randn(count, dim) * spread
    vectors[:, -1] += MEAN * spread.norm()
    return vectors


def _write_crops(
    path: Path, number: int, count: int, size: Size, pictures: Sequence[bytes]
) -> None:
    vectors = torch.nn.functional.normalize(random_vectors(count, size.dim), dim=1)
    first = number * size.crops_per_file
    save_tensors(path / file_names.crops_file(number), {
        "vector": vectors.half(),
        "sample": torch.arange(first, first + count) % size.samples,
        "box": torch.tensor([[0, 0, 64, 64]] * count, dtype=torch.int32),
    })  # fmt: skip
    if pictures:
        webp = [pictures[(first + i) % len(pictures)] for i in range(count)]
        save_table(path / file_names.thumbnails_file(number), pa.table({
            "key": [f"{first + i:032x}" for i in range(count)],
            "webp": pa.array(webp, pa.binary()),
            "box": pa.array([[0, 0, 64, 64]] * count, THUMBNAILS.field("box").type),
        }), rows_per_group=file_names.THUMBNAIL_GROUP, compressed_column="webp")  # fmt: skip


def _write_layer(path: Path, entry: LayerEntry, size: Size, rng: np.random.Generator) -> None:
    theta = random_vectors(size.rows, size.dim)
    save_tensors(path / file_names.theta_file(entry.name), {"theta": theta.half()})
    count = size.rows * size.examples
    component = np.repeat(np.arange(size.rows, dtype=np.int32), size.examples)
    boxes = pa.array(np.tile(np.array([0, 0, 64, 64], np.int32), count))
    save_table(path / file_names.examples_file(entry.name), pa.table({
        "component": component + np.int32(entry.first),
        "rank": np.tile(np.arange(size.examples, dtype=np.int32), size.rows),
        "sample": rng.integers(0, size.samples, count),
        "activation": -np.sort(-rng.random((size.rows, size.examples), np.float32)).ravel(),
        "position": np.zeros(count, np.int32),
        "box": pa.FixedSizeListArray.from_arrays(boxes, 4),
        "crop": rng.integers(0, size.crops, count),
        "mask": pa.array([b"\x0f" * 32] * count, pa.binary(32)),
    }), rows_per_group=file_names.EXAMPLE_GROUP)  # fmt: skip
    mean = rng.dirichlet(np.full(size.relevant, 0.5), size.classes)
    rows = np.stack([np.sort(rng.choice(size.rows, size.relevant, replace=False)) for _ in mean])
    class_index = np.repeat(np.arange(size.classes, dtype=np.int32), size.relevant)
    component_row = rows.ravel().astype(np.int32) + np.int32(entry.first)
    order = np.lexsort((class_index, component_row))
    save_table(path / file_names.relevance_file(entry.name), pa.table({
        "component": component_row[order],
        "class": class_index[order],
        "mean": mean.ravel()[order].astype(np.float32),
        "max": np.minimum(1, 2 * mean.ravel()[order]).astype(np.float32),
    }))  # fmt: skip
