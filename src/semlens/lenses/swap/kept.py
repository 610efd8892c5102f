"""Swaps that were run with the usual settings, kept in the database.

Results for single classes and parts add up: a class that is tested again replaces its rows. A swap
with other settings is not kept, so that nobody can try settings until one finds something.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pandas as pd

from semlens.draw.encode_images import decode_image, encode_webp
from semlens.errors import StoreError
from semlens.lenses.audit.class_verdict import Experiment
from semlens.lenses.swap.carried import LEAST
from semlens.lenses.swap.effect import FACTOR, MARGIN
from semlens.lenses.swap.swap_result import Pasted, Swap, corrected
from semlens.recipe import fingerprint
from semlens.store.reader import Database
from semlens.version import __version__

NAME = "swap"


def keep_swap(database: Database, swap: Swap) -> None:
    """Keep a swap with those of other classes and parts, if the database is writable."""
    if not database.is_writable:
        return
    frame, components, origin = swap.frame, swap.components, _origin(database, swap)
    saved = _load(database)
    if saved is not None:
        old, old_origin = saved
        for name in ("images", "pasted"):
            origin[name] = {**old_origin[name], **origin[name]}
        frame = pd.concat([_without(old, frame), frame])
        components = pd.concat([_without(_components(old_origin), components), components])
    table = components.to_dict("split", index=False)
    origin["components"] = {"columns": table["columns"], "data": table["data"]}
    with suppress(StoreError):  # another process may be writing it
        database.save_analysis(NAME, corrected(frame), origin)


def kept_swap(database: Database) -> Swap | None:
    """Return what is kept of all parts and classes, corrected for all; None if nothing is kept."""
    saved = _load(database)
    if saved is None:
        return None
    frame, origin = saved
    first = frame.drop_duplicates("part")
    pasted = {
        part: _pictures(origin["pasted"].get(f"{part} {logit}", []))
        for part, logit in zip(first["part"], first["logit"], strict=True)
    }
    return Swap(frame, _components(origin), origin["images"], origin["classes"], pasted)


def kept_experiments(database: Database) -> Mapping[int, Sequence[Experiment]]:
    """Return what the swaps that are kept in a database say about each class, by logit."""
    swap = kept_swap(database)
    return {} if swap is None else swap.experiments()


def edition(database: Database) -> float:
    """Return when a swap was last kept; it changes with every new result."""
    return dict(database.list_analyses()).get(NAME, 0.0)


def _without(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Return the old rows about classes and parts that the new ones are not about."""
    replaced = set(zip(new["class"], new["part"], strict=True))
    pairs = zip(old["class"], old["part"], strict=True)
    return old.loc[[pair not in replaced for pair in pairs]]


def _components(origin: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(**origin["components"])


def _pictures(encoded: list[list[str]]) -> Pasted:
    return tuple(
        (decode_image(base64.b64decode(before)), decode_image(base64.b64decode(after)))
        for before, after in encoded
    )


def _origin(database: Database, swap: Swap) -> dict[str, Any]:
    """Return what a swap was computed from, and what is not in its table."""
    first = swap.frame.drop_duplicates("part").set_index("part")["logit"]
    return {
        "key": _key(database),
        "images": dict(swap.images),
        "classes": swap.classes,
        "pasted": {
            f"{part} {first[part]}": [
                [base64.b64encode(encode_webp(picture)).decode() for picture in both]
                for both in pasted
            ]
            for part, pasted in swap.pasted.items()
        },
    }


def _load(database: Database) -> tuple[pd.DataFrame, Mapping[str, Any]] | None:
    """Return the table and the origin, unless they are of another build or version."""
    with suppress(StoreError):  # it can be run again
        saved = database.load_with_origin(NAME)
        if saved is not None and saved[1].get("key") == _key(database):
            return saved
    return None


def _key(database: Database) -> str:
    return fingerprint(NAME, __version__, database.fingerprint, f"{FACTOR} {MARGIN} {LEAST}")
