"""Columns of a user's table about images: ids, and boxes in pixels of the upright originals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int32

from semlens.errors import SemlensError, nearest, shortened
from semlens.types import Box

IMAGE = "image"
"""Column of the id of an image."""
EDGES = ("x0", "y0", "x1", "y1")
"""Columns of a box: left, top, right, bottom; right and bottom are exclusive."""

MakeError = Callable[[str, str, str], SemlensError]
"""Takes value, expectation and remedy."""

_LARGEST = 2**30
"""In pixels; edges beyond it are far outside of any image."""


def image_ids(column: pa.Array, first: int, file: str, error: MakeError) -> list[str]:
    """Return the column :data:`IMAGE` of some rows.

    Parameters
    ----------
    first
        The row of the file with which it begins, for error messages.

    Raises
    ------
    SemlensError
        ``error``, if it is no text, or a value is missing.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    texts = column.cast(kind) if is_text else column
    if not is_text or texts.null_count:
        row = first + (int(texts.is_null().to_numpy(False).argmax()) if is_text else 0)
        found = "nothing" if is_text else f"the type {kind}"
        raise error(
            f"Row {row} of '{file}' (counted from 0) has {found} in the column '{IMAGE}'.",
            "Expected the id of an image as text, as in db.samples.",
            "Write ids as text; for folders they are paths relative to the folder.",
        )
    return texts.to_pylist()


def whole_pixels(
    edges: Float64[np.ndarray, "n 4"],
    rows: Sequence[int],
    images: Sequence[str],
    file: str,
    error: MakeError,
) -> Int32[np.ndarray, "n 4"]:
    """Return boxes in whole pixels, at least one pixel wide and high.

    Whether a box lies in its image shows only when the image is read, see :func:`clip`.

    Parameters
    ----------
    edges
        The columns :data:`EDGES`, one row per box.
    rows, images
        The row of the file and the image of each box, for error messages.

    Raises
    ------
    SemlensError
        ``error``, if an edge is not finite, right is not beyond left or bottom not beyond top, a
        box ends before the image starts, or all edges are at most 1.
    """
    left, top, right, bottom = edges.T
    is_bad = ~np.isfinite(edges).all(1) | (right <= left) | (bottom <= top)
    is_bad |= (right <= 0) | (bottom <= 0)
    if is_bad.any():
        row = int(is_bad.argmax())
        values = ", ".join(f"{value:g}" for value in edges[row])
        raise error(
            f"Row {rows[row]} of '{file}' (counted from 0, image '{shortened(images[row])}') has "
            f"the box {values}; {int(is_bad.sum())} of {len(edges)} boxes are like this.",
            "Expected x0 < x1 and y0 < y1 in pixels of the upright image, of a box that overlaps "
            "it.",
            "Correct the rows. Boxes given as x, y, width, height need x1 = x + width.",
        )
    if len(edges) and edges.max() <= 1:
        raise error(
            f"No box of '{file}' reaches beyond {edges.max():g}.",
            "Expected pixels of the upright image; these look like shares of its width and height.",
            "Multiply x0 and x1 by the width of the image, y0 and y1 by its height.",
        )
    rounded = np.floor(np.clip(edges, -_LARGEST, _LARGEST) + 0.5).astype(np.int32)
    rounded[:, 2:] = np.maximum(rounded[:, 2:], rounded[:, :2] + 1)
    return rounded


def clip(box: Box, size: tuple[int, int]) -> Box | None:
    """Return the part of a box inside an image of some width and height, None if there is none."""
    width, height = size
    left, top = max(box.left, 0), max(box.top, 0)
    right, bottom = min(box.right, width), min(box.bottom, height)
    return Box(left, top, right, bottom) if left < right and top < bottom else None


def check_images(named: Iterable[str], ids: Collection[str], file: str, error: MakeError) -> None:
    """Raise ``error`` if a table names images that the data does not have."""
    known = set(ids)
    unknown = [name for name in dict.fromkeys(named) if name not in known]
    if unknown:
        raise error(
            f"'{file}' names images that the data does not have: {len(unknown)}, the first "
            f"'{shortened(unknown[0])}'.",
            f"Expected ids of the data, such as {nearest(unknown[0], list(ids)[:10_000], 2)}.",
            "Write ids as in db.samples: for folders the path relative to the folder. Remove rows "
            "of other images.",
        )
