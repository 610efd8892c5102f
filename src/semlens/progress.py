"""How far long work is: said where it happens, shown where somebody listens."""

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
"""Called with what is being done, how much of it is done, and of how much."""
DELAY = 1.0
"""Seconds that work must take before it is shown."""
_NAMES = {
    "hash": "hashing the images",
    "collect": "running the model",
    "crop": "cutting out examples",
    "embed": "embedding examples",
    "relate": "relevance for classes",
}
_listener: ContextVar[Progress | None] = ContextVar("listener", default=None)


def report(stage: str, done: int, total: int) -> None:
    """Say how far a stage is, to whoever listens; threads need the caller's context for it."""
    listener = _listener.get()
    if listener is not None:
        listener(stage, done, total)


@contextmanager
def listening(progress: Progress) -> Iterator[None]:
    """Hand all that is reported while the block runs to ``progress``."""
    token = _listener.set(progress)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def shown(delay: float = DELAY) -> Iterator[None]:
    """Show a bar per stage on standard error while the block runs, unless somebody listens.

    Without a terminal it is a line per stage. Nothing is shown in the first ``delay`` seconds.
    """
    if _listener.get() is not None:
        yield
        return
    begun, tasks = time.monotonic(), dict[str, TaskID]()
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
        if time.monotonic() - begun < delay:
            return
        name = _NAMES.get(stage, stage)
        if stage not in tasks:
            if console.is_terminal:
                bars.start()
            else:
                console.print(f"{name}: {total}", highlight=False)
            tasks[stage] = bars.add_task(name, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    with listening(show):
        try:
            yield
        finally:
            bars.stop()
