"""Masks of concepts in folders: an indexed PNG per image, or a folder per concept."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from PIL import Image

from semlens.documents import read_json
from semlens.errors import DataError, shortened
from semlens.regular_files import is_file, is_folder, read_bytes, read_text, user_path

NAMES = ("classes.txt", "classes.json")
"""Files that name the indices of a folder of indexed PNGs."""
VOID = 255
"""Index of pixels that nobody has labelled, unless it has a name (as in Pascal VOC)."""
BACKGROUND = 0
"""Index of pixels of no concept, unless it has a name."""

Labels = tuple[Int64[np.ndarray, " k"], Bool[np.ndarray, "k h w"], Bool[np.ndarray, "h w"]]
"""Concepts that are present, where each one is, and which pixels are labelled at all."""


class MaskFolder(ABC):
    """Masks of the images of a data set.

    Parameters
    ----------
    root
        The folder. The masks of an image have its id, with the ending ``.png``.
    names
        The concepts.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, list(names)

    @abstractmethod
    def covers(self, image: str) -> bool:
        """Whether an image has been labelled."""

    @abstractmethod
    def labels(
        self,
        image: str,
        size: tuple[int, int],
        rows: Float64[np.ndarray, " h"],
        columns: Float64[np.ndarray, " w"],
    ) -> Labels:
        """Return the labels of an image where some of its rows and columns cross.

        Parameters
        ----------
        image
            Id of the image.
        size
            Its width and height in pixels.
        rows, columns
            Places in pixels of the image; those outside of it get the label of its border.

        Raises
        ------
        DataError
            If a mask cannot be read, has another shape than the image, or has unknown indices.
        """


class IndexedMasks(MaskFolder):
    """One PNG per image, whose values are indices of concepts (Pascal VOC, ADE20K).

    Images without a PNG have not been labelled. Of the indices without a name, 0 is the
    background, and 255 is void: such pixels count neither for nor against a concept.
    """

    def __init__(self, root: Path, by_index: Mapping[int, str]) -> None:
        super().__init__(root, list(dict.fromkeys(by_index.values())))
        self._by_index = by_index
        size = max([VOID, *by_index]) + 1
        self._concept = np.full(size, -2)
        self._concept[[BACKGROUND, VOID]] = -1
        for index, name in by_index.items():
            self._concept[index] = self.names.index(name)

    def covers(self, image: str) -> bool:
        """Whether there is a PNG."""
        return is_file(self.root / mask_file(image))

    def labels(
        self, image: str, size: tuple[int, int], rows: np.ndarray, columns: np.ndarray
    ) -> Labels:
        """Return the concepts of the pixels' indices; see :class:`MaskFolder`."""
        path = self.root / mask_file(image)
        index = _at(_pixels(path), path, size, rows, columns)
        concept = np.where(
            index < len(self._concept), self._concept[np.minimum(index, len(self._concept) - 1)], -2
        )
        if (concept == -2).any():
            raise DataError(
                f"'{path}' has pixels of index {int(index[concept == -2][0])}, without a name.",
                f"Expected the indices of {len(self._by_index)} names, 0 or 255.",
                f"Complete {' or '.join(NAMES)}.",
            )
        present = np.unique(concept[concept >= 0])
        void = (index == VOID) & (VOID not in self._by_index)
        return present, concept == present[:, None, None], ~void


class ConceptFolders(MaskFolder):
    """A folder of binary PNGs per concept; an image without a PNG does not have the concept."""

    def covers(self, image: str) -> bool:
        """Whether the image has been labelled: always, since a concept may be absent."""
        return True

    def labels(
        self, image: str, size: tuple[int, int], rows: np.ndarray, columns: np.ndarray
    ) -> Labels:
        """Return the masks of the concepts that the image has; see :class:`MaskFolder`."""
        found: dict[int, np.ndarray] = {}
        for number, name in enumerate(self.names):
            path = self.root / name / mask_file(image)
            if is_file(path):
                pixels = _pixels(path)
                # 0 and 1, or grey levels, of which those of a smoothed border are cut at half
                found[number] = (
                    _at(pixels, path, size, rows, columns) > np.iinfo(pixels.dtype).max // 2
                    if pixels.max(initial=0) > 1
                    else _at(pixels, path, size, rows, columns) > 0
                )
        found = {number: mask for number, mask in found.items() if mask.any()}
        shape = len(rows), len(columns)
        inside = np.stack(list(found.values())) if found else np.zeros((0, *shape), bool)
        return np.array(list(found), np.int64), inside, np.ones(shape, bool)


