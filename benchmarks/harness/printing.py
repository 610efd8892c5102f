"""Markdown tables of results, and progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], digits: int = 2) -> str:
    """Return a Markdown table; floats with ``digits`` decimals, None as a dash."""

    def cell(value: Any) -> str:
        if value is None:
            return "-"
        return f"{value:.{digits}f}" if isinstance(value, float) else str(value)

    lines = [list(header), ["---"] * len(header), *([cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def log(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def result_tables(result: Mapping[str, Any], title: str = "") -> list[str]:
    """Return a result as Markdown: a table of each set of records, and one of the other figures.

    Values that are deeper than two levels below a record are left out; ``--json`` has them.
    """
    figures: dict[str, Any] = {}
    found: list[str] = []
    for name, value in result.items():
        label = f"{title}{name}".replace("_", " ")
        if records := _records(value):
            columns = dict.fromkeys(column for one in records for column in one)
            rows = [[_short(one.get(column)) for column in columns] for one in records]
            heads = [column.replace("_", " ") for column in columns]
            found.append(f"{label}\n\n{table(heads, rows)}")
        elif isinstance(value, Mapping):
            found += result_tables(value, f"{label}: ")
        else:
            figures[label] = _short(value)
    if figures:
        found.insert(0, table(["figure", "value"], list(figures.items())))
    return found


def _records(value: Any) -> list[dict[str, Any]]:
    """Return the rows of a list or mapping of mappings; none if it is something else."""
    if isinstance(value, Mapping) and all(_is_flat(one) for one in value.values()):
        return [{"": name, **_flat(one)} for name, one in value.items()]
    if isinstance(value, Sequence) and all(isinstance(one, Mapping) for one in value):
        return [_flat(one) for one in value]
    return []


def _is_flat(value: Any) -> bool:
    """Whether a value is a mapping of plain values, or of mappings of these."""
    return isinstance(value, Mapping) and not any(
        isinstance(deep, Mapping)
        for one in value.values() if isinstance(one, Mapping)
        for deep in one.values()
    )  # fmt: skip


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if not isinstance(value, Mapping):
            flat[name] = value
        elif _is_flat({name: value}):
            flat |= {f"{name}: {part}": one for part, one in value.items()}
    return flat


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        few = len(value) <= 12 and not any(isinstance(one, Mapping | list) for one in value)
        return ", ".join(str(_short(one)) for one in value) if few else f"{len(value)} values"
    return value
