"""Arrays in files: NumPy, PNG and TIFF with all their bits and bands, DICOM images and series."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semlens.data.array_picture import AXES, ArrayPicture
from semlens.data.dicom import SUFFIX, Dicom, series_of, unreadable
from semlens.data.image_folder import check_folder, file_names, folder_classes
from semlens.data.image_sequence import MapStyle, item_targets
from semlens.data.images import Images, numbered_ids, read_file, split_spec
from semlens.data.rendering import Draw, Rendering
from semlens.errors import DataError, ImageError, reason_of, shortened
from semlens.regular_files import is_folder, user_path

PREFIXES = {"signals": 1, "arrays": 2, "volumes": 3}
"""Starts of SPECs, and the number of axes besides the channels."""
_SPEC = re.compile(rf"(?P<kind>{'|'.join(PREFIXES)}):(?P<folder>.+?)(?:@(?P<how>.+))?", re.DOTALL)
_PICTURES = frozenset((".png", ".tif", ".tiff", ".pgm", ".ppm", ".jpg", ".jpeg", ".bmp"))
_SUFFIXES = frozenset((".npy", SUFFIX, *_PICTURES))


def is_arrays(spec: str) -> bool:
    """Whether a SPEC names a folder of arrays."""
    return _SPEC.fullmatch(spec) is not None and not is_folder(user_path(spec))


class ArrayFolder(Images):
    """All arrays below a folder; first-level subfolders are classes.

    Parameters
    ----------
    spec
        ``signals:FOLDER``, ``arrays:FOLDER`` or ``volumes:FOLDER``, with ``@RENDERING`` at the end
        if it does not follow from the numbers. For volumes, the DICOM files of a folder that
        belong to one series are one sample.
    run_files
        Whether a rendering in a Python file may be executed.

    Raises
    ------
    DataError
        If the folder is missing or has no arrays, or the rendering cannot be read.
    """

    def __init__(self, spec: str, *, run_files: bool = True) -> None:
        match = _SPEC.fullmatch(spec)
        if match is None:
            raise DataError(
                f"'{shortened(spec)}' names no folder of arrays.",
                "Expected signals:FOLDER, arrays:FOLDER or volumes:FOLDER, and @RENDERING.",
                "Correct the SPEC.",
            )
        axes = PREFIXES[match["kind"]]
        check_folder(match["folder"])
        self._root = user_path(match["folder"]).resolve()
        self.rendering = self._own = Rendering.parse(match["how"] or "", axes, run_files=run_files)
        how = f"@{self._own.text}" if self._own.text else ""
        self.spec = f"{match['kind']}:{self._root}{how}"
        names = sorted(file_names(self._root, _SUFFIXES))
        self._files = series_of(self._root, names) if axes == 3 else {n: [n] for n in names}
        self.ids = list(self._files)
        if not self.ids:
            raise DataError(
                f"'{self._root}' contains no arrays.",
                f"Expected files that end in {', '.join(sorted(_SUFFIXES))}.",
                "Check the path and the file endings.",
            )
        self.targets = folder_classes(self.ids)

    def content(self, sample: int) -> ArrayPicture:
        """Return the array of a file, or of a series, with its picture."""
        name = self.ids[sample]
        files = [self._root / file for file in self._files[name]]
        return _of_files(files, self._own, name)


class ArraySequence(Images):
    """A list, array or map-style data set of arrays, with their numbers.

    Parameters
    ----------
    items
        Each item is an array or tensor of numbers, channels first: [t] or [c t], [h w] or [c h w],
        [d h w] or [c d h w]; or a tuple of it and the sample's class.
    axes
        Axes besides the channels: 1 for signals, 2 for images, 3 for volumes.
    rendering
        How people and embedders see an array, as in a SPEC (``bands:3,2,1@0,3000``), or a function
        from an array [c ...] to uint8[h w 3]; by default what follows from the numbers.
    classes
        Class names for integer targets.
    name
        Name of this data in the database.

    Raises
    ------
    DataError
        If there are no items, or the rendering cannot be read.

    Examples
    --------
    >>> signals = ArraySequence(np.zeros((5, 2, 300), np.float32), axes=1)
    >>> len(signals), signals.read(0).size
    (5, (300, 128))
    """

    def __init__(
        self,
        items: MapStyle | Sequence[Any],
        *,
        axes: int,
        rendering: str | Draw = "",
        classes: Sequence[str] | None = None,
        name: str = "python",
    ) -> None:
        if axes not in AXES:
            raise DataError(
                f"The arrays are said to have {axes!r} axes.",
                "Expected 1 for signals, 2 for images or 3 for volumes, besides the channels.",
                "Pass axes=1, 2 or 3.",
            )
        if not (hasattr(items, "__len__") and hasattr(items, "__getitem__") and len(items)):
            raise DataError(
                f"The arrays are a {type(items).__name__} without items, or without an index.",
                "Expected several arrays.",
                "Pass a list, an array with a leading axis, or a data set.",
            )
        self._items: Any = items
        self.rendering = self._own = Rendering.parse(rendering, axes)
        self.spec = f"python:{name}"
        self.ids = numbered_ids(len(items))
        self.targets = item_targets(items, classes, self.spec)

    def content(self, sample: int) -> ArrayPicture:
        """Return an item with its picture."""
        item = self._items[sample]
        item = item[0] if isinstance(item, tuple) and item else item
        return as_array_picture(item, self._own, self.ids[sample])


def as_array_picture(item: object, rendering: Rendering, name: str = "array") -> ArrayPicture:
    """Return an array, or the array in a file, with its picture.

    Raises
    ------
    ImageError
        If it cannot be read, has another number of axes, or does not fit the rendering.
    """
    if isinstance(item, ArrayPicture):
        return item
    if isinstance(item, str | Path):
        return _of_files([user_path(item)], rendering, str(item))
    given: Any = item
    try:
        values = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ImageError(
            f"'{name}' is a {type(item).__name__} ({reason_of(error)}).",
            "Expected an array of numbers.",
            "Convert it with numpy.asarray.",
        ) from error
    return rendering.draw(with_channels(values, rendering.axes, name), name)


def _of_files(files: Sequence[Path], rendering: Rendering, name: str) -> ArrayPicture:
    """Return the array of a file, or of the slices of a DICOM series."""
    if name.lower().endswith(SUFFIX):
        dicom = Dicom.read(files, rendering.axes, name)
        return rendering.draw(dicom.values, name, dicom.window)
    values = _numbers(read_file(files[0], name), name)
    return rendering.draw(with_channels(values, rendering.axes, name), name)


def rendering_of_spec(spec: str, *, run_files: bool) -> Rendering | None:
    """Return the rendering that the SPEC of a folder of arrays declares; None for other data."""
    spec = (split_spec(spec) or [spec])[0]
    match = _SPEC.fullmatch(spec) if is_arrays(spec) else None
    if match is None:
        return None
    return Rendering.parse(match["how"] or "", PREFIXES[match["kind"]], run_files=run_files)


def with_channels(values: np.ndarray, axes: int, name: str) -> np.ndarray:
    """Return an array [c ...] of real numbers.

    Raises
    ------
    ImageError
        If it has another number of axes, is empty, or not of real numbers.
    """
    if values.dtype.kind not in "buif" or values.ndim - axes not in (0, 1) or not values.size:
        raise ImageError(
            f"'{name}' is an array {values.dtype}{list(values.shape)}.",
            f"Expected real numbers {AXES[axes]}.",
            "Use signals: for one axis besides the channels, arrays: for two, volumes: for three.",
        )
    values = values.astype(np.uint8) if values.dtype.kind == "b" else values
    return values[None] if values.ndim == axes else values


def _numbers(data: bytes, name: str) -> np.ndarray:
    """Return the array of a file: of a picture its channels first, in the numbers of the file."""
    try:
        if name.lower().endswith(".npy"):
            return np.load(io.BytesIO(data), allow_pickle=False)
        with Image.open(io.BytesIO(data)) as image:
            _refuse_lost_bits(image, data)
            image.load()
            picture = image.convert("RGB") if image.mode in ("P", "CMYK", "YCbCr") else image
            values = np.asarray(picture)
    except Exception as error:  # readers raise many types for damaged bytes
        if name.lower().endswith((".tif", ".tiff")):
            return _by_tifffile(data, name, error)
        raise unreadable(name, error) from error
    return np.moveaxis(values, -1, 0) if values.ndim == 3 else values


_PHOTOMETRIC, _BITS = 262, 258
"""Tags of a TIFF: what 0 means, and bits per sample."""


def _refuse_lost_bits(image: Image.Image, data: bytes) -> None:
    """Raise a ValueError for a file of which Pillow would drop frames or bits, or invert values."""
    if image.format == "PNG" and data[24] == 16 and data[25] != 0:
        raise ValueError("16 bits per colour, of which Pillow reads 8; use TIFF or .npy")
    if image.format == "TIFF":
        tags: Any = getattr(image, "tag_v2", {})
        bits = set(np.ravel(tags.get(_BITS, 8)).tolist())
        is_grey = image.mode[0] in "IF"
        if getattr(image, "n_frames", 1) > 1 or not (bits == {8} or is_grey):
            raise ValueError("several frames, or bits that Pillow does not read")
        if tags.get(_PHOTOMETRIC) == 0:
            raise ValueError("0 is white")


def _by_tifffile(data: bytes, name: str, error: Exception) -> np.ndarray:
    """Return the array of a TIFF with bands or numbers that Pillow does not read."""
    try:
        from tifffile import TiffFile
    except ModuleNotFoundError:
        raise ImageError(
            f"Cannot read '{name}' ({reason_of(error)}).",
            "Expected an intact file. Many bands, and more than 8 bits of a colour, need tifffile.",
            "Run: pip install 'semlens[tiff]'",
        ) from error
    try:
        with TiffFile(io.BytesIO(data)) as file:
            series = file.series[0]
            values, axes = series.asarray(), series.axes
    except Exception as damage:  # the reader raises many types for damaged bytes
        raise unreadable(name, damage) from damage
    return np.moveaxis(values, -1, 0) if axes.endswith("S") and values.ndim == 3 else values
