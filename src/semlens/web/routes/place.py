"""The component that a path names: ``models/{m}/components/{layer}/{index}``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Query

from semlens.errors import LayerError
from semlens.web.served import Model, Served

LARGEST = 2**31 - 1
"""No class or row has a larger number; arrays take none."""
ClassNumber = Annotated[int, Query(alias="class", ge=0, le=LARGEST)]
"""The class that ``?class=`` names, by its logit."""
MaybeClass = Annotated[int | None, Query(alias="class", ge=0, le=LARGEST)]


def layer_names(served: Served, numbers: Sequence[int]) -> list[str] | None:
    """Return the names of layers that are given by number; None for none, which means all."""
    names = served.db.layers
    for number in numbers:
        if not 0 <= number < len(names):
            raise LayerError(
                f"There is no layer {number}.",
                f"The database has {len(names)}, counted from 0.",
                "Choose one of them.",
            )
    return [names[number] for number in numbers] or None


async def _row(served: Model, layer: int, index: int) -> int:
    """Return the row of a component, or say what there is."""
    entries = served.db.manifest.layers
    if not 0 <= layer < len(entries):
        known = ", ".join(f"{number} ({one.name})" for number, one in enumerate(entries[:8]))
        raise LayerError(
            f"There is no layer {layer}.",
            f"The database has {len(entries)}: {known}{', ...' if len(entries) > 8 else ''}.",
            "Choose one of them.",
        )
    entry = entries[layer]
    if not 0 <= index < entry.rows:
        raise LayerError(
            f"There is no component {index} in layer '{entry.name}'.",
            f"It has {entry.rows}, counted from 0.",
            "Choose one of them.",
        )
    return entry.first + index


Row = Annotated[int, Depends(_row)]
"""Row in ``components.parquet`` of the component that ``{layer}/{index}`` names."""
