"""Reading examples, samples, concept vectors, crop vectors and reference samples of a database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Bool, Float16, Float32, Int32, Int64
from torch import Tensor
from torch.nn import functional

from semlens.errors import StoreError
from semlens.store import file_names
from semlens.store.component_index import ComponentIndex
from semlens.store.locked_cached_property import locked_cached_property, workers
from semlens.store.row_group_cache import RowGroupCache
from semlens.types import Box, Thumbnail

_EXAMPLE_COLUMNS = ("sample", "activation", "box", "crop", "mask")
_SAMPLE_COLUMNS = ("path", "sha256", "target", "logit", "error")


@dataclass(frozen=True)
class Example:
    """One concept example of a component."""

    sample: int
    path: str
    """The sample's id: its path in the data folder."""
    activation: float
    """The raw readout, or in a database that ranks by relevance the relevance."""
    box: Box
    crop: int
    """Row of its vector among all crops."""
    mask: bytes | None = None
    """Display mask over the box: bool[16 16], packed."""


@dataclass(frozen=True)
class Sample:
    """One image of the data."""

    number: int
    path: str
    sha256: str
    target: str | None
    """Class name in the data."""
    logit: int | None
    """Index of the model's logit for that class."""
    error: str | None
    """Why the sample was skipped."""


