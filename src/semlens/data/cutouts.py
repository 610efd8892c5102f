"""Cut-out artefacts on disk: pictures whose alpha says, softly, where the artefact is."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from semlens.errors import DataError

SUFFIXES = (".png", ".webp")
FAINT = 0.1
"""Share of the largest alpha below which a cut-out's border is left off when it is moved."""


def cutout_paths(path: Path) -> list[Path]:
    """Return the cut-outs of a folder, sorted, or the one file.

    Raises
    ------
    DataError
        If there are none.
    """
    if path.is_file():
        return [path]
    found = sorted(p for p in path.glob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise DataError(
            f"'{path}' holds no cut-outs.",
            f"Expected a file or a folder of files that end in {', '.join(SUFFIXES)}.",
            "Make some: semlens cutout DB COMPONENT --out FOLDER",
        )
    return found


def read_cutout(path: Path) -> Image.Image:
    """Return a cut-out as RGBA.

    Raises
    ------
    DataError
        If it cannot be read, has no alpha, or is nowhere opaque.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return _decoded(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=64)
def _decoded(path: Path, changed: int, size: int) -> Image.Image:
    """Decode a cut-out; time and size are there so that a file that was replaced is read again."""
    try:
        with Image.open(path) as picture:
            if "A" not in picture.getbands() and "transparency" not in picture.info:
                raise DataError(
                    f"'{path.name}' has no alpha channel.",
                    "Expected an RGBA picture whose alpha is the artefact's mask.",
                    "Make cut-outs with 'semlens cutout', or add a mask in a paint program.",
                )
            found = picture.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error
    if found.getchannel("A").getbbox() is None:
        raise DataError(
            f"'{path.name}' is transparent everywhere.",
            "Expected a mask above zero somewhere.",
            "Remove the file.",
        )
    return found


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"The cut-out '{path}' cannot be read ({type(error).__name__}).",
        "Expected a whole PNG or WebP file.",
        "Remove it, or make it again.",
    )


def trimmed(piece: Image.Image) -> Image.Image:
    """Cut the faint border off a cut-out."""
    alpha = np.asarray(piece.getchannel("A"))
    strong = alpha >= FAINT * alpha.max()
    rows, columns = np.flatnonzero(strong.any(1)), np.flatnonzero(strong.any(0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return piece.crop((left, int(rows[0]), right, int(rows[-1]) + 1))
