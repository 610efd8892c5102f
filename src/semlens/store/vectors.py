"""Vectors of a database as they lie on disk: 16-bit, mapped into memory, never copied whole."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int64
from torch import Tensor
from torch.nn import functional

from semlens.store import layout
from semlens.store.files import load_tensors
from semlens.store.manifest import Manifest
from semlens.store.once import once
from semlens.store.workers import workers

_CHUNK = 2048
"""Rows that are widened to 32 bits at a time; they stay in the processor's cache."""


class Vectors:
    """Concept vectors and crop vectors; the system reads their pages as they are needed."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._path = path
        self._manifest = manifest

    @once
    def theta(self) -> list[Float16[Tensor, "c d"]]:
        """Concept vectors of each layer."""
        names = [layout.theta_file(layer.name) for layer in self._manifest.layers]
        return [load_tensors(self._path / name)["theta"] for name in names]

    @once
    def crops(self) -> list[dict[str, Tensor]]:
        """Vector, sample and box of the crops of each file."""
        names = [layout.crops_file(number) for number in range(len(self._manifest.crops))]
        return [load_tensors(self._path / name) for name in names]

    def of_rows(self, rows: Sequence[int]) -> Float32[np.ndarray, "n d"]:
        """Return the concept vectors of some components."""
        found = np.zeros((len(rows), self._manifest.dim), np.float32)
        for place, layer in enumerate(self._layer_of(np.asarray(rows, np.int64))):
            within = rows[place] - self._manifest.layers[layer].first
            found[place] = self.theta[layer][within].numpy()
        return found

    def of_crops(self, crops: Sequence[int]) -> Float16[np.ndarray, "n d"]:
        """Return the unit vectors of some crops, in the order given."""
        found = np.zeros((len(crops), self._manifest.dim), np.float16)
        starts = [0, *accumulate(self._manifest.crops)]
        for place, crop in enumerate(crops):
            number = bisect.bisect_right(starts, crop) - 1
            found[place] = self.crops[number]["vector"][crop - starts[number]].numpy()
        return found

    def cosines(
        self, probes: Float32[np.ndarray, "q d"], rows: Int64[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n q"]:
        """Cosine similarity of components with probes (paper, Eq. 3); 0 for a vector of zeros.

        The search of a server: several times faster than to widen all of theta first, and in
        a few megabytes.
        """
        units = functional.normalize(torch.from_numpy(probes.astype(np.float32)), dim=1).T
        every = torch.empty(self._manifest.rows, len(probes))
        wanted = np.bincount(self._layer_of(rows), minlength=len(self._manifest.layers))
        layers, theta = self._manifest.layers, self.theta

        def multiply(number: int) -> None:
            for start in range(0, layers[number].rows, _CHUNK):
                part = theta[number][start : start + _CHUNK].float()
                first = layers[number].first + start
                every[first : first + len(part)] = part @ units

        list(workers().map(multiply, np.flatnonzero(wanted).tolist()))
        found = every.numpy()[rows]
        return found / np.maximum(self.lengths[rows], np.float32(1e-12))[:, None]

    @once
    def lengths(self) -> Float32[np.ndarray, " n"]:
        """Length of each concept vector."""
        found = np.zeros(self._manifest.rows, np.float32)
        for layer, theta in zip(self._manifest.layers, self.theta, strict=True):
            for start in range(0, layer.rows, _CHUNK):
                part = theta[start : start + _CHUNK].float()
                first = layer.first + start
                found[first : first + len(part)] = torch.linalg.vector_norm(part, dim=1).numpy()
        return found

    def _layer_of(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        firsts = np.array([layer.first for layer in self._manifest.layers])
        return np.searchsorted(firsts, rows, "right") - 1
