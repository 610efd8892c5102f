"""Reading of JSON, TOML and CSV that did not come from this process, within bounds.

The parsers of Python accept more than a document means: the last of two equal keys wins, numbers
may be infinite, texts may hold half a character. And a small file may cost them gigabytes. What a
caller gets from here is finite, of bounded depth, and as it was written.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from semlens.errors import reason_of, shortened
from semlens.regular_files import as_text, open_file

DEPTH = 100
"""Levels of a document."""
KEY_PARTS = 20
"""Parts of a dotted key of TOML."""
LARGEST_JSON = 256_000_000
"""Bytes. What is parsed takes up to twenty times as much memory."""
LARGEST_TOML = 8_000_000
"""Bytes; its parser takes seconds for as many."""
_LARGEST_INTEGER = 2**64

# a string that does not end goes up to the end, so that each character is looked at once
_TOML_TEXT = re.compile(
    r'"""(?:[^\\]|\\.)*?(?:"{3,5}|\Z)'
    r"|'''.*?(?:'{3,5}|\Z)"
    r'|"(?:[^"\\\n]|\\.)*+"?'
    r"|'[^'\n]*+'?"
    r"|\#[^\n]*+",
    re.DOTALL,
)
_DOTTED_KEY = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{KEY_PARTS}}}")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_MAY_BE_ODD = re.compile(r"\\u[dD][89a-fA-F]|\d{19}|[\ud800-\udfff]")
"""What may stand for half a character, or for an integer of more than 64 bits."""


def read_json(path: str | Path) -> Any:
    """Read a JSON file; see :func:`parse_json`.

    Raises
    ------
    OSError
        If it cannot be read, or is a pipe, a device or a folder.
    ValueError
        As :func:`parse_json`, or if it is not UTF-8.
    """
    return parse_json(_text(path, LARGEST_JSON))


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file; errors as for :func:`read_json`."""
    return parse_toml(_text(path, LARGEST_TOML))


def first_problem(error: Exception) -> str:
    """Return the first problem that pydantic lists, or what another error says."""
    if not isinstance(error, ValidationError):
        return reason_of(error)
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{shortened(place)}: {first['msg']}" if place else first["msg"]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        _refuse_repeated([name for name, _ in pairs], "key")
    return found


def parse_json(
    text: str | bytes,
    *,
    objects: Callable[[list[tuple[str, Any]]], Any] = _unique,
    finite: bool = True,
) -> Any:
    """Parse JSON.

    Parameters
    ----------
    objects
        Makes an object of its keys and values. By default a dict; a repeated key is refused.
    finite
        Whether infinities and NaN are refused.

    Raises
    ------
    ValueError
        If it is malformed, too large or too deep, not UTF-8, repeats a key, or holds an
        infinity, NaN, an integer beyond 64 bits, or half a character (a lone surrogate).
    """
    if isinstance(text, bytes):
        text = as_text(text)
    _check_length(len(text), LARGEST_JSON)
    numbers: dict[str, Any] = {"parse_float": _finite, "parse_constant": _not_finite}
    try:
        value = json.loads(text, object_pairs_hook=objects, **(numbers if finite else {}))
    except RecursionError:
        _too_deep()
    # no document is deeper than it has brackets
    if text.count("[") + text.count("{") > DEPTH or _MAY_BE_ODD.search(text):
        _check(value)
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Its parser keeps every beginning of a dotted key: 60 kB of ``a.a.a`` would cost 6 GB. Such
    keys are refused before.

    Raises
    ------
    ValueError
        As :func:`parse_json`.
    """
    _check_length(len(text), LARGEST_TOML)
    if _DOTTED_KEY.search(_TOML_TEXT.sub("_", text)):
        raise ValueError(f"a dotted key has more than {KEY_PARTS} parts")
    try:
        value = tomllib.loads(text, parse_float=_finite)
    except RecursionError:
        _too_deep()
    _check(value)
    return value


def csv_rows(text: str, *, strict: bool = False) -> csv.DictReader[str]:
    """Return a reader of CSV with a header, whose columns have no spaces around their names.

    Raises
    ------
    ValueError
        If a column is there twice.
    csv.Error
        If the header is malformed; rows are read later.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=strict)
    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    refuse_repeated_columns(reader.fieldnames)
    return reader


def refuse_repeated_columns(names: Sequence[str]) -> None:
    """Raise ValueError if a table has a column twice; columns without a name do not count."""
    _refuse_repeated([name for name in names if name], "column")


def _refuse_repeated(names: Sequence[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"the {what} '{shortened(name, 80)}' is there twice")
        seen.add(name)


def _text(path: str | Path, largest: int) -> str:
    with open_file(path) as file:
        _check_length(os.fstat(file.fileno()).st_size, largest)
        return as_text(file.read())


def _check_length(length: int, largest: int) -> None:
    if length > largest:
        raise ValueError(f"it has more than {largest // 1_000_000} MB")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        _not_finite(text)
    return value


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"it holds the number {shortened(text, 80)}, which is not finite")


def _too_deep() -> NoReturn:
    raise ValueError(f"it has more than {DEPTH} levels") from None


def _check(document: Any) -> None:
    """Refuse a document that is too deep, or holds a text or a number that nothing can hold."""
    level: list[Any] = [document]
    for depth in range(DEPTH + 1):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, str):
                if _HALF_CHARACTER.search(value):
                    raise ValueError(f"the text {shortened(ascii(value), 80)} is no Unicode")
            elif isinstance(value, int):
                if not -_LARGEST_INTEGER < value < _LARGEST_INTEGER:
                    raise ValueError("it holds an integer of more than 64 bits")
            elif isinstance(value, dict | list | tuple):
                if depth == DEPTH:
                    _too_deep()
                inner += value.keys() if isinstance(value, dict) else ()
                inner += value.values() if isinstance(value, dict) else value
        level = inner
