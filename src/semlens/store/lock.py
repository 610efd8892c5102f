"""One writer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from semlens.errors import BusyError, StoreError
from semlens.store.layout import LOCK, PARTIAL
from semlens.store.manifest import NAME


@contextmanager
def writing(database: Path) -> Iterator[None]:
    """Hold the right to write; the system gives it back if the process is killed.

    Raises
    ------
    BusyError
        If another process holds it.
    StoreError
        If the path is a file, or a folder of something else.
    """
    if database.exists():
        own = (NAME, PARTIAL, LOCK)
        inside = [p.name for p in database.iterdir()] if database.is_dir() else ["a file"]
        if inside and not any(name in inside for name in own):
            raise StoreError(
                f"'{database}' exists and is no database.",
                "Expected a new path, or a database to go on with.",
                "Choose another path; nothing was changed.",
            )
    try:
        database.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"'{database}' cannot be made ({error.strerror}).",
            "Expected a place that can be written.",
            "Choose another path.",
        ) from error
    lock = FileLock(str(database / LOCK))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(
            f"'{database}' is being written by another process.",
            "Expected one writer at a time.",
            "Wait until it has ended, or choose another path.",
        ) from error
    try:
        yield
    finally:
        lock.release()
