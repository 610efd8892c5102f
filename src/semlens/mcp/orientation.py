"""The tools by which an agent finds its way: overview and component."""

from __future__ import annotations

from typing import Annotated

from semlens.lenses.result import Result
from semlens.mcp.component_report import ComponentReport
from semlens.mcp.overview import Overview
from semlens.mcp.tool import Call, DatabaseName, tool
from semlens.settings import setting


@tool(database=(DatabaseName, None))
def overview(call: Call) -> Result:
    """Tell what a database holds: model, layers, classes, images, embedder, and warnings.

    Call it first. It names the databases that are served and the images that the user allowed. The
    picture shows examples of the components with the largest relevance for any class.
    """
    name = call["database"] or next(iter(call.databases))
    return Overview.of(call.named(name), name, tuple(call.databases), call.images)


@tool(
    component=(Annotated[str, setting("Component, such as layer4:17.")], ...),
    examples=(Annotated[int, setting("Number of examples.", ge=1, le=40)], 10),
    database=(DatabaseName, None),
)
def component(call: Call) -> Result:
    """Describe one component: label, statistics, examples, classes and most similar components.

    The picture shows its strongest examples; what it does not respond to is darkened.
    """
    return ComponentReport.of(call.db, call["component"], call["examples"])
