"""Tell which sources a built page was made from, by one digest that lies beside it.

The build hook loads this file by its path, before the package is installed: nothing but
the standard library may be imported here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

PAGE = "index.html"
STAMP = "stamp"
NOT_SOURCES = {"node_modules", "dist"}


def sources(web: Path) -> Iterator[Path]:
    """Yield the files that a built page depends on, in a fixed order.

    All but what is installed or made (``node_modules``, ``dist``), hidden files and
    texts for people (``*.md``), which never reach the page.
    """
    for path in sorted(web.iterdir()):
        if path.name in NOT_SOURCES or path.name.startswith(".") or path.suffix == ".md":
            continue
        if path.is_dir():
            yield from sources(path)
        else:
            yield path


def digest(web: Path) -> str:
    """Return SHA-256 over the names and contents of all sources."""
    total = hashlib.sha256()
    for path in sources(web):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(web).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def read(static: Path) -> str | None:
    """Return the digest that the page in ``static`` was built from; None without page or stamp."""
    stamp = static / STAMP
    if not (static / PAGE).is_file() or not stamp.is_file():
        return None
    return stamp.read_text("ascii").strip()


def write(static: Path, value: str) -> None:
    """Leave the digest beside the page."""
    (static / STAMP).write_text(value + "\n", "ascii")
