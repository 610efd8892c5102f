"""How arrays are drawn: declared, since numbers have no colours of their own."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw

from semlens.data.array_picture import LANE, ArrayPicture, picture_size, pixels_per_value
from semlens.errors import DataError, ImageError, reason_of, shortened
from semlens.regular_files import is_file, user_path

RENDERINGS = (
    "plot[@LOW,HIGH] of a signal, bands:R,G,B or bands:B, each with [@LOW,HIGH], "
    "window:LEVEL,WIDTH, window (that of a DICOM file), or FILE.py:FUNCTION"
)
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_PAIR = rf"(?P<a>{_NUMBER}),(?P<b>{_NUMBER})"
_FORM = re.compile(rf"(?P<kind>plot|bands:(?P<bands>\d+(?:,\d+,\d+)?))(?:@{_PAIR})?")
_WINDOW = re.compile(rf"window:{_PAIR}")
_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)", re.DOTALL)
_INK, _PAPER, _GRID = (20, 60, 120), (255, 255, 255), (225, 225, 225)

Draw = Callable[[np.ndarray], Any]
"""From an array [c ...] to its picture uint8[h w 3]; of a volume uint8[d h w 3]."""


@dataclass(frozen=True)
class Rendering:
    """From an array to its picture.

    Digests of samples are taken over the numbers and the picture, so data that are drawn in another
    way are other data.

    Parameters
    ----------
    axes
        Axes of arrays besides the channels: 1 for signals, 2 for images, 3 for volumes.
    text
        What is declared; empty for what follows from the numbers and the file.
    bands
        Channels that are shown as red, green and blue, or one of them as grey.
    limits
        Values of black and of white. None: the range of the integer type; of a plot, each
        channel's own range; of ``window``, what the file says.
    function
        The user's, in place of these.
    """

    axes: int
    text: str = ""
    bands: tuple[int, ...] | None = None
    limits: tuple[float, float] | None = None
    function: Draw | None = field(default=None, compare=False)

    @classmethod
    def parse(cls, text: str | Draw, axes: int, *, run_files: bool = True) -> Rendering:
        """Read a declaration; see :data:`RENDERINGS`.

        Parameters
        ----------
        text
            A text, or a function in Python.
        run_files
            Whether ``FILE.py:FUNCTION`` may be executed.

        Raises
        ------
        DataError
            If it has another form, or its file or function is missing, fails or may not be run.
        """
        if not isinstance(text, str):
            name = getattr(text, "__qualname__", type(text).__name__)
            return cls(axes, f"python:{name}", function=text)
        if text == "":
            return cls(axes)
        if function := _FUNCTION.fullmatch(text):
            path = user_path(function["file"])
            return cls._of_file(text, path, function["name"], axes, run_files)
        if (axes == 1) != text.startswith("plot"):
            what = {1: "signals", 2: "images", 3: "volumes"}[axes]
            raise DataError(
                f"'{shortened(text)}' is declared for {what}.",
                f"Expected {RENDERINGS}.",
                "Use plot or FILE.py:FUNCTION for signals, the others for images and volumes.",
            )
        if text == "window":
            return cls(axes, text, (0,))
        if window := _WINDOW.fullmatch(text):
            level, width = float(window["a"]), float(window["b"])
            return cls(axes, text, (0,), _checked(text, level - width / 2, level + width / 2))
        if form := _FORM.fullmatch(text):
            limits = form["a"] and _checked(text, float(form["a"]), float(form["b"]))
            bands = tuple(map(int, form["bands"].split(","))) if form["bands"] else None
            return cls(axes, text, bands, limits or None)
        raise DataError(
            f"'{shortened(text)}' names no rendering.",
            f"Expected {RENDERINGS}.",
            "Write for example bands:3,2,1@0,3000 for an image of many bands, or window:40,400.",
        )

    @classmethod
    def _of_file(cls, text: str, path: Path, name: str, axes: int, run_files: bool) -> Rendering:
        expected = "Expected FILE.py:FUNCTION, from an array [c ...] to uint8[h w 3]."
        if not run_files:
            raise DataError(
                f"The rendering '{shortened(text)}' is Python code, which only the database names.",
                "A database never runs code.",
                "Pass the data with its rendering again as images (--data), if you trust the file.",
            )
        if not is_file(path):
            raise DataError(f"'{shortened(str(path))}' is not a file.", expected, "Check the path.")
        spec = importlib.util.spec_from_file_location(f"semlens_rendering_{path.stem}", path)
        function: Any = None
        try:
            if spec is not None and spec.loader is not None:
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                function = getattr(module, name, None)
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            raise DataError(
                f"'{path}' fails ({error!r}).", expected, f"Run 'python {path}' and fix the error."
            ) from error
        if not callable(function):
            raise DataError(f"'{path}' has no function '{name}'.", expected, "Check the name.")
        return cls(axes, f"{path.resolve()}:{name}", function=function)

    def draw(
        self,
        whole: np.ndarray,
        name: str,
        window: Callable[[], Float64[np.ndarray, ...]] | None = None,
    ) -> ArrayPicture:
        """Return an array [c ...] with its picture.

        Parameters
        ----------
        name
            Names it in errors.
        window
            Returns the array in the window that its file says, as values from 0 to 1.

        Raises
        ------
        ImageError
            If the rendering does not fit the array.
        """
        if self.function is not None:
            return ArrayPicture(self._by_function(self.function, whole, name), whole)
        if self.axes == 1:
            return ArrayPicture(plot(whole, self.limits), whole)
        if window is not None and self.text in ("", "window"):
            shares = window()
        elif self.text == "window":
            raise _error(
                name, whole, "the window of its file, which has none", "Use window:LEVEL,WIDTH."
            )
        else:
            shares = self._shares(whole, name)
        grey = np.rint(255 * np.nan_to_num(shares).clip(0, 1)).astype(np.uint8)
        grey = np.repeat(grey, 3, 0) if len(grey) == 1 else grey
        return ArrayPicture(np.moveaxis(grey, 0, -1).reshape(-1, grey.shape[-1], 3), whole)

    def _shares(self, whole: np.ndarray, name: str) -> Float64[np.ndarray, ...]:
        """Return one or three bands as shares of the range from black to white."""
        bands = self.bands
        if bands is None:
            if len(whole) not in (1, 3):
                raise _error(name, whole, "no declared bands", "Declare bands:R,G,B.")
            bands = tuple(range(len(whole)))
        if max(bands) >= len(whole):
            raise _error(name, whole, self.text, f"Name bands from 0 to {len(whole) - 1}.")
        limits = self.limits
        if limits is None:
            if whole.dtype.kind != "u":
                span = f", with values from {np.nanmin(whole):.4g} to {np.nanmax(whole):.4g}"
                remedy = "Declare the values of black and of white: bands:0@LOW,HIGH or window."
                raise _error(name, whole, f"no declared range{span}", remedy)
            limits = (0.0, float(np.iinfo(whole.dtype).max))
        low, high = limits
        return (whole[list(bands)].astype(np.float64) - low) / (high - low)

    def _by_function(self, function: Draw, whole: np.ndarray, name: str) -> np.ndarray:
        try:
            made: Any = np.asarray(function(whole.copy()))
        except Exception as error:  # the user's function may raise anything
            raise ImageError(
                f"The rendering '{self.text}' fails on '{name}' ({reason_of(error)}).",
                "Expected a function from an array [c ...] to uint8[h w 3].",
                "Correct the function.",
            ) from error
        width, height = picture_size(whole.shape)
        pixels = made.reshape(-1, *made.shape[2:]) if made.ndim == 4 else made
        if made.dtype != np.uint8 or pixels.shape != (height, width, 3):
            raise ImageError(
                f"The rendering '{self.text}' makes {made.dtype}{list(made.shape)} of '{name}', "
                f"which is {list(whole.shape)}.",
                f"Expected uint8[{height}, {width}, 3].",
                "Return red, green and blue at each position of the array.",
            )
        return pixels


def plot(
    whole: np.ndarray, limits: tuple[float, float] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Draw a signal [c t]: a lane per channel, one below the other.

    Parameters
    ----------
    limits
        Values at the lower and the upper edge of a lane; by default each channel's own range.
    """
    width, height = picture_size(whole.shape)
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw, step = ImageDraw.Draw(canvas), pixels_per_value(whole.shape)
    for lane, values in enumerate(whole.astype(np.float64)):
        finite = np.nan_to_num(values)
        low, high = limits or (float(finite.min()), float(finite.max()))
        share = ((finite - low) / (high - low if high > low else 1)).clip(0, 1)
        top, margin = lane * LANE, 4
        y = top + LANE - 1 - margin - share * (LANE - 1 - 2 * margin)
        draw.line((0, top + LANE - 1, width, top + LANE - 1), fill=_GRID)
        x = (np.arange(len(values)) + 0.5) * step
        draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=_INK, width=1)
    return np.asarray(canvas)


def _checked(text: str, low: float, high: float) -> tuple[float, float]:
    if low >= high:
        raise DataError(
            f"The rendering '{shortened(text)}' goes from {low:g} to {high:g}.",
            "Expected a value of black below that of white.",
            "Correct the numbers: window:LEVEL,WIDTH needs a positive width.",
        )
    return low, high


def _error(name: str, whole: np.ndarray, asked: str, remedy: str) -> ImageError:
    return ImageError(
        f"'{name}' is an array {whole.dtype}{list(whole.shape)}, to be drawn with {asked}.",
        f"Expected a rendering that fits it: {RENDERINGS}.",
        remedy,
    )
