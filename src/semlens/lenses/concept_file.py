"""Concept sets as text: written as TOML, and parsed from uploads."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from semlens.errors import ConceptError
from semlens.lenses.concepts import SET_SUFFIXES, Concept, ConceptSet, Kind, parse_set

_TABLES: dict[Kind, str] = {"concept": "concepts", "valid": "valid", "spurious": "spurious"}


def to_toml(concepts: ConceptSet) -> str:
    """Write a concept set as TOML that :meth:`ConceptSet.load` reads back.

    Concepts are grouped by category, in their original order.

    Raises
    ------
    ConceptError
        If it is empty.
    """
    if not len(concepts):
        raise ConceptError(
            f"The concept set '{concepts.name}' is empty.",
            "Expected at least one concept.",
            "Add some.",
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
        by_path = defaultdict[tuple[str, ...], list[Concept]](list)
        for concept in members:
            by_path[concept.path].append(concept)
        for path, concepts_there in by_path.items():
            # one table per category; "" keeps its concepts apart from its subcategories
            lines += ["", f"[{'.'.join([table, *map(_text, path)])}]", '"" = [']
            lines += [f"  {_value(_leaf(concept))}," for concept in concepts_there]
            lines.append("]")
    return "\n".join(lines) + "\n"


def parse_upload(text: str, file: str) -> ConceptSet:
    """Parse a concept set that was uploaded as the text of a file.

    Parameters
    ----------
    file
        Name of the file; the suffix determines the format.

    Raises
    ------
    ConceptError
        If it is not a concept set, or has concepts by image: their files are not uploaded.
    """
    name, dot, suffix = file.rpartition(".")
    if f"{dot}{suffix}".lower() not in SET_SUFFIXES or not name:
        raise ConceptError(
            f"'{file}' is not a concept set.",
            f"Expected a file that ends in {', '.join(SET_SUFFIXES)}.",
            "Choose another file.",
        )
    concepts = parse_set(text, f".{suffix.lower()}", name)
    by_image = [concept.name for concept in concepts.concepts if concept.images]
    if by_image:
        raise ConceptError(
            f"'{file}' has concepts by image: {', '.join(by_image[:5])}.",
            "Expected texts: image files cannot be uploaded with a set.",
            "Save the audit in Python with db.audits.add, where the images are.",
        )
    return concepts


def _leaf(concept: Concept) -> Any:
    if not concept.images:
        return concept.name
    return {"name": concept.name, "images": [str(path) for path in concept.images]}


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{name} = {_value(item)}' for name, item in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return _text(str(value))


def _text(text: str) -> str:
    """Return a TOML basic string: as in JSON, except that TOML also escapes DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
