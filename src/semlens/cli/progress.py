"""Progress bars on standard error, one per stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from semlens.cli.output import err

if TYPE_CHECKING:
    from semlens.run.plan import Progress as Report

_NAMES = {
    "hash": "hashing the images",
    "collect": "running the model",
    "crop": "cutting out examples",
    "embed": "embedding examples",
    "relate": "relevance for classes",
}


@contextmanager
def progress_bars() -> Iterator[Report]:
    """Show a bar per stage while the block runs; without a terminal, a line per stage."""
    tasks: dict[str, TaskID] = {}
    bars = Progress(
        TextColumn("{task.description:>22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
    )

    def report(stage: str, done: int, total: int) -> None:
        name = _NAMES.get(stage, stage)
        if not err.is_terminal:
            if stage not in tasks:
                err.print(f"{name}: {total} images")
                tasks[stage] = TaskID(0)
            return
        if stage not in tasks:
            tasks[stage] = bars.add_task(name, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    if not err.is_terminal:
        yield report
        return
    with bars:
        yield report
