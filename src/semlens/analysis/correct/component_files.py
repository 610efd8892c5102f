"""What a correction is about: components and samples, given in Python or by files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from semlens.errors import DataError, LayerError
from semlens.store.reader import Database
from semlens.types import Component, Components, as_components

VERDICT = "verdict"
SPURIOUS = "spurious"


def chosen_components(given: Components, database: Database | None = None) -> list[Component]:
    """Return components however they are given, each once.

    Raises
    ------
    LayerError
        If there is none, a name has another form, or the database lacks one.
    """
    found = list(dict.fromkeys(as_components(given)))
    if not found:
        raise LayerError(
            "No component is named.",
            "Expected at least one, as LAYER:INDEX.",
            "Find some with 'semlens search DB TEXT' or 'semlens audit DB'.",
        )
    if database is not None:
        database.rows_of(found)
    return found


def read_components(path: Path, verdict: str = SPURIOUS) -> list[Component]:
    """Read components from an audit or any other list.

    JSON: every object with ``component`` (or ``layer``, ``index`` and ``sign``), at any
    depth. CSV: the same names as columns. Anything else: a component per line. Where an
    entry has a ``verdict``, only those with the given one are taken.

    Raises
    ------
    DataError
        If the file cannot be read, or names no such component.
    """
    expected = "Expected an audit's .json or .csv, or a text file with a component per line."
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".json":
            entries = list(_entries(json.loads(text)))
        elif path.suffix.lower() == ".csv":
            entries = list(csv.DictReader(text.splitlines()))
        else:
            entries = [{"component": line} for line in text.split()]
        taken = [entry for entry in entries if entry.get(VERDICT, verdict) == verdict]
        found = [_component(entry) for entry in taken]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(
            f"'{path}' cannot be read as components ({error}).", expected, "Check the file."
        ) from error
    if not found:
        raise DataError(
            f"'{path}' names no component"
            + (f" with the verdict '{verdict}'." if any(VERDICT in e for e in entries) else "."),
            expected,
            "Check the file, or choose another verdict.",
        )
    return list(dict.fromkeys(found))


def _entries(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, str) and ":" in value:
        yield {"component": value}
    elif isinstance(value, Mapping) and ("component" in value or {"layer", "index"} <= set(value)):
        yield value
    elif isinstance(value, Mapping):  # texts among its fields name no component
        yield from _entries([part for part in value.values() if isinstance(part, Mapping | list)])
    elif isinstance(value, list):
        for part in value:
            yield from _entries(part)


def _component(entry: Mapping[str, Any]) -> Component:
    if isinstance(entry.get("component"), str):
        return Component.parse(entry["component"])
    return Component(str(entry["layer"]), int(entry["index"]), int(entry.get("sign") or 1))


def read_affected(path: Path) -> list[str]:
    """Read the paths of affected samples from a table of ``semlens affected``, or a list.

    A CSV needs the column ``path``; where it has ``flagged``, only those rows are taken.
    Any other file has a path per line.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() != ".csv":
            return [line.strip() for line in text.splitlines() if line.strip()]
        rows = list(csv.DictReader(text.splitlines()))
        return [row["path"] for row in rows if row.get("flagged", "True") == "True"]
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise DataError(
            f"'{path}' cannot be read as a list of samples ({error}).",
            "Expected a .csv with the column 'path', or a path per line.",
            "Write it with 'semlens affected', or affected(...).save('FILE.csv').",
        ) from error
