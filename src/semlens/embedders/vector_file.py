"""A Parquet file of vectors that a user has computed: one row per image, or per box of an image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float16, Float32, Float64
from torch import Tensor

from semlens.data.own_boxes import EDGES, IMAGE, image_ids, whole_pixels
from semlens.documents import refuse_repeated_columns
from semlens.errors import EmbedderError, SemlensError, reason_of, shortened
from semlens.regular_files import open_file
from semlens.types import Box

VECTOR = "vector"
_ROWS = 16_384
"""Rows that are converted at a time."""


@dataclass(frozen=True)
class VectorFile:
    """The rows of a file.

    Parameters
    ----------
    name
        Its path, for error messages.
    digest
        SHA-256 of its bytes.
    vectors
        Unit vectors, one per row.
    whole
        Row of each image that has a vector as a whole.
    boxed
        Boxes and rows of each image with vectors of parts.
    """

    name: str
    digest: str
    vectors: Float16[Tensor, "n d"]
    whole: Mapping[str, int]
    boxed: Mapping[str, list[tuple[Box, int]]]


def read_vector_file(path: Path) -> VectorFile:
    """Read and check a file of vectors.

    Columns: ``image``, the id of an image; ``vector``, a list of d floats of any length but zero,
    the same d in all rows; and optionally ``x0``, ``y0``, ``x1``, ``y1``, in pixels of the upright
    image, all empty in a row about the whole image.

    Raises
    ------
    EmbedderError
        If it is missing or damaged, lacks a column, or has a bad row.
    """
    name = str(path)
    try:
        with open_file(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            parquet = pq.ParquetFile(file)
            columns = _columns(parquet.schema_arrow, name)
            batches = list(_batches(parquet, columns, name))
    except SemlensError:
        raise
    except Exception as error:  # the reader raises many types for damaged bytes
        raise EmbedderError(
            f"The file of vectors '{name}' cannot be read ({reason_of(error, whole=True)}).",
            "Expected an intact Parquet file.",
            "Check the path, or write the file again.",
        ) from error
    if not batches:
        raise EmbedderError(
            f"'{name}' has no rows.", "Expected one per vector.", "Write the file again."
        )
    images = [image for part, _, _ in batches for image in part]
    _check_dimensions(batches, name)
    vectors = torch.cat([vectors for _, vectors, _ in batches])
    whole, boxed = _by_image(images, np.concatenate([edges for *_, edges in batches]), name)
    return VectorFile(name, digest, vectors, whole, boxed)


_Batch = tuple[list[str], Tensor, np.ndarray]
"""Images, unit vectors float16[n d] and edges of boxes float64[n 4]."""


def _columns(schema: pa.Schema, name: str) -> list[str]:
    refuse_repeated_columns(schema.names)
    given = [edge for edge in EDGES if edge in schema.names]
    missing = [column for column in (IMAGE, VECTOR) if column not in schema.names]
    missing += [edge for edge in EDGES if given and edge not in given]
    if missing:
        raise EmbedderError(
            f"'{name}' lacks the columns {', '.join(missing)}; it has "
            f"{shortened(', '.join(schema.names)) or 'none'}.",
            f"Expected {IMAGE}, {VECTOR} and, for parts of images, {', '.join(EDGES)}.",
            "Rename or add the columns.",
        )
    return [IMAGE, VECTOR, *given]


def _batches(parquet: pq.ParquetFile, columns: list[str], name: str) -> Iterator[_Batch]:
    first = 0
    for batch in parquet.iter_batches(_ROWS, columns=columns):
        if not batch.num_rows:
            continue
        images = image_ids(batch.column(IMAGE), first, name, EmbedderError)
        vectors = _vectors(batch.column(VECTOR), images, first, name)
        edges = np.full((len(images), 4), np.nan)
        if len(columns) > 2:
            values = [batch.column(edge).cast(pa.float64()) for edge in EDGES]
            edges = np.stack([v.to_numpy(zero_copy_only=False) for v in values], axis=1)
        yield images, vectors, edges
        first += len(images)


def _vectors(column: pa.Array, images: list[str], first: int, name: str) -> Float16[Tensor, "n d"]:
    """Return unit vectors of the lists of a column."""
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    is_list |= pa.types.is_fixed_size_list(kind)
    if not is_list or not (
        pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)
    ):
        raise EmbedderError(
            f"The column '{VECTOR}' of '{name}' has the type {shortened(kind)}.",
            "Expected lists of floats.",
            "Write each vector as a list of numbers.",
        )
    # an empty list has the length 0, and so has none at all
    lengths = np.nan_to_num(column.value_lengths().to_numpy(zero_copy_only=False)).astype(int)
    different = (lengths != lengths[0]) | (lengths == 0)
    if different.any():
        row = int(different.argmax())
        raise _bad_row(first + row, images[row], f"{lengths[row]} numbers", name)
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    vectors = values.reshape(len(images), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.linalg.norm(vectors, axis=1)
    is_bad = ~np.isfinite(norms) | (norms == 0)
    if is_bad.any():
        row = int(is_bad.argmax())
        found = "only zeros" if norms[row] == 0 else "a number that is missing or not finite"
        raise _bad_row(first + row, images[row], found, name)
    unit: Float32[np.ndarray, "n d"] = (vectors / norms[:, None]).astype(np.float32)
    return torch.from_numpy(unit).to(torch.float16)


def _bad_row(row: int, image: str, found: str, name: str) -> EmbedderError:
    return EmbedderError(
        f"Row {row} of '{name}' (counted from 0, image '{shortened(image)}') has a vector of "
        f"{found}.",
        "Expected finite numbers, not all zero, and as many in every row.",
        "Remove the row, or compute its vector again.",
    )


def _check_dimensions(batches: list[_Batch], name: str) -> None:
    """Compare the length of the vectors of all batches; each is checked in itself."""
    first, dimension = 0, batches[0][1].shape[1]
    for images, vectors, _ in batches:
        if vectors.shape[1] != dimension:
            raise _bad_row(first, images[0], f"{vectors.shape[1]} numbers, not {dimension},", name)
        first += len(images)


def _by_image(
    images: list[str], edges: Float64[np.ndarray, "n 4"], name: str
) -> tuple[dict[str, int], dict[str, list[tuple[Box, int]]]]:
    """Return the rows of whole images, and boxes with their rows, by image."""
    rows = np.flatnonzero(~np.isnan(edges).all(1)).tolist()
    # a box with some edges missing is bad, one with all edges missing is the whole image
    boxes = whole_pixels(edges[rows], rows, [images[row] for row in rows], name, EmbedderError)
    boxed: dict[str, list[tuple[Box, int]]] = {}
    whole: dict[str, int] = {}
    seen: dict[tuple[str, Box], int] = {}
    for row, box in zip(rows, boxes.tolist(), strict=True):
        place = (images[row], Box(*box))
        if place in seen:
            raise _duplicate(seen[place], row, images[row], name)
        seen[place] = row
        boxed.setdefault(images[row], []).append((place[1], row))
    for row in np.flatnonzero(np.isnan(edges).all(1)).tolist():
        if images[row] in whole:
            raise _duplicate(whole[images[row]], row, images[row], name)
        whole[images[row]] = row
    return whole, boxed


def _duplicate(first: int, second: int, image: str, name: str) -> EmbedderError:
    return EmbedderError(
        f"Rows {first} and {second} of '{name}' (counted from 0) are both about the same part of "
        f"'{shortened(image)}'.",
        "Expected one vector for each image or box, in whole pixels.",
        "Remove one of them.",
    )
