"""DICOM images and series of slices: their numbers, and the window that a file says."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from semlens.data.array_picture import AXES
from semlens.data.images import read_file
from semlens.errors import DataError, ImageError, reason_of

SUFFIX = ".dcm"


def unreadable(name: str, error: Exception) -> ImageError:
    """Return the error for a damaged file, or one of another kind."""
    return ImageError(
        f"Cannot read '{name}' ({reason_of(error)}).",
        "Expected an intact file of numbers.",
        "Convert or remove the file; a build skips and lists it.",
    )


@dataclass(frozen=True)
class Dicom:
    """One DICOM image, or a series of slices.

    Parameters
    ----------
    values
        The numbers after the modality LUT, such as Hounsfield units: float32[c h w] or
        float32[1 d h w].
    window
        Returns them in the window that the file says (VOI LUT), or None if it says none; colours
        are values from 0 to 1.
    """

    values: np.ndarray
    window: Callable[[], np.ndarray] | None

    NEEDED: ClassVar[str] = "Run: pip install 'semlens[dicom]'"

    @classmethod
    def read(cls, files: Sequence[Path], axes: int, name: str) -> Dicom:
        """Read the files of a sample, in their order.

        Raises
        ------
        ImageError
            If one cannot be read, has no pixels, or slices differ in size.
        """
        slices = [_dataset(file, file.name) for file in files]
        try:
            parts = [cls._frames(one, axes) for one in slices]
        except ImageError:
            raise
        except Exception as error:  # readers raise many types for damaged or packed pixels
            raise unreadable(name, error) from error
        if len({part[0].shape for part in parts}) > 1:
            sizes = sorted({str(list(part[0].shape)) for part in parts})
            raise ImageError(
                f"The slices of '{name}' have the shapes {', '.join(sizes)}.",
                "Expected one size in a series.",
                "Move other images, such as a localiser, out of the folder.",
            )
        if axes == 2 or len(parts) == 1:
            values, shares = parts[0]
        else:
            values = np.concatenate([values for values, _ in parts], 1)
            known = [shares for _, shares in parts if shares is not None]
            shares = np.concatenate(known, 1) if len(known) == len(parts) else None
        return cls(values, None if shares is None else lambda: shares)

    @staticmethod
    def _frames(one: Any, axes: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the numbers [c h w] or [1 d h w], and the same in the file's window."""
        from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

        stored = one.pixel_array
        colours = int(one.get("SamplesPerPixel", 1))
        if colours > 1:
            values = np.moveaxis(stored, -1, 0).astype(np.float32)
            return values, values / (2.0 ** int(one.BitsStored) - 1)
        if one.get("PhotometricInterpretation") == "PALETTE COLOR":
            raise ImageError(
                "A DICOM file has the colours of a palette.",
                "Expected grey or colours, whose numbers mean something.",
                "Convert it to RGB, or remove it.",
            )
        values = apply_modality_lut(stored, one).astype(np.float32)
        shares = None
        if "WindowCenter" in one or "VOILUTSequence" in one:
            low, high = _output_range(one)
            shares = (apply_voi_lut(values, one).astype(np.float64) - low) / (high - low)
            if one.get("PhotometricInterpretation") == "MONOCHROME1":  # the smallest is white
                shares = 1 - shares
        if axes == 3 and values.ndim == 2:  # a slice
            values, shares = values[None], None if shares is None else shares[None]
        if values.ndim != axes:
            raise ImageError(
                f"A DICOM file has pixels {list(stored.shape)}.",
                f"Expected {AXES[axes]}.",
                "Use volumes: for files of several frames, arrays: for single images.",
            )
        return values[None], None if shares is None else shares[None]


def _output_range(one: Any) -> tuple[float, float]:
    """Return the values of black and white after the VOI LUT (PS3.3 C.11.2, as pydicom maps)."""
    if "VOILUTSequence" in one:
        return 0.0, 2.0 ** int(one.VOILUTSequence[0].LUTDescriptor[2]) - 1
    bits = int(one.BitsStored)
    signed = int(one.get("PixelRepresentation", 0)) == 1
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    if one.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** int(one.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    slope, intercept = float(one.get("RescaleSlope", 1)), float(one.get("RescaleIntercept", 0))
    return low * slope + intercept, high * slope + intercept


def _dataset(path: Path, name: str, *, header: bool = False) -> Any:
    try:
        from pydicom import dcmread
    except ModuleNotFoundError as error:
        raise DataError(
            f"'{name}' needs the package 'pydicom'.", "It is not installed.", Dicom.NEEDED
        ) from error
    try:
        return dcmread(io.BytesIO(read_file(path, name)), stop_before_pixels=header)
    except ImageError:
        raise
    except Exception as error:  # the reader raises many types for damaged bytes
        raise unreadable(name, error) from error


def series_of(root: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the files of each volume by its name: DICOM slices of a series in a folder are one.

    Slices are sorted along the normal of their plane, else by their instance numbers.
    """
    volumes: dict[str, list[str]] = {}
    found: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for name in names:
        if not name.lower().endswith(SUFFIX):
            volumes[name] = [name]
            continue
        one = _dataset(root / name, name, header=True)
        folder = name.rpartition("/")[0]
        place = _place(one)
        key = (folder, str(one.get("SeriesInstanceUID", name)))
        found.setdefault(key, []).append((place, name))
    for slices in found.values():
        ordered = [name for _, name in sorted(slices)]
        volumes[ordered[0]] = ordered
    return dict(sorted(volumes.items()))


def _place(one: Any) -> float:
    position, directions = one.get("ImagePositionPatient"), one.get("ImageOrientationPatient")
    if position is None or directions is None:
        return float(one.get("InstanceNumber") or 0)
    rows, columns = np.array(directions[:3], float), np.array(directions[3:], float)
    return float(np.cross(rows, columns) @ np.array(position, float))
