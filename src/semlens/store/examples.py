"""Concept examples of components, and vectors: of components and of the crops of examples."""

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
from semlens.store.row_group_cache import RowGroups
from semlens.types import Box

_EXAMPLE = ("sample", "activation", "box", "crop", "mask")
_SAMPLE = ("path", "sha256", "target", "logit", "error")


@dataclass(frozen=True)
class Example:
    """One concept example of a component."""

    sample: int
    path: str
    """The sample's id: its path in the data folder."""
    activation: float
    """The raw readout."""
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
    """Its class in the data."""
    logit: int | None
    """The model's logit for that class."""
    error: str | None
    """Why it was skipped."""


class Examples(ComponentIndex):
    """What a database knows of examples and samples, read a few rows at a time; safe in threads.

    Files of any row groups are read, but those of :mod:`semlens.store.file_names` cost the least.
    """

    @locked_cached_property
    def groups(self) -> RowGroups:
        """What is read a few rows at a time, and how much of it is in memory."""
        return RowGroups(self.path, place=self.files.place)

    @locked_cached_property
    def samples(self) -> pd.DataFrame:
        """One row per sample: path, sha256, target, logit, error."""
        return self.files.table(file_names.SAMPLES).to_pandas()

    def sample(self, number: int) -> Sample:
        """Return one sample, without reading all of them.

        Raises
        ------
        StoreError
            If there is none of this number.
        """
        if not 0 <= number < self.manifest.samples:
            raise StoreError(
                f"Sample {number} is not in '{self.path}'.",
                f"It has the samples 0 to {self.manifest.samples - 1}.",
                "Choose one of them.",
            )
        return Sample(
            number, **self.groups.take(file_names.SAMPLES, [number], _SAMPLE).to_pylist()[0]
        )

    def examples(self, layer: str) -> pd.DataFrame:
        """Concept examples of a layer: component, rank, sample, activation, position, box, crop."""
        return self.files.table(file_names.examples_file(self.layer(layer).name)).to_pandas()

    def examples_of(self, row: int, count: int | None = None) -> list[Example]:
        """Concept examples of one component that speak for it, strongest first."""
        file = file_names.examples_file(self.component(row).layer)
        table = self.groups.equal(file, "component", row, _EXAMPLE)
        used = table.filter(table["crop"].is_valid()).slice(0, count).to_pylist()
        samples = [record.pop("sample") for record in used]
        paths = self.groups.take(file_names.SAMPLES, samples, ("path",))["path"].to_pylist()
        boxes = [Box(*record.pop("box")) for record in used]
        return [
            Example(sample=sample, path=path, box=box, **record)
            for sample, path, box, record in zip(samples, paths, boxes, used, strict=True)
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
        """Return component (row), crop and readout of every used example, strongest first."""
        if layer not in self._example_crops:
            table = self._used_examples(layer, ["component", "crop", "activation"])
            self._example_crops[layer] = (
                table["component"].to_numpy().astype(np.int64),
                table["crop"].to_numpy().astype(np.int64),
                table["activation"].to_numpy().astype(np.float32),
            )
        return self._example_crops[layer]

    def _used_examples(self, layer: str, columns: list[str]) -> pa.Table:
        table = self.files.table(file_names.examples_file(self.layer(layer).name), columns)
        return table.filter(table["crop"].is_valid())

    @locked_cached_property
    def _example_crops(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return {}

    def thumbnail(self, crop: int) -> bytes | None:
        """Return the WebP of a crop, or None when the database was built without."""
        if not self.manifest.recipe.thumbnails:
            return None
        number, row = self._crop_place(crop)
        return self.groups.take(file_names.thumbnails_file(number), [row], ("webp",))["webp"][
            0
        ].as_py()


_CHUNK = 2048
"""Rows that are widened to 32 bits at a time; they stay in the processor's cache."""


class Vectors(ComponentIndex):
    """What a database knows of vectors; the system reads their pages as they are needed."""

    @locked_cached_property
    def theta(self) -> Float32[np.ndarray, "n d"]:
        """Concept vectors of all components (zeros where there is no example)."""
        every = range(len(self.manifest.layers))
        return np.concatenate([self._theta(layer).float().numpy() for layer in every])

    @locked_cached_property
    def crop_vectors(self) -> Float16[np.ndarray, "u d"]:
        """Unit vectors of all unique crops."""
        return self._of_crops("vector", np.zeros((0, self.manifest.dim), np.float16))

    @locked_cached_property
    def crop_samples(self) -> Int64[np.ndarray, " u"]:
        """The sample that each unique crop was cut from."""
        return self._of_crops("sample", np.zeros(0, np.int64))

    @locked_cached_property
    def crop_boxes(self) -> Int32[np.ndarray, "u 4"]:
        """The box of each unique crop, in upright original pixels."""
        return self._of_crops("box", np.zeros((0, 4), np.int32))

    def concept_vectors(self, rows: Sequence[int]) -> Float32[np.ndarray, "n d"]:
        """Return the concept vectors of some components, without loading theta."""
        places = zip(rows, self._layer_of(np.asarray(rows, np.int64)).tolist(), strict=True)
        found = [
            self._theta(layer)[row - self.manifest.layers[layer].first].numpy()
            for row, layer in places
        ]
        return np.array(found, np.float32).reshape(-1, self.manifest.dim)

    def vectors_of(self, crops: Sequence[int]) -> Float16[np.ndarray, "n d"]:
        """Return the unit vectors of some crops in the order given, without loading all."""
        found = [
            self.files.tensors(file_names.crops_file(number))["vector"][row].numpy()
            for number, row in map(self._crop_place, crops)
        ]
        return np.array(found, np.float16).reshape(-1, self.manifest.dim)

    def cosines(
        self, probes: Float32[np.ndarray, "q d"], rows: Int64[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n q"]:
        """Return cosine similarities of components with probes (Eq. 3); 0 for a vector of zeros.

        Theta is not loaded: several times faster than to widen all of it first, and in a few
        megabytes.
        """
        units = functional.normalize(torch.from_numpy(probes.astype(np.float32)), dim=1).T
        every = torch.empty(self.manifest.rows, len(probes))
        wanted = np.bincount(self._layer_of(rows), minlength=len(self.manifest.layers))

        def multiply(layer: int) -> None:
            for rows, part in self._chunks(layer):
                every[rows] = part @ units

        list(workers().map(multiply, np.flatnonzero(wanted).tolist()))
        found = every.numpy()[rows]
        return found / np.maximum(self.lengths[rows], np.float32(1e-12))[:, None]

    @locked_cached_property
    def lengths(self) -> Float32[np.ndarray, " n"]:
        """Length of each concept vector."""
        found = np.zeros(self.manifest.rows, np.float32)
        for layer in range(len(self.manifest.layers)):
            for rows, part in self._chunks(layer):
                found[rows] = torch.linalg.vector_norm(part, dim=1).numpy()
        return found

    def _chunks(self, layer: int) -> Iterator[tuple[slice, Float32[Tensor, "c d"]]]:
        """Yield a layer's theta widened, piece by piece, and the rows of each piece."""
        first = self.manifest.layers[layer].first
        for part in self._theta(layer).split(_CHUNK):
            yield slice(first, first + len(part)), part.float()
            first += len(part)

    def _theta(self, layer: int) -> Float16[Tensor, "c d"]:
        return self.files.tensors(file_names.theta_file(self.manifest.layers[layer].name))["theta"]

    def _of_crops(self, part: str, none: np.ndarray) -> np.ndarray:
        names = [file_names.crops_file(number) for number in range(len(self.manifest.crops))]
        return np.concatenate([none, *(self.files.tensors(n)[part].numpy() for n in names)])
