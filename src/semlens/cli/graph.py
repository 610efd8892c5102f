"""``semlens graph``."""

from __future__ import annotations

from typing import Annotated

import typer

from semlens.analysis.graph.graph import AttributionGraph, attribution_graph
from semlens.analysis.kept_labels import labels_by_component
from semlens.cli.command import Ask, command
from semlens.cli.options import Picture
from semlens.cli.output import err


@command(attribution_graph)
def graph(
    ask: Ask,
    image: Picture = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Labels kept by 'semlens label --keep', instead of a concept set."),
    ] = None,
) -> AttributionGraph:
    """Show which concepts a class rests on, layer by layer, and what passes between them.

    Components that matter for the class are grouped by their labels; those without are "?".
    A line shows how much relevance a lower group gets from an upper one. Without --save or
    --json, the picture is written to CLASS.svg.

    Examples:

    semlens graph r18.semlens --target "tiger shark"

    semlens graph r18.semlens --target 291 --image lion.jpg --concepts my-concepts.toml
    --save lion.png
    """
    known = {} if labels is None else {"concepts": labels_by_component(ask.db, labels)}
    found: AttributionGraph = ask(images=image, **known)
    if not (ask.save or ask.as_json):
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in found.name).strip("-")
        found.save(f"{name or 'graph'}.svg")
        err.print(f"Written: {name or 'graph'}.svg", markup=False, highlight=False)
    return found
