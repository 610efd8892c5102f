"""Swaps that were run with the usual settings, kept in the database.

Results for single classes add up: a class that is tested again replaces its rows. A swap with other
settings is not kept, so that nobody can try settings until one finds something.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import pandas as pd

from semlens.draw.encode_images import decode_image, encode_webp
from semlens.errors import StoreError
from semlens.lenses.swap.swap_result import Swap
from semlens.recipe import fingerprint
from semlens.store.reader import Database
from semlens.version import __version__

S = TypeVar("S", bound=Swap)


def keep_swap(database: Database, swap: Swap) -> None:
    """Keep a swap with those of other classes, if the database is writable."""
    if not database.is_writable:
        return
    frame, components, origin = swap.frame, swap.components, _origin(database, swap)
    saved = _load(database, type(swap))
    if saved is not None:
        old, old_origin = saved
        origin["pasted"] = {**old_origin["pasted"], **origin["pasted"]}
        before = pd.DataFrame(**old_origin["components"])
        old = old.loc[~old["logit"].isin(frame["logit"])]
        before = before.loc[before["class"].isin(old["class"])]
        frame, components = pd.concat([old, frame]), pd.concat([before, components])
    table = components.to_dict("split", index=False)
    origin["components"] = {"columns": table["columns"], "data": table["data"]}
    frame = frame.sort_values(["p_value", "logit"], ignore_index=True)
    with suppress(StoreError):  # another process may be writing it
        database.save_analysis(_name(type(swap)), frame, origin)


def kept_swap(database: Database, kind: type[S]) -> S | None:
    """Return what is kept of a kind of swap, for all classes that were tested; None if nothing."""
    saved = _load(database, kind)
    if saved is None:
        return None
    frame, origin = saved
    first = str(frame["logit"].iloc[0])
    pasted = [
        (decode_image(base64.b64decode(before)), decode_image(base64.b64decode(after)))
        for before, after in origin["pasted"].get(first, ())
    ]
    components = pd.DataFrame(**origin["components"])
    return kind(frame, components, origin["images"], origin["classes"], pasted=tuple(pasted))


def kept_editions(database: Database, kinds: Sequence[type[Swap]]) -> list[float]:
    """Return when each kind of swap was last kept; it changes with every new result."""
    times = dict(database.list_analyses())
    return [times.get(_name(kind), 0.0) for kind in kinds]


def _origin(database: Database, swap: Swap) -> dict[str, Any]:
    """Return what a swap was computed from, and what is not in its table."""
    first = str(swap.frame["logit"].iloc[0])
    pasted = [
        [base64.b64encode(encode_webp(picture)).decode() for picture in both]
        for both in swap.pasted
    ]
    return {
        "key": _key(database, type(swap)),
        "images": swap.images,
        "classes": swap.classes,
        "pasted": {first: pasted},
    }


def _load(database: Database, kind: type[Swap]) -> tuple[pd.DataFrame, Mapping[str, Any]] | None:
    """Return the table and the origin, unless they are of another build or version."""
    with suppress(StoreError):  # it can be run again
        saved = database.load_with_origin(_name(kind))
        if saved is not None and saved[1].get("key") == _key(database, kind):
            return saved
    return None


def _key(database: Database, kind: type[Swap]) -> str:
    return fingerprint(kind.name, __version__, database.fingerprint)


def _name(kind: type[Swap]) -> str:
    return kind.name.replace(" ", "-")
