"""Boxes in images that a user has, of a detector, a segmentation or annotators, and their table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float64, Int32
from pyarrow import csv

from semlens.documents import refuse_repeated_columns
from semlens.errors import DataError, SemlensError, nearest, reason_of, shortened
from semlens.recipe import fingerprint
from semlens.regular_files import open_file, user_path
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


@dataclass(frozen=True, eq=False)
class OwnBoxes:
    """The boxes of a file.

    Parameters
    ----------
    spec
        Its absolute path.
    by_image
        Boxes of each image that has some, int32[k 4] in pixels of the upright original, each once
        and sorted. They may reach beyond the image.
    """

    spec: str
    by_image: Mapping[str, Int32[np.ndarray, "k 4"]]

    def fingerprint(self, ids: Collection[str] | None = None) -> str:
        """Return the SHA-256 of the boxes, in whole pixels, of all images or of some."""
        chosen = None if ids is None else set(ids)
        return fingerprint(
            "boxes",
            [
                [name, boxes.tolist()]
                for name, boxes in sorted(self.by_image.items())
                if chosen is None or name in chosen
            ],
        )

    def smallest_at(self, image: str, x: float, y: float, size: tuple[int, int]) -> Box | None:
        """Return the smallest box of an image that contains a position; None if none does.

        Boxes are clipped to the image. Of equally small ones, it is the first from the left, then
        from the top.

        Parameters
        ----------
        x, y
            In pixels of the upright original; the top left corner of the image is (0, 0).
        size
            Width and height of the image.

        Raises
        ------
        DataError
            If a box of the image lies outside of it.
        """
        found: list[Box] = []
        for edges in self.by_image.get(image, np.zeros((0, 4), np.int32)).tolist():
            box = clip(Box(*edges), size)
            if box is None:
                raise DataError(
                    f"The box {', '.join(map(str, edges))} of '{shortened(image)}' in "
                    f"'{self.spec}' lies outside of the image, which has {size[0]} x {size[1]} "
                    "pixels.",
                    "Expected pixels of the upright image, at its original size.",
                    "Correct the file. If images were scaled for the detector, scale its boxes "
                    "back.",
                )
            if box.left <= x < box.right and box.top <= y < box.bottom:
                found.append(box)
        return min(found, key=_by_area, default=None)

    def has(self, image: str, box: Box) -> bool:
        """Return whether a region that starts inside the image is one of its clipped boxes."""
        edges = self.by_image.get(image)
        if edges is None:
            return False
        starts = np.maximum(edges[:, :2], 0) == (box.left, box.top)
        return bool((starts.all(1) & (edges[:, 2:] >= (box.right, box.bottom)).all(1)).any())


def _by_area(box: Box) -> tuple[int, Box]:
    return (box.right - box.left) * (box.bottom - box.top), box


def load_boxes(path: str | Path, ids: Collection[str]) -> OwnBoxes:
    """Read boxes from a CSV or Parquet file with the columns image, x0, y0, x1 and y1.

    Parameters
    ----------
    path
        Its name ends with ``.csv`` or ``.parquet``.
    ids
        Ids of the data; images without boxes are allowed.

    Raises
    ------
    DataError
        If it is missing or damaged, lacks a column or rows, names an unknown image, or has a bad
        box.
    """
    file = user_path(path).resolve()  # independent of the working directory
    table = _read(file)
    missing = [name for name in (IMAGE, *EDGES) if name not in table.column_names]
    if missing:
        raise DataError(
            f"'{file}' lacks the columns {', '.join(missing)}; it has "
            f"{shortened(', '.join(table.column_names))}.",
            f"Expected {IMAGE}, {', '.join(EDGES)}.",
            "Rename or add the columns.",
        )
    if not table.num_rows:
        raise DataError(
            f"'{file}' has no rows.", "Expected one per box.", "Use crop='none' (--crop none)."
        )
    images, edges = _columns(table, str(file))
    check_images(images, ids, str(file), DataError)
    boxes = whole_pixels(edges, range(len(images)), images, str(file), DataError)
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(images):
        rows_of.setdefault(name, []).append(row)
    return OwnBoxes(
        str(file), {name: np.unique(boxes[rows], axis=0) for name, rows in rows_of.items()}
    )


def _read(file: Path) -> pa.Table:
    try:
        with open_file(file) as opened:
            if file.suffix.lower() == ".parquet":
                return _checked(pq.read_table(opened))
            if file.suffix.lower() == ".csv":
                # ids such as 00012 stay texts
                types = {IMAGE: pa.string(), **dict.fromkeys(EDGES, pa.float64())}
                options = csv.ConvertOptions(column_types=types)
                return _checked(csv.read_csv(opened, convert_options=options))
    except Exception as error:  # the readers raise many types for damaged bytes
        raise DataError(
            f"The boxes '{file}' cannot be read ({reason_of(error, whole=True)}).",
            "Expected a CSV file with commas and a header, or a Parquet file.",
            "Check the path, or write the file again.",
        ) from error
    raise DataError(
        f"The boxes '{shortened(file)}' are in a file that ends with '{file.suffix}'.",
        "Expected .csv or .parquet.",
        "Write one of these.",
    )


def _checked(table: pa.Table) -> pa.Table:
    refuse_repeated_columns(table.column_names)
    return table


def _columns(table: pa.Table, file: str) -> tuple[list[str], np.ndarray]:
    """Return the images, and the edges float64[n 4] with NaN where one is missing."""
    images = image_ids(table[IMAGE].combine_chunks(), 0, file, DataError)
    try:
        values = [table[edge].cast(pa.float64()).to_numpy() for edge in EDGES]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"'{file}' has values of other types ({reason_of(error, whole=True)}).",
            f"Expected numbers in {', '.join(EDGES)}.",
            "Convert the columns.",
        ) from error
    return images, np.stack(values, axis=1)
