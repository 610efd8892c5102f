"""Bundled settings that build the databases of well-known models, and where these are published."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from semlens.errors import StoreError, nearest, shortened

LOCATIONS: Mapping[str, str] = {}
"""URL of the published database of a recipe; none has been published yet."""
_FOLDER = files("semlens") / "assets" / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the bundled recipes."""
    return sorted(Path(f.name).stem for f in _FOLDER.iterdir() if f.name.endswith(".toml"))


def recipe_text(name: str) -> str | None:
    """Return the TOML of a bundled recipe; None if there is none of this name.

    Examples
    --------
    >>> "torchvision/resnet50" in recipe_text("resnet50")
    True
    """
    return (_FOLDER / f"{name}.toml").read_text("utf-8") if name in recipe_names() else None


def not_published(name: str) -> StoreError:
    """Return the error for a name of which there is no published database."""
    known = recipe_names()
    if name in known:
        return StoreError(
            f"The database '{name}' has not been published yet.",
            "Expected USER/NAME of a published one, or its URL.",
            f"Build it: semlens build {name}.semlens --config {name} --data IMAGES",
        )
    return StoreError(
        f"'{shortened(name)}' is not the name of a database.",
        f"Expected USER/NAME on the hub, a URL, or a known name such as {nearest(name, known)}.",
        "Check the name.",
    )
