"""Components and samples to correct, from Python values or files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from semlens.documents import csv_rows, read_json
from semlens.errors import DataError
from semlens.regular_files import read_text
from semlens.types import Component

VERDICT = "verdict"
AUROC = "auroc"
SPURIOUS = "spurious"


def read_components(
    path: Path, verdict: str = SPURIOUS, auroc: float | None = None
) -> list[Component]:
    """Read components from an audit, a contrast or another list.

    JSON: every object with ``component`` (or ``layer``, ``index`` and ``sign``), at any depth.
    CSV: the same names as columns. Any other file: one component per line. Entries with a
    different ``verdict`` are skipped, and with a threshold those below it.

    Parameters
    ----------
    auroc
        Threshold on the ``auroc`` of a contrast's components; entries without one are skipped.

    Raises
    ------
    DataError
        If the file cannot be read, or contains no such component.
    """
    expected = "Expected an audit's .json or .csv, or a text file with one component per line."
    try:
        if path.suffix.lower() == ".json":
            entries = list(_entries(read_json(path)))
        elif path.suffix.lower() == ".csv":
            entries = list(csv_rows(read_text(path)))
        else:
            entries = [{"component": line} for line in read_text(path).split()]
        selected = [entry for entry in entries if entry.get(VERDICT, verdict) == verdict]
        if auroc is not None:
            selected = [e for e in selected if float(e.get(AUROC) or "nan") >= auroc]
        components = [_component(entry) for entry in selected]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(
            f"Cannot read components from '{path}' ({error}).", expected, "Check the file."
        ) from error
    if not components:
        conditions = [f"the verdict '{verdict}'"] if any(VERDICT in e for e in entries) else []
        conditions += [] if auroc is None else [f"an AUROC of at least {auroc:g}"]
        raise DataError(
            f"'{path}' contains no components"
            + (f" with {' and '.join(conditions)}." if conditions else "."),
            expected,
            "Check the file, or choose another verdict or threshold.",
        )
    return list(dict.fromkeys(components))


def _entries(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, str) and ":" in value:
        yield {"component": value}
    elif isinstance(value, Mapping) and ("component" in value or {"layer", "index"} <= set(value)):
        yield value
    elif isinstance(value, Mapping):  # its string fields are not components, even with a colon
        yield from _entries([item for item in value.values() if isinstance(item, Mapping | list)])
    elif isinstance(value, list):
        for item in value:
            yield from _entries(item)


def _component(entry: Mapping[str, Any]) -> Component:
    if isinstance(entry.get("component"), str):
        return Component.parse(entry["component"])
    return Component(str(entry["layer"]), int(entry["index"]), int(entry.get("sign") or 1))


def read_affected(path: Path) -> list[str]:
    """Read the paths of affected samples from a table of ``semlens correct affected``, or a list.

    A CSV file needs a column ``path``; if it has a column ``flagged``, other rows are skipped.
    Any other file has one path per line.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    try:
        text = read_text(path)
        if path.suffix.lower() != ".csv":
            return [line.strip() for line in text.splitlines() if line.strip()]
        rows = csv_rows(text)
        return [row["path"] for row in rows if row.get("flagged", "True") == "True"]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise DataError(
            f"Cannot read samples from '{path}' ({error}).",
            "Expected a .csv with a column 'path', or one path per line.",
            "Write it with 'semlens correct affected', or affected(...).save('FILE.csv').",
        ) from error
