"""All tools by name, in the order in which they are listed."""

from __future__ import annotations

from types import MappingProxyType

from semlens.mcp.orientation import component, overview
from semlens.mcp.questions import audit, compare, contrast, effect, explain, search

TOOLS = MappingProxyType(
    {
        tool.name: tool
        for tool in (overview, search, component, explain, audit, effect, contrast, compare)
    }
)
