"""Progress of long-running work: reported by the work, shown by a listener."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from html import escape
from typing import Any

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

INTERVAL = 0.1
"""Seconds between two updates of the output."""
_LINE = "display:flex;gap:.7em;align-items:center;font:13px/1.6 system-ui,sans-serif"
_NUMBERS = "font-variant-numeric:tabular-nums;opacity:.75;white-space:nowrap"
_TRACK = "flex:0 1 16em;height:.5em;border-radius:.25em;background:rgb(128 128 128/25%)"
_BAR = "height:100%;border-radius:.25em;background:#2f6fde"


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook (and not a terminal's IPython)."""
    ipython: Any = sys.modules.get("IPython")  # a kernel has imported it
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


@dataclass
class _Stage:
    total: int
    done: int = 0
    started: float = field(default_factory=lambda: time.monotonic())


class NotebookBars:
    """Bars of the stages of one piece of work; the output appears with the first update."""

    def __init__(self) -> None:
        self._stages: dict[str, _Stage] = {}
        self._started = self._shown = time.monotonic()
        self._output: Any = None
        self._lock = threading.Lock()  # several threads report

    def update(self, stage: str, done: int, total: int) -> None:
        """Set how far a stage is."""
        with self._lock:
            entry = self._stages.setdefault(stage, _Stage(total))
            entry.done, entry.total = done, total
            now = time.monotonic()
            if self._output is None or now - self._shown >= INTERVAL or done >= total:
                self._shown = now
                self._show("".join(_bar(name, entry) for name, entry in self._stages.items()))

    def stop(self) -> None:
        """Replace the bars by one line that says what was done and how long it took."""
        with self._lock:
            if self._output is None:
                return
            stages = [f"{escape(name)} {_count(entry)}" for name, entry in self._stages.items()]
            seconds = _clock(time.monotonic() - self._started)
            self._show(f'<div style="{_LINE};opacity:.65">{", ".join(stages)}: {seconds}</div>')

    def _show(self, html: str) -> None:
        # data, not an HTML object, whose text would be "<IPython.core.display.HTML object>"
        plain = "; ".join(f"{name} {_count(entry)}" for name, entry in self._stages.items())
        data = {"text/html": html, "text/plain": plain}
        if self._output is None:
            from IPython.display import display  # pyright: ignore[reportMissingImports]

            self._output = display(data, raw=True, display_id=True)
        else:
            self._output.update(data, raw=True)


def _bar(name: str, entry: _Stage) -> str:
    share = min(entry.done / entry.total, 1.0) if entry.total else 1.0
    return (
        f'<div style="{_LINE}"><span style="flex:0 0 13em;text-align:right">{escape(name)}</span>'
        f'<div style="{_TRACK}"><div style="{_BAR};width:{100 * share:.1f}%"></div></div>'
        f'<span style="{_NUMBERS}">{_count(entry)}, {_times(entry)}</span></div>'
    )


def _times(entry: _Stage) -> str:
    """Return how long a stage has taken, and what remains at that speed."""
    share = min(entry.done / entry.total, 1.0) if entry.total else 1.0
    elapsed = time.monotonic() - entry.started
    left = f", {_clock(elapsed * (1 - share) / share)} left" if 0 < share < 1 else ""
    return f"{_clock(elapsed)}{left}"


def _count(entry: _Stage) -> str:
    return f"{entry.done:,}/{entry.total:,}" if entry.done < entry.total else f"{entry.total:,}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


Progress = Callable[[str, int, int], None]
"""Callback with the stage, the number of items done, and their total."""
DELAY = 1.0
"""Seconds before progress bars appear."""
EVERY = 10.0
"""Seconds between two lines where there is no terminal."""
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
def progress_bars(stages: Sequence[str] = (), delay: float = DELAY) -> Iterator[None]:
    """Show one progress bar per stage, unless there is a listener.

    In a notebook they are an output of the cell, otherwise on standard error; without a terminal,
    a line is printed per stage and every ten seconds, with what remains of the stage. Nothing is
    shown in the first ``delay`` seconds.

    Parameters
    ----------
    stages
        The stages of the work in their order, if they are known: each then says its number.
    """
    if _listener.get() is not None:
        yield
        return
    started = time.monotonic()
    console = Console(file=sys.stderr)
    if in_notebook():
        bars = NotebookBars()
    else:
        bars = _TerminalBars(console) if console.is_terminal else _Lines(console)
    names = {
        stage: f"{number}/{len(stages)} {_NAMES.get(stage, stage)}"
        for number, stage in enumerate(stages, 1)
    }

    def show(stage: str, done: int, total: int) -> None:
        if time.monotonic() - started >= delay:
            bars.update(names.get(stage, _NAMES.get(stage, stage)), done, total)

    with progress_listener(show):
        try:
            yield
        finally:
            bars.stop()


class _Lines:
    """A line as a stage begins and every ten seconds: for files and logs."""

    def __init__(self, console: Console) -> None:
        self._stages: dict[str, _Stage] = {}
        self._console = console
        self._printed = -math.inf
        self._lock = threading.Lock()  # several threads report

    def update(self, stage: str, done: int, total: int) -> None:
        """Set how far a stage is."""
        with self._lock:
            now = time.monotonic()
            new = stage not in self._stages
            entry = self._stages.setdefault(stage, _Stage(total))
            entry.done, entry.total = done, total
            if new:
                text = f"{stage}: {total:,}"
            elif done < total and now - self._printed >= EVERY:
                text = f"{stage}: {_count(entry)}, {_times(entry)}"
            else:
                return
            self._printed = now
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Print nothing more."""


class _TerminalBars:
    """Bars on standard error."""

    def __init__(self, console: Console) -> None:
        self._tasks: dict[str, TaskID] = {}
        self._bars = Bars(
            TextColumn("{task.description:>22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )

    def update(self, stage: str, done: int, total: int) -> None:
        """Set how far a stage is."""
        if stage not in self._tasks:
            self._bars.start()
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def stop(self) -> None:
        """Remove the bars."""
        self._bars.stop()
