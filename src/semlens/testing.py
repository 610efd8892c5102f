"""Checks that a lens keeps the contract on which all views rely, for tests of other packages."""

from __future__ import annotations

import inspect
import json
import math
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from semlens.concept_database import ConceptDatabase
from semlens.errors import RecipeError, SemlensError
from semlens.figures import figure_json
from semlens.lens import lens_of, result_of, takes_several
from semlens.lenses.result import Result, Section, plain
from semlens.progress import progress_listener
from semlens.settings import Setting, settings_of

Lens = Callable[..., Any]
SILENT = 10.0
"""Seconds that a lens may take without reporting progress."""
UNKNOWN = {
    "class": "no such class",
    "component": "no such layer:0",
    "layer": "no such layer",
    "concepts": "no such concepts",
}
"""Names that no database has, by what is named."""


class _Cancelled(Exception):
    pass


def check_lens(
    lens: Lens,
    database: ConceptDatabase | Sequence[ConceptDatabase],
    /,
    *,
    extremes: bool = True,
    **arguments: Any,
) -> None:
    """Check that a lens keeps the contract of lenses.

    It is documented; it reports progress and can be cancelled; its result is printed, drawn,
    pickled, saved in every format and read back; unknown classes, layers and components, and
    settings of wrong types, are refused with an error of three parts.

    Parameters
    ----------
    lens
        A function under ``@lens``.
    database
        A small database, or several for a lens that takes several.
    extremes
        Whether to call it also with the limits of each numeric setting, at which there may be
        nothing to find.
    arguments
        What the lens needs, and settings that make it quick.

    Raises
    ------
    AssertionError
        If the lens breaks the contract; the text says how.

    Examples
    --------
    >>> from semlens.testing import check_lens
    >>> check_lens(my_lens, sl.open("demo.semlens"))  # doctest: +SKIP
    """
    several = isinstance(database, Sequence)
    first = database[0] if several else database

    def ask(**changed: Any) -> Any:
        return lens(database, **{**arguments, **changed})

    _check_declaration(lens)
    _require(
        takes_several(lens) == several,
        lens,
        "takes several databases" if takes_several(lens) else "takes one database",
    )
    _check_cancelling(lens, ask, first)
    result = _check_progress(lens, ask)
    _check_result(lens, result)
    _check_files(lens, result)
    copied = pickle.loads(pickle.dumps(result))  # noqa: S301  # our own
    _require(_values(copied) == _values(result), lens, "has a result that changes when pickled")
    repeated, values = _values(ask()), _values(result)
    _require(repeated == values, lens, "gives another result when asked again")
    for setting in settings_of(lens).values():
        _check_refusals(lens, ask, setting)
        for value in _extremes(setting) if extremes else ():
            _check_extreme(lens, ask, setting.name, value)


def _require(condition: bool, lens: Lens, text: str) -> None:
    if not condition:
        raise AssertionError(f"The lens '{getattr(lens, '__name__', lens)}' {text}.")


def _values(value: Any) -> Any:
    """Return the values of a result without times, which differ."""
    if isinstance(value, Result):
        value = plain(value.to_json())
    if isinstance(value, dict):
        return {key: _values(item) for key, item in value.items() if key != "seconds"}
    return [_values(item) for item in value] if isinstance(value, list) else value


def _check_declaration(lens: Lens) -> None:
    """Check the docstring, the result's type and the settings."""
    _require(lens_of(lens) is not None, lens, "is not under @lens")
    summary = (inspect.getdoc(lens) or "").partition("\n")[0]
    _require(summary.endswith("."), lens, "has no docstring whose first line is a sentence")
    returned = result_of(lens)
    known = isinstance(returned, type) and issubclass(returned, Result)
    _require(known, lens, f"is annotated to return {returned}, which is no Result")
    settings = settings_of(lens)
    for setting in settings.values():
        _require(bool(setting.field.description), lens, f"has no text for '{setting.name}'")
        if setting.default is not inspect.Parameter.empty and setting.default is not None:
            setting.check(lens.__name__, setting.default)


def _check_cancelling(lens: Lens, ask: Lens, database: ConceptDatabase) -> None:
    """Check that an exception of the listener stops the lens, and that no part of a file stays."""
    told: list[Any] = []

    def stop(*at: Any) -> None:
        told.append(at)
        raise _Cancelled

    try:
        with progress_listener(stop):
            ask()
    except _Cancelled:
        pass
    else:
        _require(not told, lens, "goes on when it is cancelled")
    left = list(Path(database.path).rglob("*.part"))
    _require(not left, lens, f"leaves {left} when it is cancelled")


def _check_progress(lens: Lens, ask: Lens) -> Result:
    """Ask the lens, and check what it reports."""
    told: list[tuple[str, int, int]] = []
    start = time.monotonic()
    with progress_listener(lambda *at: told.append(at)):
        result = ask()
    silent = not told and time.monotonic() - start > SILENT
    _require(not silent, lens, f"takes more than {SILENT:.0f} s and reports no progress")
    for stage, done, total in told:
        _require(bool(stage) and 0 <= done <= total, lens, f"reports {stage!r} {done} of {total}")
    return result


