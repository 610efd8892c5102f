"""Vectors of a database as they lie on disk: 16-bit, mapped into memory, never copied whole."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int32, Int64
from torch import Tensor
from torch.nn import functional

from semlens.store import layout
from semlens.store.component_index import ComponentIndex
from semlens.store.once import once
from semlens.store.workers import workers

_CHUNK = 2048
"""Rows that are widened to 32 bits at a time; they stay in the processor's cache."""


class Vectors(ComponentIndex):
    """What a database knows of vectors; the system reads their pages as they are needed."""

    @once
    def theta(self) -> Float32[np.ndarray, "n d"]:
        """Concept vectors of all components (zeros where there is no example)."""
        every = range(len(self.manifest.layers))
        return np.concatenate([self._theta(layer).float().numpy() for layer in every])

    @once
    def crop_vectors(self) -> Float16[np.ndarray, "u d"]:
        """Unit vectors of all unique crops."""
        return self._of_crops("vector", np.zeros((0, self.manifest.dim), np.float16))

    @once
    def crop_samples(self) -> Int64[np.ndarray, " u"]:
        """The sample that each unique crop was cut from."""
        return self._of_crops("sample", np.zeros(0, np.int64))

    @once
    def crop_boxes(self) -> Int32[np.ndarray, "u 4"]:
        """The box of each unique crop, in upright original pixels."""
        return self._of_crops("box", np.zeros((0, 4), np.int32))

    def concept_vectors(self, rows: Sequence[int]) -> Float32[np.ndarray, "n d"]:
        """Return the concept vectors of some components, without loading theta."""
        found = np.zeros((len(rows), self.manifest.dim), np.float32)
        for place, layer in enumerate(self._layer_of(np.asarray(rows, np.int64)).tolist()):
            within = rows[place] - self.manifest.layers[layer].first
            found[place] = self._theta(layer)[within].numpy()
        return found

    def vectors_of(self, crops: Sequence[int]) -> Float16[np.ndarray, "n d"]:
        """Return the unit vectors of some crops in the order given, without loading all."""
        found = np.zeros((len(crops), self.manifest.dim), np.float16)
        starts = [0, *accumulate(self.manifest.crops)]
        for place, crop in enumerate(crops):
            number = bisect.bisect_right(starts, crop) - 1
            vectors = self.files.tensors(layout.crops_file(number))["vector"]
            found[place] = vectors[crop - starts[number]].numpy()
        return found

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

    @once
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
        return self.files.tensors(layout.theta_file(self.manifest.layers[layer].name))["theta"]

    def _of_crops(self, part: str, none: np.ndarray) -> np.ndarray:
        names = [layout.crops_file(number) for number in range(len(self.manifest.crops))]
        return np.concatenate([none, *(self.files.tensors(n)[part].numpy() for n in names)])
