"""Random concepts in pictures: what other classes of the data show."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64

from semlens.analysis.align import unit
from semlens.store.reader import Database

POOL = 4000
"""Crops that random concepts are made of, at most."""


def random_pictures(
    database: Database, concepts: int, images: int, target: int, seed: int
) -> Float32[np.ndarray, "v d"]:
    """Make concepts of crops: one crop at random and those most similar to it, averaged.

    Crops of the audited class's own samples are left out, where there are others: what the
    class shows is no random concept for it.

    Parameters
    ----------
    images
        Crops behind each concept.
    """
    rng = np.random.default_rng(seed)
    places = _pool(database, target)
    if len(places) > POOL:
        places = np.sort(rng.choice(places, POOL, replace=False))
    vectors = database.crop_vectors[places].astype(np.float32)
    units = unit(vectors)
    firsts = rng.choice(len(vectors), concepts, replace=concepts > len(vectors))
    alike = np.argsort(-(units[firsts] @ units.T), axis=1, kind="stable")[:, :images]
    return np.stack([vectors[one].mean(0) for one in alike])


def _pool(database: Database, target: int) -> Int64[np.ndarray, " p"]:
    logits = database.samples["logit"].astype("Float64").fillna(-1).to_numpy(float)
    others = np.flatnonzero(logits[database.crop_samples] != target)
    return others if len(others) else np.arange(len(database.crop_samples))
