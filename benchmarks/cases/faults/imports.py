"""What the process that all commands are forked from must be: without threads, all imported."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases.faults.process import run

_NO_THREADS = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}


def settle() -> None:
    """Start this script again with an environment in which libraries start no threads."""
    if any(os.environ.get(name) != value for name, value in _NO_THREADS.items()):
        os.execve(
            sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **_NO_THREADS}
        )


def import_all(commands: Sequence[Sequence[str | Path]]) -> None:
    """Import the package, and what else commands import in a child, where it is lost.

    Only imports: who has run a network once has threads, and children would inherit their locks.
    """
    package = importlib.import_module("semlens")
    for module in pkgutil.walk_packages(package.__path__, "semlens."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of a library that is optional
                importlib.import_module(module.name)
    for command in commands:
        with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
            before = set(sys.modules)

            def leave_list(path: str = file.name, before: set[str] = before) -> None:
                import atexit

                flush = os._exit

                def exit_with_list(code: int) -> None:
                    atexit._clear()
                    names = [n for n in sys.modules if n not in before]
                    Path(path).write_text(json.dumps(names), "utf-8")
                    flush(code)

                os._exit = exit_with_list  # type: ignore[assignment]

            ending = run(command, leave_list)
            assert ending.finished, ending  # noqa: S101
            for name in json.loads(file.read()):
                with contextlib.suppress(Exception):  # made by an import, not importable itself
                    importlib.import_module(name)
    gc.collect()
    gc.freeze()  # else each child copies the memory of all modules when it looks for garbage
