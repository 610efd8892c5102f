"""Progress of long-running work: reported by the work, shown by a listener."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from semlens.notebook_bars import NotebookBars, in_notebook

Progress = Callable[[str, int, int], None]
"""Callback with the stage, the number of items done, and their total."""
DELAY = 1.0
"""Seconds before progress bars appear."""
_NAMES = {
    "hash": "hashing the images",
    "collect": "running the model",
    "crop": "cropping examples",
    "embed": "embedding examples",
    "relate": "class relevance",
}
_listener: ContextVar[Progress | None] = ContextVar("listener", default=None)


def report_progress(stage: str, done: int, total: int) -> None:
    """Report the progress of a stage to the listener; threads must run in the caller's context."""
    listener = _listener.get()
    if listener is not None:
        listener(stage, done, total)


@contextmanager
def progress_listener(progress: Progress) -> Iterator[None]:
    """Send all progress reports of the block to ``progress``."""
    token = _listener.set(progress)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def progress_bars(delay: float = DELAY) -> Iterator[None]:
    """Show one progress bar per stage, unless there is a listener.

    In a notebook they are an output of the cell, otherwise on standard error; without a terminal,
    one line is printed per stage. Nothing is shown in the first ``delay`` seconds.
    """
    if _listener.get() is not None:
        yield
        return
    started = time.monotonic()
    bars = NotebookBars() if in_notebook() else _TerminalBars()

    def show(stage: str, done: int, total: int) -> None:
        if time.monotonic() - started >= delay:
            bars.update(_NAMES.get(stage, stage), done, total)

    with progress_listener(show):
        try:
            yield
        finally:
            bars.stop()


class _TerminalBars:
    """Bars on standard error; lines, if it is no terminal."""

    def __init__(self) -> None:
        self._tasks: dict[str, TaskID] = {}
        self._console = Console(file=sys.stderr)
        self._bars = Bars(
            TextColumn("{task.description:>22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )

    def update(self, stage: str, done: int, total: int) -> None:
        """Set how far a stage is."""
        if stage not in self._tasks:
            if self._console.is_terminal:
                self._bars.start()
            else:
                self._console.print(f"{stage}: {total}", highlight=False)
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def stop(self) -> None:
        """Remove the bars."""
        self._bars.stop()
