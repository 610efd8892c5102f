"""Tables for people on standard output, JSON for programs, errors on standard error."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import pandas as pd
import typer
from rich.console import Console

from semlens.errors import SemlensError

if TYPE_CHECKING:
    from semlens.analysis.result import Result

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
    from semlens.analysis.result import plain

    typer.echo(json.dumps(plain(value), ensure_ascii=False))


def table(frame: pd.DataFrame, title: str = "", columns: Sequence[str] | None = None) -> None:
    """Print a data frame; numbers to the right with three digits, gaps as a dash."""
    from semlens.draw.table import rich_table

    out.print(rich_table(frame, title, columns))


def answer(result: Result, as_json: bool, save: Sequence[Path] | None = None) -> None:
    """Print a result for people or for programs, and write it where that was asked for."""
    for path in save or ():
        result.save(path)
    if as_json:
        print_json(result.to_json())
        return
    out.print(result)
    for path in save or ():
        written(path)


def written(path: Path) -> None:
    """Say which file was written."""
    err.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)