def _check_result(lens: Lens, result: Any, when: str = "") -> None:
    """Check the table, the values, the text and what views show."""
    _require(isinstance(result, Result), lens, f"returns {type(result).__name__}{when}")
    frame = result.to_pandas()
    _require(frame.columns.is_unique, lens, f"has a table with equal columns{when}")
    frame["one more"] = None
    _require("one more" not in result.to_pandas(), lens, f"gives away its own table{when}")
    values = result.to_json()
    _require(isinstance(values, dict), lens, f"has values that are no mapping{when}")
    text = json.dumps(plain(values), allow_nan=False)
    _require(json.loads(text) == plain(values), lens, f"has values that JSON changes{when}")
    _require(bool(repr(result).strip()), lens, f"prints nothing{when}")
    section = result.section()
    _require(isinstance(section, Section), lens, f"has no section{when}")
    _require(all(section.sentences), lens, f"has an empty sentence in its section{when}")
    if section.figure is not None:
        json.dumps(figure_json(section.figure), allow_nan=False)
    result.plot()


def _check_files(lens: Lens, result: Result) -> None:
    """Check that each format is written and read back, and another one is refused."""
    with tempfile.TemporaryDirectory() as folder:
        for suffix in result.suffixes:
            path = Path(folder) / f"saved{suffix}"
            result.save(path)
            _require(path.stat().st_size > 0, lens, f"saves an empty {suffix}")
            _check_file(lens, result, path)
        written = {path.name for path in Path(folder).iterdir()}
        _check_error(lens, "saving as .unknown", lambda: result.save(Path(folder, "a.unknown")))
        left = {path.name for path in Path(folder).iterdir()} - written
        _require(not left, lens, f"leaves {left} of a file that is refused")


def _check_file(lens: Lens, result: Result, path: Path) -> None:
    if path.suffix == ".json":
        saved = json.loads(path.read_text("utf-8"))
        _require(saved == plain(result.to_json()), lens, "saves a .json of other values")
    elif path.suffix in (".csv", ".parquet"):
        read: Any = pd.read_csv if path.suffix == ".csv" else pd.read_parquet
        rows = len(result.to_pandas())
        if len(result.to_pandas().columns):
            _require(len(read(path)) == rows, lens, f"saves a {path.suffix} of other rows")
    elif path.suffix in (".png", ".jpg", ".webp"):
        with Image.open(path) as picture:
            picture.load()
    elif path.suffix in (".svg", ".html"):
        _require("<" in path.read_text("utf-8"), lens, f"saves no {path.suffix}")


def _check_refusals(lens: Lens, ask: Lens, setting: Setting) -> None:
    """Check that unknown names and values of wrong types are refused."""
    kind = setting.remote.kind if setting.remote else None
    if kind in UNKNOWN:
        name = UNKNOWN[kind]
        error = _check_error(lens, f"{setting.name}='{name}'", lambda: ask(**{setting.name: name}))
        named = name.partition(":")[0] in str(error)
        _require(named, lens, f"refuses {setting.name}='{name}' without naming it: {error}")
    if setting.expected:
        number = setting.expected.startswith(("Expected a number", "Expected a whole"))
        for value in (math.nan, True) if number else (object(), math.nan):
            what = f"{setting.name}={value!r}"
            error = _check_error(lens, what, lambda v=value: ask(**{setting.name: v}))
            _require(isinstance(error, RecipeError), lens, f"refuses {what} as {type(error)}")


def _check_extreme(lens: Lens, ask: Lens, name: str, value: float) -> None:
    """Check that a limit of a setting gives a result, even an empty one, or an error."""
    try:
        result = ask(**{name: value})
    except SemlensError as error:
        _check_parts(lens, error)
    else:
        _check_result(lens, result, f" with {name}={value}")


def _check_parts(lens: Lens, error: SemlensError) -> None:
    for part in (error.value, error.expected, error.remedy):
        _require(bool(part.strip()), lens, f"has an error without one of its parts: {error}")


def _check_error(lens: Lens, what: str, call: Callable[[], Any]) -> SemlensError:
    """Check that a call is refused with an error of three parts, and return the error."""
    try:
        call()
    except SemlensError as error:
        _check_parts(lens, error)
        return error
    except Exception as error:
        raise AssertionError(
            f"The lens '{lens.__name__}' raises {type(error).__name__} for {what}: {error}"
        ) from error
    raise AssertionError(f"The lens '{lens.__name__}' accepts {what}.")


def _extremes(setting: Setting) -> Iterator[float]:
    """Return the limits of a number that is bounded on this side."""
    if not setting.expected.startswith(("Expected a number", "Expected a whole")):
        return
    bounds: Mapping[str, Any] = {type(entry).__name__: entry for entry in setting.field.metadata}
    for name, attribute in (("Ge", "ge"), ("Le", "le")):
        if name in bounds:
            limit = getattr(bounds[name], attribute)
            yield float(limit) if setting.expected.startswith("Expected a number") else limit
