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
        crop, weight = _examples(database, rows)
        self.count = (weight > 0).sum(1)
        if database.manifest.recipe.aggregate != "weighted":
            weight = (weight > 0).astype(np.float32)
        self.weight = weight
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
        slots = self.weight.shape[1]
        # examples stand first in their slots, strongest first
        picks = (rng.random(self.weight.shape) * self.count[:, None]).astype(np.int64)
        times = np.zeros_like(self.weight)
        filled = np.arange(slots)[None] < self.count[:, None]
        component = np.broadcast_to(np.arange(len(times))[:, None], picks.shape)
        np.add.at(times, (component[filled], picks[filled]), 1)
        mix = times * self.weight
        length = np.sqrt(np.einsum("km,kmn,kn->k", mix, self.gram, mix, optimize=True))
        cosines = np.einsum("km,kmq->kq", mix, self.along)
        return (cosines / np.maximum(length, 1e-12)[:, None]).astype(np.float32)


def _examples(
    database: Database, rows: Int64[np.ndarray, " k"]
) -> tuple[Int64[np.ndarray, "k m"], Float32[np.ndarray, "k m"]]:
    """Return the crops of components, first ones first, and the size of their readouts."""
    slots = database.manifest.recipe.examples
    crop = np.zeros((len(rows), slots), np.int64)
    weight = np.zeros((len(rows), slots), np.float32)
    place = {int(row): at for at, row in enumerate(rows)}
    for layer in dict.fromkeys(database.components["layer"].to_numpy()[rows]):
        table = database.examples(layer)
        table = table.loc[table["crop"].notna() & table["component"].isin(list(place))]
        component = table["component"].to_numpy(np.int64)
        at = np.array([place[row] for row in component], np.int64)
        # rows of one component lie together: a slot is the distance from the first of them
        slot = np.arange(len(at)) - np.searchsorted(component, component)
        crop[at, slot] = table["crop"].to_numpy(np.int64)
        # a readout of zero still is an example
        weight[at, slot] = np.maximum(np.abs(table["activation"].to_numpy()), 1e-30)
    return crop, weight
