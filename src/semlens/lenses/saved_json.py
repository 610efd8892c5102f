"""Results that were saved as JSON and are read again by another question."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from semlens.errors import DataError
from semlens.regular_files import read_text


def read_saved(
    path: Path, command: str, keys: Sequence[str], rows: str, columns: Sequence[str]
) -> Mapping[str, Any]:
    """Read a result of a command: ``keys``, and rows with ``columns`` under the key ``rows``.

    Raises
    ------
    DataError
        If the file cannot be read or has another format.
    """
    try:
        values = json.loads(read_text(path.expanduser()))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f"'{path}' cannot be read ({error}).",
            f"Expected a result of 'semlens {command}'.",
            f"Create one with: semlens {command} ... --save FILE.json",
        ) from error
    records = values.get(rows) if has_keys(values, keys) else None
    if (
        not isinstance(records, list)
        or not records
        or not all(has_keys(r, columns) for r in records)
    ):
        raise format_error(path, command)
    return values


def has_keys(value: Any, keys: Sequence[str]) -> bool:
    """Whether a value is an object with these keys."""
    return isinstance(value, dict) and all(key in value for key in keys)


def format_error(path: Path, command: str) -> DataError:
    """Return the error of a file that is not a result of a command."""
    return DataError(
        f"'{path}' has another format.",
        f"Expected a result of 'semlens {command}'.",
        f"Create one with: semlens {command} ... --save FILE.json",
    )
