"""What would have been found with other examples: the bootstrap behind an audit's intervals."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64

from semlens.analysis.align import unit
from semlens.store.reader import Database

CHUNK = 1024


class Resampled:
    """Cosines of theta with vectors, were each component's examples drawn anew.

    Each draw takes as many examples as a component has, with repetition, and joins them as the
    database did: by their mean, or weighted. Nothing is drawn for the median, whose draws do
    not follow from sums.
    """

    def __init__(
        self,
        database: Database,
        rows: Int64[np.ndarray, " k"],
        vectors: Float32[np.ndarray, "q d"],
    ) -> None:
        crop, weight, self.count = _examples(database, rows)
        if database.manifest.recipe.aggregate != "weighted":
            weight = np.ones_like(weight)
        # the scale of a mixture does not matter; without it squares of tiny readouts vanish
        most = weight.max(1, keepdims=True, initial=0)
        self.weight = weight / np.where(most > 0, most, 1)
        probes = unit(vectors).T
        shape = crop.shape
        self.along = np.zeros((*shape, probes.shape[1]), np.float32)
        self.gram = np.zeros((*shape, shape[1]), np.float32)
        for start in range(0, len(crop), CHUNK):
            part = slice(start, start + CHUNK)
            examples = database.crop_vectors[crop[part]].astype(np.float32)
            self.along[part] = examples @ probes
            self.gram[part] = examples @ examples.transpose(0, 2, 1)

    def draw(self, rng: np.random.Generator) -> Float32[np.ndarray, "k q"]:
        """Return the cosines of one draw; zeros for a component without examples."""
        number, slots = self.weight.shape
        # examples stand first in their slots, strongest first
        picks = (rng.random(self.weight.shape) * self.count[:, None]).astype(np.int64)
        filled = np.arange(slots)[None] < self.count[:, None]
        flat = (picks + np.arange(number)[:, None] * slots)[filled]
        times = np.bincount(flat, minlength=number * slots).reshape(number, slots)
        mix = (times * self.weight)[:, None].astype(np.float32)
        square = (mix @ self.gram @ mix.transpose(0, 2, 1))[:, :, 0]
        return (mix @ self.along)[:, 0] / np.maximum(np.sqrt(np.maximum(square, 0)), 1e-12)


def _examples(
    database: Database, rows: Int64[np.ndarray, " k"]
) -> tuple[Int64[np.ndarray, "k m"], Float32[np.ndarray, "k m"], Int64[np.ndarray, " k"]]:
    """Return components' crops, strongest first, the size of their readouts, and how many."""
    slots = database.manifest.recipe.examples
    crop = np.zeros((len(rows), slots), np.int64)
    weight = np.zeros((len(rows), slots), np.float32)
    count = np.zeros(len(rows), np.int64)
    layer = database.components["layer"].to_numpy()[rows]
    for name in dict.fromkeys(layer):
        mine = np.flatnonzero(layer == name)
        component, crops, activation = database.example_crops(name)
        # rows of one component lie together
        start, stop = np.searchsorted(component, [rows[mine], rows[mine] + 1])
        size = stop - start
        at = np.repeat(mine, size)
        slot = np.arange(len(at)) - np.repeat(np.cumsum(size) - size, size)
        source = np.repeat(start, size) + slot
        crop[at, slot] = crops[source]
        weight[at, slot] = np.abs(activation[source])
        count[mine] = size
    return crop, weight, count
