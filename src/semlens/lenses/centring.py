"""Centring: concept vectors without what all crops of their layer have in common.

The vectors of all images lie in a narrow cone of semantic space, so that any two concept vectors
are similar and a text that is near to one is near to all. Centring removes this common part: the
mean over the distinct crops of the layer is subtracted. It is an addition of semlens.

The side of the concepts stays as it is. Alignment already subtracts the similarity with the
empty prompt; to shift all texts by one vector would change a component's similarities with all of
them alike, and so neither their order nor their differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from semlens.errors import ConceptError
from semlens.store.reader import Database
from semlens.types import Layers

_CHUNK = 8192


def layer_crops(database: Database, layer: str) -> Int64[np.ndarray, " u"]:
    """Return the distinct crops among the used examples of a layer, in ascending order."""
    return np.unique(database.example_crops(layer)[1])


def layer_means(database: Database, layers: Layers = None) -> dict[str, Float32[np.ndarray, " d"]]:
    """Return the mean unit vector of the distinct crops of each layer; of all layers by default.

    It is kept in the database.

    Raises
    ------
    LayerError
        If the database does not have a layer.
    ConceptError
        If no component of a layer has an example.
    """
    means: dict[str, np.ndarray] = {}
    for name in database.layer_names(layers):
        frame = database.cached("mean", database.digests(name), partial(_mean, database, name))
        means[name] = frame["mean"].to_numpy(np.float32)
    return means


def _mean(database: Database, layer: str) -> pd.DataFrame:
    crops = layer_crops(database, layer)
    if not len(crops):
        raise ConceptError(
            f"The layer '{layer}' has no examples.",
            "Expected the crops of its components' examples, to average them.",
            "Leave the layer out, or do not centre.",
        )
    total = np.zeros(database.manifest.dim)
    for start in range(0, len(crops), _CHUNK):
        block = database.crop_vectors[crops[start : start + _CHUNK]]
        total += block.sum(0, dtype=np.float64)
    return pd.DataFrame({"mean": (total / len(crops)).astype(np.float32)})


def centred_vectors(
    database: Database, rows: Sequence[int] | Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, "n d"]:
    """Return concept vectors less the mean of their layer's crops, see :func:`layer_means`.

    A component without examples keeps its vector of zeros.

    Raises
    ------
    LayerError
        If the database does not have a row.
    """
    rows = np.asarray(rows, np.int64)
    if len(rows) and not 0 <= rows.min() <= rows.max() < database.manifest.rows:
        database.component(int(rows.min() if rows.min() < 0 else rows.max()))
    vectors = database.theta[rows]
    for entry in database.manifest.layers:
        inside = (rows >= entry.first) & (rows < entry.first + entry.rows)
        inside[inside] = database.has_examples[rows[inside]]
        if inside.any():
            vectors[inside] -= layer_means(database, entry.name)[entry.name]
    return vectors
