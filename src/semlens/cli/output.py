"""Tables for people on standard output, JSON for programs, errors on standard error."""

from __future__ import annotations

import functools
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from semlens.errors import SemlensError

P = ParamSpec("P")
R = TypeVar("R")

out = Console()
err = Console(stderr=True)


def reported(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors that a user can mend into a text and exit code 1, Ctrl-C into 130."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with _notices():
                return command(*args, **kwargs)
        except SemlensError as error:
            err.print(f"[bold red]{type(error).__name__}[/]: ", end="", soft_wrap=True)
            err.print(error.value, markup=False, highlight=False, soft_wrap=True)
            err.print(f"  {error.expected}", markup=False, highlight=False, soft_wrap=True)
            err.print(f"  {error.remedy}", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            err.print("Interrupted. Nothing that was finished is lost: run the same command again.")
            raise typer.Exit(130) from None

    return run


@contextmanager
def _notices() -> Iterator[None]:
    """Print our own warnings as notices, without Python's file names and line numbers."""
    with warnings.catch_warnings():
        plain = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if category.__module__.startswith("semlens"):
                err.print(f"Notice: {message}", markup=False, highlight=False, soft_wrap=True)
            else:
                plain(message, category, *place)

        warnings.showwarning = show
        yield


def print_json(value: Any) -> None:
    """Print one JSON value; what is not a number becomes null."""
    typer.echo(json.dumps(_plain(value), ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str):  # numpy scalars
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def table(frame: pd.DataFrame, title: str = "", columns: Sequence[str] | None = None) -> None:
    """Print a data frame; numbers to the right with three digits, gaps as a dash."""
    names = list(columns or frame.columns)
    shown = Table(title=title or None, title_justify="left", box=None, header_style="bold")
    for name in names:
        numeric = pd.api.types.is_numeric_dtype(frame[name])
        shown.add_column(name.replace("_", " "), justify="right" if numeric else "left")
    for record in frame.loc[:, names].to_dict("records"):
        shown.add_row(*(_cell(record[name]) for name in names))
    out.print(shown)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    return str(value).replace("[", r"\[")
