"""Readouts of layers in the order of a database's components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from semlens.store.reader import Database


def by_component(
    database: Database, layers: Sequence[str], readouts: Mapping[str, Float[np.ndarray, "n c"]]
) -> Float[np.ndarray, "n components"]:
    """Return readouts of some layers with a column per component of the database.

    If both signs of a layer are components, the negative ones follow with the opposite sign.
    """
    columns: list[np.ndarray] = []
    for name in layers:
        entry = database.layer(name)
        columns.append(readouts[name])
        if entry.rows > entry.channels:
            columns.append(-readouts[name])
    return np.concatenate(columns, axis=1)
