"""All tools by name: those written for agents, and the lenses that are declared for them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import create_model

from semlens.errors import LensError
from semlens.lens import lens_of, load_lens, registered, takes_several
from semlens.lenses.result import Result
from semlens.mcp.orientation import component, overview
from semlens.mcp.questions import audit, compare, contrast, effect, explain, search
from semlens.mcp.tool import COMMON, DATABASES, Call, DatabaseName, Tool
from semlens.settings import read_remote, remote_request, remote_settings

WRITTEN = (overview, search, component, explain, audit, effect, contrast, compare)
"""Tools whose arguments, or description, differ from those of the lens."""


@cache
def tools() -> Mapping[str, Tool]:
    """Return all tools by name, in the order in which they are listed.

    Lenses of other packages that cannot be imported are left out.
    """
    found = {tool.name: tool for tool in WRITTEN}
    for name in sorted(registered().keys() - found.keys()):
        try:
            question = load_lens(name)
        except LensError:
            continue
        declared = lens_of(question)
        if declared and declared.agents and remote_settings(question) is not None:
            found[name] = lens_tool(name, question)
    return found


def lens_tool(name: str, question: Callable[..., Result]) -> Tool:
    """Make a tool from a lens as it is declared."""
    request = remote_request(question)
    text = re.split(r"\n\n\w+\n---", inspect.getdoc(question) or "")[0]

    def answer(call: Call) -> Result:
        subject: Any = call.several if takes_several(question) else call.db
        given = request(**{key: call[key] for key in request.model_fields})
        return question(subject, **read_remote(question, subject, given))

    about: dict[str, Any] = (
        {"databases": DATABASES} if takes_several(question) else {"database": (DatabaseName, None)}
    )
    model = create_model(name, __base__=request, **about, **COMMON)
    return Tool(name, " ".join(text.split()), model, answer)