class Examples(ComponentIndex):
    """Examples and samples of a database, read a few rows at a time; thread-safe.

    Any row-group size can be read; the sizes of :mod:`semlens.store.file_names` are the fastest.
    """

    @locked_cached_property
    def row_groups(self) -> RowGroupCache:
        """Cache for tables that are read a few rows at a time."""
        return RowGroupCache(self.path, locate=self.files.verified_path)

    @locked_cached_property
    def samples(self) -> pd.DataFrame:
        """One row per sample: path, sha256, target, logit, error."""
        return self.files.table(file_names.SAMPLES).to_pandas()

    def sample(self, number: int) -> Sample:
        """Return one sample without reading all of them.

        Raises
        ------
        StoreError
            If there is no such sample.
        """
        if not 0 <= number < self.manifest.samples:
            raise StoreError(
                f"Sample {number} is not in '{self.path}'.",
                f"It has the samples 0 to {self.manifest.samples - 1}.",
                "Choose one of them.",
            )
        return Sample(
            number,
            **self.row_groups.take(file_names.SAMPLES, [number], _SAMPLE_COLUMNS).to_pylist()[0],
        )

    def examples(self, layer: str) -> pd.DataFrame:
        """Return a layer's examples: component, rank, sample, activation, position, box, crop."""
        return self.files.table(file_names.examples_file(self.layer(layer).name)).to_pandas()

    def examples_of(self, row: int, count: int | None = None) -> list[Example]:
        """Return the used concept examples of one component, strongest first."""
        file = file_names.examples_file(self.component(row).layer)
        table = self.row_groups.where_equal(file, "component", row, _EXAMPLE_COLUMNS)
        records = table.filter(table["crop"].is_valid()).slice(0, count).to_pylist()
        samples = [record.pop("sample") for record in records]
        paths = self.row_groups.take(file_names.SAMPLES, samples, ("path",))["path"].to_pylist()
        boxes = [Box(*record.pop("box")) for record in records]
        return [
            Example(sample=sample, path=path, box=box, **record)
            for sample, path, box, record in zip(samples, paths, boxes, records, strict=True)
        ]

    def crop_index(self, layer: str) -> tuple[Int64[np.ndarray, "c m"], Bool[np.ndarray, "c m"]]:
        """Return the crop of each example slot of a layer, and which slots are used."""
        entry = self.layer(layer)
        table = self._used_examples(layer, ["component", "rank", "crop"])
        index = np.full((entry.rows, self.manifest.recipe.examples), -1, np.int64)
        slots = table["component"].to_numpy() - entry.first, table["rank"].to_numpy()
        index[slots] = table["crop"].to_numpy()
        return index.clip(0), index >= 0

    def example_crops(
        self, layer: str
    ) -> tuple[Int64[np.ndarray, " e"], Int64[np.ndarray, " e"], Float32[np.ndarray, " e"]]:
        """Return component (row), crop and strength of every used example, strongest first.

        The strength is what ranks a component's samples: its readout times its sign, or its
        relevance.
        """
        if layer not in self._example_crops:
            table = self._used_examples(layer, ["component", "crop", "activation"])
            component = table["component"].to_numpy().astype(np.int64)
            self._example_crops[layer] = (
                component,
                table["crop"].to_numpy().astype(np.int64),
                table["activation"].to_numpy().astype(np.float32) * self.direction(component),
            )
        return self._example_crops[layer]

    def direction(self, rows: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return by what stored readouts of components are multiplied so that larger is stronger.

        It is the sign, or 1 for relevance, which differs by sign already.
        """
        if self.manifest.recipe.rank == "relevance":
            return np.ones(len(rows), np.float32)
        return self.components["sign"].to_numpy()[rows].astype(np.float32)

    def example_samples(self, layer: str) -> Int64[np.ndarray, " e"]:
        """Return the sample of every used example, in the order of :meth:`example_crops`.

        The sample of the crop may be another with the same content.
        """
        return self._used_examples(layer, ["sample", "crop"])["sample"].to_numpy().astype(np.int64)

    def _used_examples(self, layer: str, columns: list[str]) -> pa.Table:
        table = self.files.table(file_names.examples_file(self.layer(layer).name), columns)
        return table.filter(table["crop"].is_valid())

    @locked_cached_property
    def _example_crops(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return {}

    def thumbnail(self, crop: int) -> Thumbnail | None:
        """Return a crop's thumbnail, or None if the database has no thumbnails."""
        if not self.manifest.recipe.thumbnails:
            return None
        file_index, row = self._locate_crop(crop)
        file, columns = file_names.thumbnails_file(file_index), ("webp", "box")
        record = self.row_groups.take(file, [row], columns).to_pylist()[0]
        return Thumbnail(record["webp"], Box(*record["box"]))


_CHUNK_ROWS = 2048
"""Rows that are converted to 32 bits at a time, so that they fit into the CPU's cache."""


def in_32_bits(vectors: Float16[Tensor, "n d"]) -> Iterator[tuple[slice, Float32[Tensor, "c d"]]]:
    """Yield a few vectors at a time as float32, with their positions.

    The tensor is used again for the next ones: fresh memory takes longer than the conversion.
    """
    buffer = torch.empty(min(_CHUNK_ROWS, len(vectors)), vectors.shape[1])
    start = 0
    for chunk in vectors.split(_CHUNK_ROWS):
        yield slice(start, start + len(chunk)), buffer[: len(chunk)].copy_(chunk)
        start += len(chunk)


class Vectors(ComponentIndex):
    """Vectors of a database, file by file as they are needed."""

    @locked_cached_property
    def theta(self) -> Float32[np.ndarray, "n d"]:
        """Concept vectors of all components; zeros for components without examples."""
        layers = range(len(self.manifest.layers))
        return np.concatenate([self._theta(layer).float().numpy() for layer in layers])

    @locked_cached_property
    def crop_vectors(self) -> Float16[np.ndarray, "u d"]:
        """Unit vectors of all unique crops."""
        return self._concatenate_crops("vector", np.zeros((0, self.manifest.dim), np.float16))

    @locked_cached_property
    def crop_samples(self) -> Int64[np.ndarray, " u"]:
        """Sample of each unique crop."""
        return self._concatenate_crops("sample", np.zeros(0, np.int64))

    @locked_cached_property
    def crop_boxes(self) -> Int32[np.ndarray, "u 4"]:
        """Box of each unique crop, in upright original pixels."""
        return self._concatenate_crops("box", np.zeros((0, 4), np.int32))

    def concept_vectors(self, rows: Sequence[int]) -> Float32[np.ndarray, "n d"]:
        """Return the concept vectors of some components, without loading theta."""
        row_and_layer = zip(
            rows, self._layer_index(np.asarray(rows, np.int64)).tolist(), strict=True
        )
        vectors = [
            self._theta(layer)[row - self.manifest.layers[layer].first].numpy()
            for row, layer in row_and_layer
        ]
        return np.array(vectors, np.float32).reshape(-1, self.manifest.dim)

    def vectors_of(self, crops: Sequence[int]) -> Float16[np.ndarray, "n d"]:
        """Return the unit vectors of some crops in the order given, without loading all."""
        vectors = [
            self.files.tensors(file_names.crops_file(file_index))["vector"][row].numpy()
            for file_index, row in map(self._locate_crop, crops)
        ]
        return np.array(vectors, np.float16).reshape(-1, self.manifest.dim)

    def cosines(
        self, probes: Float32[np.ndarray, "q d"], rows: Int64[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n q"]:
        """Return cosine similarities of components with probes (Eq. 3); 0 for a vector of zeros."""
        units = functional.normalize(torch.from_numpy(probes.astype(np.float32)), dim=1)
        return self.products(units.numpy(), rows)

    def products(
        self, probes: Float32[np.ndarray, "q d"], rows: Int64[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n q"]:
        """Return inner products of components' unit vectors with probes; 0 for a vector of zeros.

        Theta is converted in chunks, which is several times faster than converting all of it, and
        takes a few megabytes. With few probes, a product with these on the left takes a third of
        the time of one with them on the right.
        """
        queries = torch.from_numpy(probes.astype(np.float32))
        products = torch.empty(len(probes), self.manifest.rows)
        rows_per_layer = np.bincount(self._layer_index(rows), minlength=len(self.manifest.layers))

        def multiply(layer: int) -> None:
            for rows, vectors in self._chunks(layer):
                products[:, rows] = queries @ vectors.T

        list(workers().map(multiply, np.flatnonzero(rows_per_layer).tolist()))
        selected = products.numpy()[:, rows]
        return (selected / np.maximum(self.norms[rows], np.float32(1e-12))).T

    @locked_cached_property
    def norms(self) -> Float32[np.ndarray, " n"]:
        """Norm of each concept vector."""
        norms = np.zeros(self.manifest.rows, np.float32)
        self.files.copy_ahead(file_names.theta_file(layer) for layer in self.layers)
        for layer in range(len(self.manifest.layers)):
            for rows, vectors in self._chunks(layer):
                norms[rows] = torch.linalg.vector_norm(vectors, dim=1).numpy()
        return norms

    def _chunks(self, layer: int) -> Iterator[tuple[slice, Float32[Tensor, "c d"]]]:
        """Yield a layer's theta in chunks of float32, with the rows of each chunk."""
        first_row = self.manifest.layers[layer].first
        for chunk, vectors in in_32_bits(self._theta(layer)):
            yield slice(first_row + chunk.start, first_row + chunk.stop), vectors

    def _theta(self, layer: int) -> Float16[Tensor, "c d"]:
        return self.files.tensors(file_names.theta_file(self.manifest.layers[layer].name))["theta"]

    def _concatenate_crops(self, name: str, empty: np.ndarray) -> np.ndarray:
        names = [file_names.crops_file(number) for number in range(len(self.manifest.crops))]
        self.files.copy_ahead(names)
        return np.concatenate([empty, *(self.files.tensors(file)[name].numpy() for file in names)])


class Reference:
    """A random subset of S images: the readouts of all components, and the images' vectors.

    In a database that ranks by relevance, relevance takes the place of readouts.

    Each readable image had the same chance to be chosen. Images on which a readout of some layer
    is not finite are left out. The order is random as well: the first n images are a random subset
    of n. Everything is read on first use; thread-safe.
    """

    def __init__(self, database: Examples, rows: list[int]) -> None:
        self._database = database
        self._rows = torch.tensor(rows)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._rows)

    @locked_cached_property
    def samples(self) -> Int64[np.ndarray, " s"]:
        """Numbers of the images, as in the database's ``samples``."""
        return self._database.files.tensors(file_names.REFERENCE)["sample"][self._rows].numpy()

    @locked_cached_property
    def ids(self) -> list[str]:
        """Ids of the images; for a folder their relative paths."""
        row_groups, samples = self._database.row_groups, self.samples.tolist()
        return row_groups.take(file_names.SAMPLES, samples, ("path",))["path"].to_pylist()

    @locked_cached_property
    def vectors(self) -> Float32[np.ndarray, "s d"]:
        """Unit vectors of the whole images."""
        vectors = self._database.files.tensors(file_names.REFERENCE)["vector"]
        return vectors[self._rows].float().numpy()

    def readouts(self, layer: str, components: slice = slice(None)) -> Float32[np.ndarray, "s c"]:
        """Return the raw readouts of a layer's components, in the order of their rows.

        The sign is not applied: for a component of sign -1, strong readouts are negative. With the
        readouts ``mean`` and ``cls``, both signs have the same values. Relevance differs by sign,
        and larger is stronger for both.

        Parameters
        ----------
        components
            Components of the layer to read, to save memory; all by default.

        Raises
        ------
        LayerError
            If the database does not have the layer.
        """
        entry = self._database.layer(layer)
        tensors = self._database.files.tensors(file_names.reference_file(entry.name))
        columns = torch.arange(entry.rows)[components] % len(tensors["scale"])
        half = tensors["readout"][columns].index_select(1, self._rows)
        return half.float().mul_(tensors["scale"][columns, None]).numpy().T


class ReferenceReader(Examples):
    """The reference samples of a database."""

    @locked_cached_property
    def reference(self) -> Reference | None:
        """Readouts and vectors of random images; None if the database has none."""
        rows = self.manifest.reference_rows
        return Reference(self, rows) if rows else None