def load_masks(folder: str | Path) -> MaskFolder:
    """Open a folder of masks.

    Parameters
    ----------
    folder
        With ``classes.txt`` or ``classes.json``: indexed PNGs. Line ``i`` of the text, from 0,
        names index ``i``, and an empty line no concept; the JSON is such a list, or maps indices
        to names. Otherwise, each sub-folder has the binary PNGs of the concept of its name.

    Raises
    ------
    DataError
        If there is no such folder, it has no masks, or its names cannot be read.
    """
    root = user_path(folder)
    if not is_folder(root):
        raise DataError(
            f"'{folder}' is not a folder.",
            "Expected a folder of masks: a folder per concept, or indexed PNGs and classes.txt.",
            "Check the path.",
        )
    file = next((root / name for name in NAMES if is_file(root / name)), None)
    if file is not None:
        return IndexedMasks(root, _names(file))
    concepts = sorted(
        entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not any(True for name in concepts for _ in (root / name).rglob("*.png")):
        raise DataError(
            f"'{folder}' has no masks.",
            "Expected a folder of PNGs per concept, or indexed PNGs and their names.",
            f"Name the concepts by folders, or add {' or '.join(NAMES)}.",
        )
    return ConceptFolders(root, concepts)


def _names(file: Path) -> dict[int, str]:
    """Read the name of each index."""
    try:
        entries: Any = read_text(file).split("\n") if file.suffix == ".txt" else read_json(file)
        pairs = entries.items() if isinstance(entries, dict) else enumerate(entries)
        names = {int(index): str(name).strip() for index, name in pairs if name}
        names = {index: name for index, name in names.items() if name}
    except (OSError, ValueError, TypeError) as error:
        raise _names_error(file, shortened(error)) from error
    if not names or min(names) < 0 or max(names) >= 2**16:
        raise _names_error(file, "it names no index from 0 to 65535")
    return names


def _names_error(file: Path, reason: str) -> DataError:
    return DataError(
        f"The names of the masks cannot be read from '{file}' ({reason}).",
        "Expected a name per line, or JSON: a list of names, or {index: name}.",
        "Correct the file.",
    )


def mask_file(image: str) -> Path:
    """Return the name of an image's mask, for its id."""
    return Path(image).with_suffix(".png")


def _pixels(path: Path) -> np.ndarray:
    """Read a PNG of one channel as unsigned integers [h w]."""
    try:
        with Image.open(io.BytesIO(read_bytes(path))) as image:
            if image.mode == "1":
                return np.asarray(image).astype(np.uint8)
            if image.mode in ("L", "P", "I", "I;16"):
                pixels = np.asarray(image)
                return pixels if pixels.dtype == np.uint8 else pixels.astype(np.uint16)
            found = f"it has the mode {image.mode}"
    except Exception as error:  # Pillow raises many types of errors for damaged bytes
        found = f"{type(error).__name__}"
    raise DataError(
        f"The mask '{path}' cannot be read ({found}).",
        "Expected an intact PNG with one channel: indices, or 0 and 255.",
        "Write it again as a grey or indexed PNG.",
    )


def _at(
    pixels: np.ndarray, path: Path, size: tuple[int, int], rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Return the values of a mask at places of its image, by nearest neighbour, [rows columns]."""
    (height, width), (image_width, image_height) = pixels.shape, size
    if abs(height * image_width - width * image_height) > max(image_width, image_height):
        raise DataError(
            f"The mask '{path}' has {width} x {height} pixels.",
            f"Expected the shape of its image, {image_width} x {image_height}.",
            "Write the mask for the upright image, before any crop.",
        )
    y = np.clip(np.floor(rows * height / image_height), 0, height - 1).astype(np.int64)
    x = np.clip(np.floor(columns * width / image_width), 0, width - 1).astype(np.int64)
    return pixels[np.ix_(y, x)].astype(np.int64)
