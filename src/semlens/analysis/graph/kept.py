"""Traces of classes, kept in the database: the model runs once per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from semlens.analysis.graph.trace import MOST, GraphTrace, TracedLayer
from semlens.recipe import fingerprint
from semlens.store.reader import Database

VERSION = 1
"""Of what a trace means; an older one is computed again."""


def trace_name(
    database: Database,
    target: int,
    samples: Sequence[int] | np.ndarray,
    layers: Sequence[str] | None = None,
    most: int = MOST,
) -> str:
    """Return the name that tells a trace from all others; two of one name are equal.

    It holds when other layers are added, and not when the database is built anew from another
    model, other data or by other rules.
    """
    manifest = database.manifest
    chosen = set(database.chosen(layers))
    identity = fingerprint(
        VERSION,
        manifest.model.fingerprint,
        manifest.data.fingerprint,
        manifest.recipe.rules,
        [[entry.name, entry.rows] for entry in manifest.layers if entry.name in chosen],
        int(target),
        [int(sample) for sample in samples],
        most,
    )
    return f"graph-{identity[:24]}"


def keep_trace(database: Database, name: str, trace: GraphTrace) -> None:
    """Keep a trace in the database, if that can be written."""
    if not database.keeps_analysis:
        return
    rows: list[dict[str, Any]] = []
    for layer in trace.layers:
        for column, place in enumerate(layer.places):
            rows.append(
                {
                    "layer": layer.name,
                    "place": int(place),
                    "share": layer.share[:, column],
                    "came": layer.came[:, :, column].ravel(),
                }
            )
    origin = {
        "target": trace.target,
        "samples": list(trace.samples),
        "rules": trace.rules,
        "layers": [layer.name for layer in trace.layers],
        "mass": [layer.mass.tolist() for layer in trace.layers],
    }
    database.save_analysis(name, pd.DataFrame(rows), origin)


def recall_trace(database: Database, name: str) -> GraphTrace | None:
    """Return a kept trace, or None."""
    found = database.load_origin(name)
    if found is None:
        return None
    frame, origin = found
    layers: list[TracedLayer] = []
    above = 0
    for layer, mass in reversed(list(zip(origin["layers"], origin["mass"], strict=True))):
        part: pd.DataFrame = frame.loc[frame["layer"] == layer]
        share = np.stack(list(part["share"]), 1).astype(np.float32)
        came = np.stack(list(part["came"]), 1).astype(np.float32)
        came = came.reshape(len(share), above, len(part))
        places = part["place"].to_numpy(np.int64)
        layers.append(TracedLayer(layer, places, share, np.array(mass, np.float32), came))
        above = len(part)
    samples = tuple(origin["samples"])
    return GraphTrace(origin["target"], samples, origin["rules"], tuple(reversed(layers)))
