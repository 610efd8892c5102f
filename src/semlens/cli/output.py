"""Common options and output of commands: tables, JSON, and errors on standard error."""

from __future__ import annotations

import functools
import json
import signal
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import pandas as pd
import typer
from rich.console import Console

from semlens.draw.text_table import rich_table
from semlens.errors import SemlensError, StoreError, shortened
from semlens.lenses.result import plain

if TYPE_CHECKING:
    from types import FrameType

    from matplotlib.figure import Figure
    from PIL.Image import Image

P = ParamSpec("P")
R = TypeVar("R")

out = Console()
err = Console(stderr=True)

DatabaseArgument = Annotated[Path, typer.Argument(help="Folder or URL of the database.")]
EmbedderOption = Annotated[
    str | None, typer.Option("--embedder", help="Where to load the embedder from, if it has moved.")
]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model", help="Where to load the model from, if it has moved. Repeat for each database."
    ),
]
SourcesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="Where to load the images from, if they have moved. Repeat for each database.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or mps.")]
_SAVED = {
    "a page": (".html",),
    "weights": (".safetensors",),
    "sections of a model card": (".md",),
    "a plot": (".png", ".svg", ".pdf"),
    "a picture": (".jpg", ".webp"),
    "a table": (".csv", ".parquet"),
    "all values": (".json",),
}
"""What a file of each ending holds."""


def saved_text(suffixes: Collection[str], default: str = "") -> str:
    """Return what ``--save`` writes for a result with these endings.

    Parameters
    ----------
    default
        Name of a file that is written in any case.
    """
    kinds = [
        f"{what} ({', '.join(known)})" + (f" [{default}]" if default.endswith(known) else "")
        for what, ends in _SAVED.items()
        if (known := tuple(end for end in ends if end in suffixes))
    ]
    listed = " or ".join([", ".join(kinds[:-1]), kinds[-1]] if kinds[1:] else kinds)
    return f"Also save to this file, by its ending as {listed}. Repeatable."


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def report_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turn errors that a user can fix into a message and exit code 1, Ctrl-C into 130."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with _interruptions(), _notices(), _only_answers():
                return command(*args, **kwargs)
        except SemlensError as error:
            _print_error(error)
            raise typer.Exit(1) from None
        except OSError as error:
            if error.filename is None:  # not about a path, such as a closed pipe
                raise
            _print_error(
                StoreError(
                    f"'{shortened(error.filename)}' cannot be used ({error.strerror}).",
                    "Expected a path that exists and is accessible.",
                    "Check the path, its permissions and the disk.",
                )
            )
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            err.print("Interrupted. Completed work is saved: run the same command again.")
            raise typer.Exit(130) from None

    return run


@contextmanager
def _interruptions() -> Iterator[None]:
    """Raise KeyboardInterrupt after a Ctrl-C, also where a library made another error of it.

    Python raises KeyboardInterrupt in whatever is running, and some extensions answer any exception
    in their callbacks with an error of their own, such as "could not determine the shape".
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # somebody else's, or ignored as in the background of a shell
        return
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.default_int_handler(number, frame)

    try:
        signal.signal(signal.SIGINT, press)
    except ValueError:  # outside of the main thread, which alone gets signals
        yield
        return
    try:
        yield
    except Exception as error:
        if pressed:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _print_error(error: SemlensError) -> None:
    err.print(f"[bold red]{type(error).__name__}[/]: ", end="", soft_wrap=True)
    for line in (error.value, f"  {error.expected}", f"  {error.remedy}"):
        err.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _notices() -> Iterator[None]:
    """Print warnings of semlens as notices, without Python's file names and line numbers."""
    with warnings.catch_warnings():
        python_showwarning = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *location: Any) -> None:
            if category.__module__.startswith("semlens"):
                err.print(f"Notice: {message}", markup=False, highlight=False, soft_wrap=True)
            else:
                python_showwarning(message, category, *location)

        warnings.showwarning = show
        yield


@contextmanager
def _only_answers() -> Iterator[None]:
    """Keep standard output for the answer; what a model's code or Ray prints goes to the other."""
    if sys.stdout is sys.stderr:  # a command that is called by another one
        yield
        return
    out.file = sys.stdout
    with redirect_stdout(sys.stderr):
        yield


def save_picture(picture: Figure | Image, path: Path) -> None:
    """Write a picture in the format of the path's ending; matplotlib is loaded on first use."""
    from semlens.draw.figure import save_picture as save

    save(picture, path)


def print_json(value: Any) -> None:
    """Print one JSON value; NaN and infinities become null."""
    typer.echo(json.dumps(plain(value), ensure_ascii=False), file=out.file)


def table(frame: pd.DataFrame, title: str = "", columns: Sequence[str] | None = None) -> None:
    """Print a data frame: numbers right-aligned with three digits, missing values as a dash."""
    out.print(rich_table(frame, title, columns))


def print_written(what: object) -> None:
    """Report a written file."""
    err.print(f"Written: {what}", markup=False, highlight=False, soft_wrap=True)
