"""Concept sets as TOML, and sets that people hand in as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from semlens.analysis.concepts import ENDS, Concept, ConceptSet, Kind, parse_set
from semlens.errors import ConceptError

_TABLES: dict[Kind, str] = {"concept": "concepts", "valid": "valid", "spurious": "spurious"}


def to_toml(concepts: ConceptSet) -> str:
    """Write a concept set as TOML that :meth:`ConceptSet.load` reads back.

    Concepts of one category stand together, in their order.

    Raises
    ------
    ConceptError
        If it has no concept: no file says that.
    """
    if not len(concepts):
        raise ConceptError(
            f"The concept set '{concepts.name}' is empty.", "Expected a concept.", "Add some."
        )
    head: dict[str, Any] = {
        "name": concepts.name,
        "source": concepts.source or None,
        "target": concepts.target,
        "templates": concepts.templates,
    }
    lines = [f"{name} = {_value(value)}" for name, value in head.items() if value is not None]
    for kind, table in _TABLES.items():
        members = concepts.of_kind(kind).concepts
        for path in dict.fromkeys(one.path for one in members):
            # a table of its own each, whether or not it has others below it
            lines += ["", f"[{'.'.join([table, *map(_text, path)])}]", '"" = [']
            lines += [f"  {_value(_leaf(one))}," for one in members if one.path == path]
            lines.append("]")
    return "\n".join(lines) + "\n"


def read_text(text: str, file: str) -> ConceptSet:
    """Read a concept set that was handed in as the text of a file.

    Parameters
    ----------
    file
        Its name; the ending says its form.

    Raises
    ------
    ConceptError
        If it is no such file, or has concepts by image: their paths mean nothing here.
    """
    name, dot, end = file.rpartition(".")
    if f"{dot}{end}".lower() not in ENDS or not name:
        raise ConceptError(
            f"'{file}' is no concept set.",
            f"Expected a file that ends in {', '.join(ENDS)}.",
            "Choose another file.",
        )
    found = parse_set(text, f".{end.lower()}", name)
    pictured = [concept.name for concept in found.concepts if concept.images]
    if pictured:
        raise ConceptError(
            f"'{file}' has concepts by image: {', '.join(pictured[:5])}.",
            "Expected texts: paths of images cannot be handed in.",
            "Save the audit in Python, with db.audits.add, where the images are.",
        )
    return found


def _leaf(concept: Concept) -> Any:
    if not concept.images:
        return concept.name
    return {"name": concept.name, "images": [str(path) for path in concept.images]}


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{name} = {_value(one)}' for name, one in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return _text(str(value))


def _text(text: str) -> str:
    """Return a basic string of TOML: JSON's, but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
