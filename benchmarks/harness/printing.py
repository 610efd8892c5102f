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


def result_tables(result: Mapping[str, Any]) -> list[str]:
    """Return a result as Markdown: single figures, and a table of each set of records."""
    figures: dict[str, Any] = {}
    found: list[str] = []

    def visit(name: str, value: Any) -> None:
        records = _records(value)
        if records and all(map(_is_flat, records.values())):
            rows = [_flat(name, one) for name, one in records.items()]
            columns = list(dict.fromkeys(column for row in rows for column in row))
            cells = [[_short(row.get(column)) for column in columns] for row in rows]
            heads = [column.replace("_", " ") for column in columns]
            found.append(f"{name}\n\n{table(heads, cells)}")
        elif records or isinstance(value, Mapping):
            for part, one in (records or value).items():
                visit(f"{name}: {part}".replace("_", " "), one)
        else:
            figures[name] = _short(value)

    for name, value in result.items():
        visit(name.replace("_", " "), value)
    return [table(["figure", "value"], list(figures.items())), *found] if figures else found


def _records(value: Any) -> dict[str, Mapping[str, Any]]:
    """Return the members of a mapping or list of mappings by name; none of something else."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = {str(number): one for number, one in enumerate(value, start=1)}
    if not (isinstance(value, Mapping) and all(isinstance(v, Mapping) for v in value.values())):
        return {}
    return dict(value)


def _is_flat(record: Mapping[str, Any]) -> bool:
    """Whether all values of a record are plain, or mappings of plain values."""
    inner = [deep for one in record.values() for deep in
             (one.values() if isinstance(one, Mapping) else [one])]  # fmt: skip
    return not any(isinstance(deep, Mapping) or _records(deep) for deep in inner)


def _flat(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cells of a row by column."""
    row: dict[str, Any] = {} if "name" in record else {"": name}
    for column, value in record.items():
        if isinstance(value, Mapping):
            row |= {f"{column}: {part}": one for part, one in value.items()}
        else:
            row[column] = value
    return row


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        short = ", ".join(str(_short(one)) for one in value)
        return short if len(short) <= 80 else f"{len(value)} values"
    return value
