"""An extension of griffe: the reference lists settings, and reads the roles of docstrings.

The settings of a question are documented where they are declared, by ``setting("...")``; they are
added to the parameters of its docstring.  ``:class:`semlens.Recipe``` becomes a link.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import griffe

import semlens
from semlens.lens import lens_of
from semlens.settings import settings_of

ROLE = re.compile(r":(?:func|class|meth|attr|mod|data):`~?([^`]+)`")
SECTION = re.compile(r"^\w[\w ]*\n-{3,}$", re.M)
PUBLIC = {f"semlens.{name}" for name in semlens.__all__}
QUESTIONS = {
    question.__module__ + "." + name: question
    for name, question in (
        (name, getattr(semlens.ConceptDatabase, name)) for name in dir(semlens.ConceptDatabase)
    )
    if lens_of(question) is not None
}


class Settings(griffe.Extension):
    """Change docstrings and annotations before they are rendered."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Turn roles into code or links."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(_reference, obj.docstring.value)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Add the settings of a question to its parameters."""
        for parameter in func.parameters:
            parameter.annotation = _unannotated(parameter.annotation)
        question = QUESTIONS.get(func.path)
        if question is not None and func.docstring is not None:
            func.docstring.value = with_settings(func.docstring.value, question)


def with_settings(docstring: str, question: Any) -> str:
    """Return a docstring in numpy style with the settings at the end of its parameters."""
    entries = "".join(
        f"{name}\n    {inspect.cleandoc(one.field.description or '')} {one.expected}\n"
        for name, one in settings_of(question).items()
        if not re.search(rf"^[\w, ]*\b{name}\b[\w, ]*\n    ", docstring, re.M)
    )
    if not entries:
        return docstring
    sections = list(SECTION.finditer(docstring))
    heads = [match[0].partition("\n")[0] for match in sections]
    if "Parameters" not in heads:
        entries = f"Parameters\n----------\n{entries}"
        place = 0
    else:
        place = heads.index("Parameters") + 1
    end = sections[place].start() if place < len(sections) else len(docstring)
    before = docstring[:end].rstrip()
    gap = "\n\n" if place == 0 else "\n"
    return f"{before}{gap}{entries}\n{docstring[end:]}"


def _reference(role: re.Match[str]) -> str:
    name = role[1]
    path = name if name.startswith("semlens.") else f"semlens.{name}"
    return f"[`{name}`][{path}]" if path in PUBLIC else f"`{name}`"


def _unannotated(annotation: Any) -> Any:
    """Return the type of ``Annotated[type, ...]``, or the annotation itself."""
    if isinstance(annotation, griffe.ExprSubscript) and str(annotation.left) == "Annotated":
        return annotation.slice.elements[0]
    return annotation
