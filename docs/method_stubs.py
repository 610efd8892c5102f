"""Write semlens/lenses/questions.pyi: what callers may give to each question of a database.

A question gets what has been read, such as the logit of a class; its callers give a name or a
number. Types that cannot be written as an import are Any.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from semlens.settings import settings_of, unannotated

HEAD = '''\
"""The questions as methods, for type checkers; written by ``docs/generate.py``, not by hand."""

{imports}

class Questions(Database):
'''


def page(questions: Mapping[str, Callable[..., Any]]) -> str:
    """Return the stubs."""
    imports: set[tuple[str, str]] = {("semlens.store.reader", "Database")}
    methods = "\n".join(_method(name, questions[name], imports) for name in sorted(questions))
    lines = [f"from {module} import {name}" for module, name in sorted(imports)]
    return HEAD.format(imports="\n".join([*lines, ""])) + methods


def _method(name: str, question: Callable[..., Any], imports: set[tuple[str, str]]) -> str:
    function = inspect.unwrap(question)
    hints = typing.get_type_hints(function, include_extras=True)
    settings = settings_of(question)
    parts, keyword_only = ["self"], False
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        type_ = (
            settings[parameter.name].type if parameter.name in settings else hints[parameter.name]
        )
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            parts += ["*"] if not any(part.startswith("*") for part in parts) else []
        star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        default = "" if parameter.default is parameter.empty else " = ..."
        parts.append(f"{star}{parameter.name}: {_source(type_, imports)}{default}")
    summary = (inspect.getdoc(question) or "").partition("\n")[0]
    arguments = "".join(f"        {part},\n" for part in parts)
    result = _source(hints["return"], imports)
    return f'    def {name}(\n{arguments}    ) -> {result}:\n        """{summary}"""\n'


def _source(type_: Any, imports: set[tuple[str, str]]) -> str:
    """Return the source text of a type; what it needs is added to the imports."""
    type_ = unannotated(type_)
    origin, arguments = typing.get_origin(type_), typing.get_args(type_)
    if type_ in (None, type(None)):
        return "None"
    if origin in (typing.Union, types.UnionType):
        members = dict.fromkeys(_source(member, imports) for member in arguments)
        return "Any" if "Any" in members else " | ".join(members)
    if origin is typing.Literal:
        imports.add(("typing", "Literal"))
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin is not None:
        inner = ["..." if a is ... else _source(a, imports) for a in arguments]
        return f"{_source(origin, imports)}[{', '.join(inner)}]"
    if isinstance(type_, type) and type_.__qualname__.replace(".", "").isidentifier():
        if type_.__module__ != "builtins":
            imports.add((type_.__module__, type_.__qualname__.partition(".")[0]))
        return type_.__qualname__
    imports.add(("typing", "Any"))
    return "Any"
