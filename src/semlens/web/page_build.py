"""The built page: its folder, the digest of its sources, and whether it is up to date.

The digest is stored in a file beside the page. The build hook loads this module by path before
the package is installed, so it may import only the standard library at the top.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

_HERE = Path(__file__).resolve().parent
STATIC = _HERE / "static"
CHECKOUT = _HERE.parents[2]
"""Root of the repository, if the package runs from its sources or is an editable install."""
PAGE = "index.html"
STAMP = "stamp"
NOT_SOURCES = {"node_modules", "dist"}


def static_folder(static: Path = STATIC) -> Path:
    """Return the folder with the built page (``index.html`` and what it loads).

    Raises
    ------
    ServeError
        If the package was installed without the page.
    """
    from semlens.errors import ServeError

    if not (static / PAGE).is_file():
        raise ServeError(
            f"The web page is missing: '{static / PAGE}' does not exist.",
            "Expected a wheel, source distribution or editable install, which all include it.",
            f"Run '{_rebuild(CHECKOUT)}'." if _has_sources(CHECKOUT) else "Install semlens again.",
        )
    return static


def check_built(static: Path = STATIC, checkout: Path = CHECKOUT) -> str | None:
    """Return a warning if the page is older than its sources, else None.

    Only an install that runs from a checkout has sources to compare with. The build hook stores
    their digest; a page built by ``npm run build`` is compared by modification time.
    """
    if not _has_sources(checkout) or not (static / PAGE).is_file():
        return None
    web, built = checkout / "web", read(static)
    if built is None:
        newest = max(path.stat().st_mtime_ns for path in sources(web))
        current = newest <= (static / PAGE).stat().st_mtime_ns
    else:
        current = built == digest(web)
    if current:
        return None
    return f"The web page is older than its sources in '{web}'. Run '{_rebuild(checkout)}'."


def _has_sources(checkout: Path) -> bool:
    return (checkout / "hatch_build.py").is_file() and (checkout / "web/package.json").is_file()


def _rebuild(checkout: Path) -> str:
    return f"pip install --no-deps --editable {checkout}"


def sources(web: Path) -> Iterator[Path]:
    """Yield the source files of the page, in a fixed order.

    Excludes ``node_modules``, ``dist``, hidden files and documentation (``*.md``).
    """
    for path in sorted(web.iterdir()):
        if path.name in NOT_SOURCES or path.name.startswith(".") or path.suffix == ".md":
            continue
        if path.is_dir():
            yield from sources(path)
        else:
            yield path


def digest(web: Path) -> str:
    """Return the SHA-256 of the names and contents of all sources."""
    total = hashlib.sha256()
    for path in sources(web):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(web).as_posix()}\0{content}\n".encode())
    return total.hexdigest()


def read(static: Path) -> str | None:
    """Return the digest of the sources that the page was built from; None if unknown."""
    stamp = static / STAMP
    if not (static / PAGE).is_file() or not stamp.is_file():
        return None
    return stamp.read_text("ascii").strip()


def write(static: Path, value: str) -> None:
    """Store the digest beside the page."""
    (static / STAMP).write_text(value + "\n", "ascii")
