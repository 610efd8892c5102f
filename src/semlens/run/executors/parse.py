"""Executors by name, as the command line has them."""

from __future__ import annotations

import re

from semlens.errors import RecipeError
from semlens.run.executors.executor import Executor, ThisProcess
from semlens.run.executors.local_processes import LocalProcesses
from semlens.run.executors.ray_cluster import Ray

EXECUTORS = "here, processes[:N], ray or ray://HOST:PORT"


def parse_executor(text: str, threads: int | None = None) -> Executor:
    """Return an executor by name.

    Parameters
    ----------
    text
        ``here``; ``processes`` or ``processes:4``; ``ray`` or ``ray://HOST:PORT``.
    threads
        Compute threads of each worker on a CPU.

    Raises
    ------
    RecipeError
        If there is no such executor.

    Examples
    --------
    >>> parse_executor("processes:2").processes
    2
    """
    if text == "here":
        return ThisProcess(threads)
    if match := re.fullmatch(r"processes(?::(\d+))?", text):
        return LocalProcesses(int(match[1]) if match[1] else None, threads)
    if text == "ray" or re.fullmatch(r"ray://\S+", text):
        return Ray(None if text == "ray" else text, threads or 1)
    raise RecipeError(
        f"There is no executor '{text}'.", f"Expected {EXECUTORS}.", "Correct the name."
    )
