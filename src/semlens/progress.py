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
    """Show one progress bar per stage on standard error, unless there is a listener.

    Without a terminal, one line is printed per stage. Nothing is shown in the first ``delay``
    seconds.
    """
    if _listener.get() is not None:
        yield
        return
    started, tasks = time.monotonic(), dict[str, TaskID]()
    console = Console(file=sys.stderr)
    bars = Bars(
        TextColumn("{task.description:>22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )

    def show(stage: str, done: int, total: int) -> None:
        if time.monotonic() - started < delay:
            return
        name = _NAMES.get(stage, stage)
        if stage not in tasks:
            if console.is_terminal:
                bars.start()
            else:
                console.print(f"{name}: {total}", highlight=False)
            tasks[stage] = bars.add_task(name, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    with progress_listener(show):
        try:
            yield
        finally:
            bars.stop()
