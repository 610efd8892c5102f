"""Concept examples of components: what the table says, thumbnails, original images."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Float32, Int64

from semlens.errors import StoreError
from semlens.store import layout
from semlens.store.component_index import ComponentIndex
from semlens.store.groups import RowGroups
from semlens.store.once import once
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

    Files of any row groups are read, but those of :mod:`semlens.store.layout` cost the least.
    """

    @once
    def groups(self) -> RowGroups:
        """What is read a few rows at a time, and how much of it is in memory."""
        return RowGroups(self.path, place=self.files.place)

    @once
    def samples(self) -> pd.DataFrame:
        """One row per sample: path, sha256, target, logit, error."""
        return self.files.table(layout.SAMPLES).to_pandas()

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
        return Sample(number, **self.groups.take(layout.SAMPLES, [number], _SAMPLE).to_pylist()[0])

    def examples(self, layer: str) -> pd.DataFrame:
        """Concept examples of a layer: component, rank, sample, activation, position, box, crop."""
        return self.files.table(layout.examples_file(self.layer(layer).name)).to_pandas()

    def examples_of(self, row: int, count: int | None = None) -> list[Example]:
        """Concept examples of one component that speak for it, strongest first."""
        file = layout.examples_file(self.component(row).layer)
        table = self.groups.equal(file, "component", row, _EXAMPLE)
        used = table.filter(table["crop"].is_valid()).slice(0, count).to_pylist()
        samples = [record.pop("sample") for record in used]
        paths = self.groups.take(layout.SAMPLES, samples, ("path",))["path"].to_pylist()
        boxes = [Box(*record.pop("box")) for record in used]
        return [
            Example(sample=sample, path=path, box=box, **record)
            for sample, path, box, record in zip(samples, paths, boxes, used, strict=True)
        ]

    def crop_index(self, layer: str) -> tuple[Int64[np.ndarray, "c m"], Bool[np.ndarray, "c m"]]:
        """Return the crop of each example slot of a layer, and which slots are used."""
        entry = self.layer(layer)
        shape = (entry.rows, self.manifest.recipe.examples)
        index, used = np.zeros(shape, np.int64), np.zeros(shape, bool)
        table = self._used_examples(layer, ["component", "rank", "crop"])
        row = table["component"].to_numpy() - entry.first
        rank = table["rank"].to_numpy()
        index[row, rank] = table["crop"].to_numpy()
        used[row, rank] = True
        return index, used

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
        table = self.files.table(layout.examples_file(self.layer(layer).name), columns)
        return table.filter(table["crop"].is_valid())

    @once
    def _example_crops(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return {}

    def thumbnail(self, crop: int) -> bytes | None:
        """Return the WebP of a crop, or None when the database was built without."""
        if not self.manifest.recipe.thumbnails:
            return None
        starts = [0, *accumulate(self.manifest.crops)]
        number = bisect.bisect_right(starts, crop) - 1
        found = self.groups.take(layout.thumbnails_file(number), [crop - starts[number]], ("webp",))
        return found["webp"][0].as_py()
