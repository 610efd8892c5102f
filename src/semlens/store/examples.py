"""Concept examples of components: what the table says, thumbnails, original images."""

from __future__ import annotations

import bisect
import threading
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from PIL import Image

from semlens.data.originals import Originals
from semlens.errors import StoreError
from semlens.store import layout
from semlens.store.groups import RowGroups
from semlens.store.manifest import Manifest
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


class Examples:
    """The examples of a database, read a few rows at a time; safe in threads.

    Files of any row groups are read, but those of :mod:`semlens.store.layout` cost the least.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.groups = RowGroups(path)
        self._path = path
        self._manifest = manifest
        self._starts = [0, *accumulate(manifest.crops)]
        self._originals: dict[str, Originals] = {}
        self._lock = threading.Lock()

    def of(self, layer: str, row: int, count: int | None) -> list[Example]:
        """Return the examples of a component that speak for it, strongest first."""
        table = self.groups.equal(layout.examples_file(layer), "component", row, _EXAMPLE)
        records = table.filter(table["crop"].is_valid()).slice(0, count).to_pylist()
        samples = [record["sample"] for record in records]
        paths = self.groups.take(layout.SAMPLES, samples, ("path",))["path"].to_pylist()
        return [
            Example(
                record["sample"],
                path,
                record["activation"],
                Box(*record["box"]),
                record["crop"],
                record["mask"],
            )
            for record, path in zip(records, paths, strict=True)
        ]

    def sample(self, number: int) -> Sample:
        """Return a sample.

        Raises
        ------
        StoreError
            If there is none of this number.
        """
        if not 0 <= number < self._manifest.samples:
            raise StoreError(
                f"Sample {number} is not in '{self._path}'.",
                f"It has the samples 0 to {self._manifest.samples - 1}.",
                "Choose one of them.",
            )
        return Sample(number, **self.groups.take(layout.SAMPLES, [number], _SAMPLE).to_pylist()[0])

    def thumbnail(self, crop: int) -> bytes | None:
        """Return the WebP of a crop, or None when the database was built without."""
        if not self._manifest.recipe.thumbnails:
            return None
        number = bisect.bisect_right(self._starts, crop) - 1
        file, row = layout.thumbnails_file(number), crop - self._starts[number]
        return self.groups.take(file, [row], ("webp",))["webp"][0].as_py()

    def original(self, sample: int, data: str | Path | None) -> Image.Image:
        """Return the image of a sample, verified by its hash; see :class:`Originals`."""
        spec = str(data or self._manifest.data.spec)
        with self._lock:
            originals = self._originals.setdefault(spec, Originals(spec))
        found = self.sample(sample)
        return originals.read(sample, found.path, found.sha256)
