"""Nearest components of sets, layer by layer; what was computed once is kept in the database."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from jaxtyping import Int64

from semlens.analysis.compare.nearest import Nearest, Step, both_ways, unheard, within
from semlens.analysis.compare.sets import ComponentSet
from semlens.store.layout import theta_file
from semlens.store.reader import Database

KEEP_FROM = 10_000_000
"""Pairs of components from which a result is kept: about half a second of work."""

Places = Int64[np.ndarray, " _"]


def nearest_of_sets(
    a: ComponentSet,
    b: ComponentSet,
    step: Step = unheard,
    keep_from: int = KEEP_FROM,
) -> tuple[Nearest, Nearest]:
    """Find the nearest of two sets both ways; pairs of whole layers are kept and re-used."""
    if not (a.whole and b.whole):
        return both_ways(a.units, b.units, step)
    ahead, back = _blank(len(a)), _blank(len(b))
    for layer_a in a.layers:
        places_a = _places(a, layer_a)
        for layer_b in b.layers:
            places_b = _places(b, layer_b)
            to, fro = _layers(a, layer_a, b, layer_b, places_a, places_b, step, keep_from)
            _merge(ahead, places_a, to, places_b)
            _merge(back, places_b, fro, places_a)
    return ahead, back


def nearest_within(a: ComponentSet, step: Step = unheard, keep_from: int = KEEP_FROM) -> Nearest:
    """Find the nearest other component of the same set; kept and re-used by layers, too."""
    if not a.whole:
        return within(a.units, step)
    found = _blank(len(a))
    for number, layer in enumerate(a.layers):
        places = _places(a, layer)
        _merge(found, places, _layer_within(a, layer, places, step, keep_from), places)
        for other in a.layers[number + 1 :]:
            others = _places(a, other)
            to, fro = _layers(a, layer, a, other, places, others, step, keep_from)
            _merge(found, places, to, others)
            _merge(found, others, fro, places)
    return found


def _blank(count: int) -> Nearest:
    return Nearest(np.full(count, -1, np.int64), np.full(count, np.nan, np.float32))


def _places(one: ComponentSet, layer: str) -> Places:
    entry = one.database.layer(layer)
    return np.flatnonzero((one.rows >= entry.first) & (one.rows < entry.first + entry.rows))


def _merge(whole: Nearest, rows: Places, part: Nearest, others: Places) -> None:
    """Enter a pair of layers into the sets' result; of equal ones the first layer's wins."""
    better = part.similarity > np.nan_to_num(whole.similarity[rows], nan=-np.inf)
    chosen = rows[better]
    whole.similarity[chosen] = part.similarity[better]
    whole.place[chosen] = others[part.place[better]]


def _layers(
    a: ComponentSet,
    layer_a: str,
    b: ComponentSet,
    layer_b: str,
    places_a: Places,
    places_b: Places,
    step: Step,
    keep_from: int,
) -> tuple[Nearest, Nearest]:
    """Find or compute the nearest between two whole layers; places are within each layer."""
    pairs = len(places_a) * len(places_b)
    mine, other = _digest(a.database, layer_a), _digest(b.database, layer_b)
    kept = _load(a.database, f"{mine} {other}", len(places_a), len(places_b))
    if kept is None:
        turned = _load(b.database, f"{other} {mine}", len(places_b), len(places_a))
        kept = None if turned is None else (turned[1], turned[0])
    if kept is not None:
        step(pairs)
        return kept
    found = both_ways(a.units[places_a], b.units[places_b], step)
    if pairs >= keep_from:
        _save(a.database, f"{mine} {other}", found)
    return found


def _layer_within(
    a: ComponentSet, layer: str, places: Places, step: Step, keep_from: int
) -> Nearest:
    key = f"within {_digest(a.database, layer)}"
    kept = _load(a.database, key, len(places), 0)
    if kept is not None:
        step(len(places) ** 2 // 2)
        return kept[0]
    found = within(a.units[places], step)
    if len(places) ** 2 >= keep_from:
        _save(a.database, key, (found, _blank(0)))
    return found


def _digest(database: Database, layer: str) -> str:
    """Identify a layer's vectors, and so which components have one."""
    return database.manifest.files[theta_file(layer)]


def _name(key: str) -> str:
    return f"nearest-{hashlib.sha256(key.encode()).hexdigest()[:24]}"


def _save(database: Database, key: str, found: tuple[Nearest, Nearest]) -> None:
    if not database.keeps_analysis:
        return
    frame = pd.DataFrame(
        {
            "second": np.repeat([False, True], [len(part.place) for part in found]),
            "place": np.concatenate([part.place for part in found]),
            "similarity": np.concatenate([part.similarity for part in found]),
        }
    )
    database.save_analysis(_name(key), frame, {"vectors": key})


def _load(database: Database, key: str, first: int, second: int) -> tuple[Nearest, Nearest] | None:
    kept = database.load_origin(_name(key))
    if kept is None or kept[1] != {"vectors": key} or len(kept[0]) != first + second:
        return None
    place, similarity = (kept[0][name].to_numpy() for name in ("place", "similarity"))
    return Nearest(place[:first], similarity[:first]), Nearest(place[first:], similarity[first:])
