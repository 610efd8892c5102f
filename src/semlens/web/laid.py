"""The map of a model: laid out once, in the background, for all who ask and before they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from semlens.analysis.describe.map import ConceptMap, laid_out
from semlens.errors import SemlensError
from semlens.web.served import Served, Serving
from semlens.web.work import StillWorking

SMALL = 5_000
"""Components up to which a map is laid out before anybody asks: within a minute."""
_DURATION = ((2_000, "less than a minute"), (10_000, "some minutes"))


@dataclass(frozen=True)
class LaidMap:
    """A map, and why its clusters have no labels if they have none."""

    found: ConceptMap
    notice: str | None


def laid_map(served: Served, serving: Serving) -> LaidMap:
    """Return the model's map; made once, which may take UMAP minutes.

    Raises
    ------
    StillWorking
        If it is being made.
    """
    work, number = serving.work, served.number
    kept = work.result(
        f"map-kept/{number}", "Looking for the map.", lambda _: laid_out([served.db]), short=True
    )
    components = f"{_components(served):,} components"
    what = f"Reading the map of {components}."
    if not kept:
        what = (
            f"Laying out {components} by what they encode: UMAP, then k-means. {_promise(served)}"
        )

    def make(_: Any) -> LaidMap:
        found = served.db.map(concepts=None)  # needs no embedder, and so works without one
        try:
            return LaidMap(found.labelled(), None)
        except SemlensError as error:
            return LaidMap(found, f"Clusters have no labels. {error}")

    return work.result(f"map/{number}", what, make)


def prepare_maps(serving: Serving) -> None:
    """Have the maps of small databases made, one after the other, where they can be kept.

    What goes wrong is said to whoever asks for the map.
    """
    for served in serving.models:
        while _components(served) <= SMALL and served.db.keeps_analysis:
            try:
                laid_map(served, serving)
            except StillWorking:
                continue  # it has waited for a while
            except SemlensError:
                pass
            break


def _components(served: Served) -> int:
    return int(served.db.alive.sum())


def _promise(served: Served) -> str:
    count = _components(served)
    time = next((words for most, words in _DURATION if count <= most), "many minutes")
    if not served.db.keeps_analysis:
        return f"This takes {time}, at each start: the database is for reading only."
    return f"This takes {time}, once: the map is kept in the database."
