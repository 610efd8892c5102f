"""Find the built page of the web application, and notice when it is older than its sources."""

from __future__ import annotations

from pathlib import Path

from semlens.errors import ServeError
from semlens.web import stamp

_HERE = Path(__file__).resolve().parent
STATIC = _HERE / "static"
CHECKOUT = _HERE.parents[2]
"""Root of the repository, where the package is an editable install or run from its sources."""


def static_folder(static: Path = STATIC) -> Path:
    """Return the folder with the built page (``index.html`` and what it loads).

    Raises
    ------
    ServeError
        When the package was installed without the page.
    """
    if not (static / stamp.PAGE).is_file():
        raise ServeError(
            f"The web page is missing: there is no '{static / stamp.PAGE}'.",
            "A wheel, a source distribution and an editable install of semlens all hold it.",
            f"Run '{_rebuild(CHECKOUT)}'." if _has_sources(CHECKOUT) else "Install semlens again.",
        )
    return static


def check_built(static: Path = STATIC, checkout: Path = CHECKOUT) -> str | None:
    """Say that the page is older than its sources and how to build it; None if all is well.

    Only an install that runs from a checkout has sources to compare with.  A page that the
    hook built carries their digest; one built by ``npm run build`` is as new as its file.
    """
    if not _has_sources(checkout) or not (static / stamp.PAGE).is_file():
        return None
    web, built = checkout / "web", stamp.read(static)
    if built is None:
        newest = max(path.stat().st_mtime_ns for path in stamp.sources(web))
        fresh = newest <= (static / stamp.PAGE).stat().st_mtime_ns
    else:
        fresh = built == stamp.digest(web)
    if fresh:
        return None
    return f"The web page is older than its sources in '{web}'. Run '{_rebuild(checkout)}'."


def _has_sources(checkout: Path) -> bool:
    return (checkout / "hatch_build.py").is_file() and (checkout / "web/package.json").is_file()


def _rebuild(checkout: Path) -> str:
    return f"pip install --no-deps --editable {checkout}"
