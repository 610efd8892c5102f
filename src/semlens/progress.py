"""Progress of long-running work: reported by the work, shown by a listener."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from html import escape
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
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


_NAMES = {
    "hash": "hashing the images",
    "collect": "running the model",
    "crop": "cropping examples",
    "embed": "embedding examples",
    "relate": "class relevance",
}


@dataclass
class _Stage:
    total: int
    done: int
    started: float
    resumed: int = field(init=False)
    """What an earlier run has done: it took no time in this one."""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.resumed = self.done

    @property
    def share(self) -> float:
        return min(self.done / self.total, 1.0) if self.total else 1.0

    @property
    def pace(self) -> float:
        """Seconds per item; 0 if it is not known yet."""
        computed = self.done - self.resumed
        return self.seconds / computed if computed > 0 else 0.0


class Stages:
    """How far the stages of one piece of work are, and what remains; several threads report.

    Parameters
    ----------
    planned
        The stages in their order, with their numbers of items: 0 where it is not known yet.
    """

    def __init__(self, planned: Mapping[str, int] = MappingProxyType({})) -> None:
        self._planned = planned
        self.begun: dict[str, _Stage] = {}
        self.lock = threading.Lock()

    def update(self, stage: str, done: int, total: int) -> bool:
        """Set how far a stage is; return whether it has just begun."""
        now = time.monotonic()
        if stage not in self.begun:
            self.begun[stage] = _Stage(total, done, now)
            return True
        entry = self.begun[stage]
        entry.done, entry.total, entry.seconds = done, total, now - entry.started
        return False

    @property
    def running(self) -> list[str]:
        """The stages that have begun and not ended, in their order."""
        order = [*self._planned, *self.begun]
        begun = [name for name in dict.fromkeys(order) if name in self.begun]
        return [name for name in begun if self.begun[name].share < 1]

    def name(self, stage: str) -> str:
        """Return what a stage is called, with its number if it is planned."""
        name = _NAMES.get(stage, stage)
        number = [*self._planned, stage].index(stage) + 1
        return f"{number}/{len(self._planned)} {name}" if stage in self._planned else name

    def count(self, stage: str) -> str:
        """Return how many items of a stage are done."""
        entry = self.begun[stage]
        return f"{entry.done:,}/{entry.total:,}" if entry.share < 1 else f"{entry.total:,}"

    def times(self, stages: Sequence[str]) -> str:
        """Return how long stages that overlap have taken, and what remains at their speed."""
        entries, now = [self.begun[stage] for stage in stages], time.monotonic()
        text = _clock(max(one.seconds if one.share == 1 else now - one.started for one in entries))
        left = max(entry.pace * (entry.total - entry.done) for entry in entries)
        later = self._later()
        in_all = f", at least {_clock(left + later)} in all" if later else ""
        return f"{text}, {_clock(left)} left{in_all}" if left > 0 else text

    def _later(self) -> float:
        """Return the least seconds that the stages to come take.

        Each of them runs the model on its images again, and does more with them than "collect".
        """
        order = list(self._planned)
        begun = max((order.index(name) for name in self.begun if name in order), default=len(order))
        items = sum(self._planned[name] for name in order[begun + 1 :])
        return items * self.begun.get("collect", next(iter(self.begun.values()))).pace


class NotebookBars:
    """Bars of the stages of one piece of work; the output appears with the first update."""

    def __init__(self, stages: Stages | None = None) -> None:
        self._stages = stages or Stages()
        self._started = self._shown = time.monotonic()
        self._output: Any = None

    def update(self, stage: str, done: int, total: int) -> None:
        """Set how far a stage is."""
        with self._stages.lock:
            self._stages.update(stage, done, total)
            now = time.monotonic()
            if self._output is None or now - self._shown >= INTERVAL or done >= total:
                self._shown = now
                self._show("".join(map(self._bar, self._stages.begun)))

    def stop(self) -> None:
        """Replace the bars by one line that says what was done and how long it took."""
        with self._stages.lock:
            if self._output is None:
                return
            done = ", ".join(
                f"{escape(self._stages.name(stage))} {self._stages.count(stage)}"
                for stage in self._stages.begun
            )
            seconds = _clock(time.monotonic() - self._started)
            self._show(f'<div style="{_LINE};opacity:.65">{done}: {seconds}</div>')

    def _show(self, html: str) -> None:
        # data, not an HTML object, whose text would be "<IPython.core.display.HTML object>"
        stages = self._stages
        plain = "; ".join(f"{stages.name(one)} {stages.count(one)}" for one in stages.begun)
        data = {"text/html": html, "text/plain": plain}
        if self._output is None:
            from IPython.display import display  # pyright: ignore[reportMissingImports]

            self._output = display(data, raw=True, display_id=True)
        else:
            self._output.update(data, raw=True)

    def _bar(self, stage: str) -> str:
        stages, share = self._stages, 100 * self._stages.begun[stage].share
        return (
            f'<div style="{_LINE}"><span style="flex:0 0 13em;text-align:right">'
            f"{escape(stages.name(stage))}</span>"
            f'<div style="{_TRACK}"><div style="{_BAR};width:{share:.1f}%"></div></div>'
            f'<span style="{_NUMBERS}">{stages.count(stage)}, {stages.times([stage])}'
            "</span></div>"
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


Progress = Callable[[str, int, int], None]
"""Callback with the stage, the number of items done, and their total."""
DELAY = 1.0
"""Seconds before progress bars appear."""
EVERY = 10.0
"""Seconds between two lines where there is no terminal."""
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
def progress_bars(
    stages: Mapping[str, int] = MappingProxyType({}), delay: float = DELAY
) -> Iterator[None]:
    """Show one progress bar per stage, unless there is a listener.

    In a notebook they are an output of the cell, otherwise on standard error; without a terminal,
    a line is printed as a stage begins and every ten seconds, with what remains. Nothing is shown
    in the first ``delay`` seconds.

    Parameters
    ----------
    stages
        The stages of the work in their order, if they are known, with their numbers of items, or
        0: each then says its number, and what at least remains in all.
    """
    if _listener.get() is not None:
        yield
        return
    started = time.monotonic()
    console = Console(file=sys.stderr)
    if in_notebook():
        bars = NotebookBars(Stages(stages))
    else:
        bars = (_TerminalBars if console.is_terminal else _Lines)(console, Stages(stages))

    def show(stage: str, done: int, total: int) -> None:
        if time.monotonic() - started >= delay:
            bars.update(stage, done, total)

    with progress_listener(show):
        try:
            yield
        finally:
            bars.stop()


class _Lines:
    """A line as a stage begins and every ten seconds, of all that run: for files and logs."""

    def __init__(self, console: Console, stages: Stages) -> None:
        self._stages = stages
        self._console = console
        self._printed = -math.inf

    def update(self, stage: str, done: int, total: int) -> None:
        """Set how far a stage is."""
        stages = self._stages
        with stages.lock:
            now = time.monotonic()
            if stages.update(stage, done, total):
                text = f"{stages.name(stage)}: {total:,}"
            elif now - self._printed >= EVERY and (running := stages.running):
                counts = "; ".join(f"{stages.name(one)}: {stages.count(one)}" for one in running)
                text = f"{counts}, {stages.times(running)}"
            else:
                return
            self._printed = now
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Print nothing more."""


class _TerminalBars:
    """Bars on standard error."""

    def __init__(self, console: Console, stages: Stages) -> None:
        self._stages = stages
        self._tasks: dict[str, TaskID] = {}
        self._bars = Bars(
            TextColumn("{task.description:>22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[times]}"),
            console=console,
            transient=True,
        )

    def update(self, stage: str, done: int, total: int) -> None:
        """Set how far a stage is."""
        with self._stages.lock:
            if self._stages.update(stage, done, total):
                self._bars.start()
                name = self._stages.name(stage)
                self._tasks[stage] = self._bars.add_task(name, total=total, times="")
            times = self._stages.times([stage])
            self._bars.update(self._tasks[stage], completed=done, total=total, times=times)

    def stop(self) -> None:
        """Remove the bars."""
        self._bars.stop()
