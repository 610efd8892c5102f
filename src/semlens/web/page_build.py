"""The built page: where it is, which sources it was made from, and whether it is older than these.

Which sources is told by one digest that lies beside the page. The build hook loads this file by
its path, before the package is installed: at the top only the standard library may be imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

_HERE = Path(__file__).resolve().parent
STATIC = _HERE / "static"
CHECKOUT = _HERE.parents[2]
"""Root of the repository, where the package is an editable install or run from its sources."""
PAGE = "index.html"
STAMP = "stamp"
NOT_SOURCES = {"node_modules", "dist"}


def static_folder(static: Path = STATIC) -> Path:
    """Return the folder with the built page (``index.html`` and what it loads).

    Raises
    ------
    ServeError
        When the package was installed without the page.
    """
    from semlens.errors import ServeError

    if not (static / PAGE).is_file():
        raise ServeError(
            f"The web page is missing: there is no '{static / PAGE}'.",
            "A wheel, a source distribution and an editable install of semlens all hold it.",
            f"Run '{_rebuild(CHECKOUT)}'." if _has_sources(CHECKOUT) else "Install semlens again.",
        )
    return static


def check_built(static: Path = STATIC, checkout: Path = CHECKOUT) -> str | None:
    """Say that the page is older than its sources and how to build it; None if all is well.

    Only an install that runs from a checkout has sources to compare with.  A page that the
    hook built carries their digest; one built by ``npm run build`` is as new as its file.
    """
    if not _has_sources(checkout) or not (static / PAGE).is_file():
        return None
    web, built = checkout / "web", read(static)
    if built is None:
        newest = max(path.stat().st_mtime_ns for path in sources(web))
        fresh = newest <= (static / PAGE).stat().st_mtime_ns
    else:
        fresh = built == digest(web)
    if fresh:
        return None
    return f"The web page is older than its sources in '{web}'. Run '{_rebuild(checkout)}'."


def _has_sources(checkout: Path) -> bool:
    return (checkout / "hatch_build.py").is_file() and (checkout / "web/package.json").is_file()


def _rebuild(checkout: Path) -> str:
    return f"pip install --no-deps --editable {checkout}"


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
