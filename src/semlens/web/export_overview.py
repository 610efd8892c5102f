"""What a static export records for the overview, and for the pages that it links to."""

from __future__ import annotations

from typing import Any

from semlens.lenses.describe.overview import class_table
from semlens.types import Component
from semlens.web.app_state import ModelContext
from semlens.web.export_recorder import Recorder, quote_component, request_path

EXTREMES = ("clarity",)
"""Measures whose largest values the page lists, the first of which is its picture of a vector."""
LISTED = 5
"""Components in such a list."""
BARS = 48
"""Numbers of the vector in the picture."""
CLASS_IMAGES = 3
"""Images of a class."""
MOST_CLASSES = 200
"""Classes with images."""
UNEXPECTED_CLASSES = 24
"""Classes whose unexpected components are recorded, most suspicious first."""
UNEXPECTED = 6
"""Unexpected components of a class."""


async def record_overview(
    recorder: Recorder, context: ModelContext, sweep: dict[str, Any] | None
) -> set[int]:
    """Record the responses and pictures of the overview and of the unexpected components.

    Parameters
    ----------
    sweep
        The recorded audit of all classes, if there is one.

    Returns
    -------
    set
        Rows of the components that these pages show.
    """
    base, names = f"models/{context.number}", list[str]()
    for measure in EXTREMES:
        path = request_path(f"{base}/components", sort=measure, descending="true", k=LISTED)
        page = await recorder.json(path)
        names += [row["component"] for row in page["rows"]] if page else []
    found = await recorder.json(f"{base}/polysemantic")
    several = [one["component"] for one in found["components"]] if found else []
    if names:
        first = quote_component(Component.parse(names[0]))
        await recorder.json(request_path(f"{base}/components/{first}/vector", count=BARS))
    targets = class_table(context.db)["target"].tolist()
    if not targets and context.db.manifest.classes:
        predicted = await recorder.json(f"{base}/predicted-classes")
        targets = [entry["target"] for entry in predicted["classes"]] if predicted else []
    for target in targets[:MOST_CLASSES]:
        await recorder.file(request_path(f"{base}/classes/{target}/strip.webp", count=CLASS_IMAGES))
    for entry in sweep["classes"][:UNEXPECTED_CLASSES] if sweep else ():
        names += [one["component"] for one in entry["strongest"]]
        path = f"{base}/classes/{entry['target']}/unexpected"
        found = await recorder.json(request_path(path, k=UNEXPECTED))
        names += [one["component"] for one in found["components"]] if found else []
    return {context.db.row(Component.parse(name)) for name in [*names, *several]}
