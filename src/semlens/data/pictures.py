"""One image as Python code has it: a picture, a path, encoded bytes, an array or a tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from semlens.data.images import decode, read_file, upright_rgb
from semlens.errors import ImageError
from semlens.regular_files import user_path
from semlens.types import Layout


@runtime_checkable
class ArrayLike(Protocol):
    """An array of NumPy or another library, or a tensor, which is not imported here."""

    @property
    def shape(self) -> Sequence[int]:
        """Length of each axis."""
        ...

    @property
    def dtype(self) -> Any:
        """Type of the numbers."""
        ...

    @property
    def ndim(self) -> int:
        """Number of axes."""
        ...


ImageLike = Image.Image | str | Path | bytes | ArrayLike
"""One image, for every function that takes one."""
Level = int | float | Sequence[int | float] | ArrayLike
ValueRange = tuple[Level, Level]
"""The values of black and of white: two numbers, or for each a number per channel."""

_CHANNELS = (1, 3, 4)
"""Grey, red-green-blue, and these with alpha."""
_STEP = 0.5 / 255
"""How far a value may lie beyond black or white, as a share of the range: it is rounded away."""


def is_picture(item: object) -> bool:
    """Whether an object is of a type that :func:`encoded_or_upright` reads."""
    return isinstance(item, Image.Image | bytes | str | Path | ArrayLike)


def listed_pictures(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    """Return one image, or several, as a list; an array of up to three axes is one."""
    several = images.ndim > 3 if isinstance(images, ArrayLike) else not is_picture(images)
    items: Any = images
    return list(items) if several else [items]


def encoded_or_upright(
    item: ImageLike, name: str = "", value_range: ValueRange | None = None, layout: Layout = "auto"
) -> bytes | Image.Image:
    """Return encoded bytes for a path or bytes, else the upright RGB image.

    Parameters
    ----------
    name
        Names the item in errors, if it is one of several.
    value_range, layout
        As for :func:`as_picture`.

    Raises
    ------
    ImageError
        If it cannot be read.
    """
    if isinstance(item, bytes):
        return item
    if isinstance(item, str | Path):
        return read_file(user_path(item))
    if isinstance(item, Image.Image):
        return upright_rgb(item, name or "image")
    return _from_array(item, name, value_range, layout)


def as_picture(
    image: ImageLike, value_range: ValueRange | None = None, layout: Layout = "auto"
) -> Image.Image:
    """Return one image as an upright RGB picture.

    Parameters
    ----------
    image
        A Pillow image, a path, encoded bytes, or an array or tensor: [h w], or [h w c] or [c h w]
        with one, three or four channels, of which the fourth is alpha.
    value_range
        The values of black and of white in an array: two numbers, or for each a number per
        channel. By default those of 8-bit integers; other numbers have no defined white.
    layout
        Where the channels of an array are, if both its first and its last axis may be.

    Raises
    ------
    ImageError
        If it cannot be read, or it is an array whose values or axes may mean several things.

    Examples
    --------
    >>> import numpy as np
    >>> as_picture(np.ones((3, 8, 6)), value_range=(0, 1)).size
    (6, 8)
    """
    content = encoded_or_upright(image, "", value_range, layout)
    if isinstance(content, bytes):
        return decode(content, "image" if isinstance(image, bytes) else str(image))
    return content


def may_be_one(images: object) -> bool:
    """Whether an array of several images may as well be one, with channels."""
    if not (isinstance(images, ArrayLike) and images.ndim == 3):
        return False
    return images.shape[0] in _CHANNELS or images.shape[2] in _CHANNELS


def described(item: Any) -> str:
    """Return the type of an object, and of an array its numbers and shape, for an error."""
    shape = getattr(item, "shape", None)
    if shape is None:
        return f"a {type(item).__name__}"
    number = getattr(item, "dtype", "?")
    return f"a {type(item).__name__} of {number} and shape {list(shape)}"


def _from_array(
    item: Any, name: str, value_range: ValueRange | None, layout: Layout
) -> Image.Image:
    values, noun = _as_numpy(item), f"Item {name}" if name else "The image"
    if values.dtype.kind not in "buif":
        raise ImageError(
            f"{noun} is {described(item)}.",
            "Expected a raw image of real numbers.",
            "Convert it to 8-bit integers.",
        )
    if (values.ndim != 2 or not values.size) and _channel_axis(item, values, noun, layout) == 0:
        values = np.moveaxis(values, 0, -1)
    if value_range is not None:
        values = _to_bytes(values, noun, value_range)
    elif values.dtype != np.uint8:
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        span = f", with values from {finite.min():.4g} to {finite.max():.4g}" if finite.size else ""
        raise ImageError(
            f"{noun} is {described(item)}{span}.",
            "Expected a raw image of 8-bit integers, or the values of black and white.",
            "Pass value_range=(black, white) to semlens.ImageSequence for a data set, or to "
            "semlens.as_picture for one image: (0, 1) after ToTensor; after Normalize(mean, std) "
            "the lists of (0 - mean) / std and of (1 - mean) / std.",
        )
    if values.shape[2:] == (1,):
        values = values[:, :, 0]
    return upright_rgb(Image.fromarray(np.ascontiguousarray(values)), name or "image")


def _as_numpy(item: Any) -> np.ndarray:
    """Return an array; a tensor's numbers in double precision, as NumPy lacks some of its types."""
    if not hasattr(item, "detach"):
        return np.asarray(item)
    tensor = item.detach().cpu()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()


def _channel_axis(item: Any, values: np.ndarray, noun: str, layout: Layout) -> int:
    """Return the axis of the channels: the only one that fits, or the one that ``layout`` names."""
    known = layout
    if layout == "auto" and isinstance(item, np.ndarray) and item.dtype == np.uint8:
        known = "channels_last" if item.shape[-1:] and item.shape[-1] in _CHANNELS else layout
    orders = {"channels_first": 0, "channels_last": 2} if values.ndim == 3 and values.size else {}
    fitting = [
        axis
        for order, axis in orders.items()
        if known in ("auto", order) and values.shape[axis] in _CHANNELS
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ImageError(
            f"{noun} is {described(item)}: its first or its last axis may be the channels.",
            "Expected to be told which.",
            "Pass layout='channels_first' or layout='channels_last' to semlens.ImageSequence or "
            "semlens.as_picture.",
        )
    raise ImageError(
        f"{noun} is {described(item)}.",
        f"Expected a raw image [h w], or {_FORMS[layout]} with 1, 3 or 4 channels.",
        "Pass single images without a batch axis, such as batch[0].",
    )


_FORMS = {
    "auto": "[h w c] or [c h w]",
    "channels_first": "[c h w]",
    "channels_last": "[h w c]",
}


def _to_bytes(values: np.ndarray, noun: str, value_range: ValueRange) -> np.ndarray:
    """Scale to 8 bits so that the declared black is 0 and the declared white is 255."""
    channels = values.shape[2] if values.ndim == 3 else 1
    black, white = _levels(value_range, channels)
    shape = (channels,) if values.ndim == 3 else ()
    black, white = black.reshape(shape), white.reshape(shape)
    shares = (values.astype(np.float64) - black) / (white - black)
    if not (shares.min() >= -_STEP and shares.max() <= 1 + _STEP):  # also if one is NaN
        raise ImageError(
            f"{noun} has values from {values.min():.4g} to {values.max():.4g}.",
            f"Expected values between black, {_listed(black)}, and white, {_listed(white)}.",
            "Correct value_range, or the image.",
        )
    return np.rint(255 * shares.clip(0, 1)).astype(np.uint8)


def _levels(value_range: Any, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of black and white by channel, float64[channels].

    Raises
    ------
    ImageError
        If they are not two different finite numbers, or as many for each channel.
    """
    black = white = np.full(channels, np.nan)
    try:
        black, white = (
            np.broadcast_to(np.asarray(level, np.float64), (channels,)) for level in value_range
        )
        valid = bool(np.isfinite([black, white]).all() and (black != white).all())
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ImageError(
            f"The value_range is {value_range!r}.",
            "Expected the values of black and of white, as two different numbers, or as two lists "
            f"of {channels} numbers, one per channel.",
            "Pass for example value_range=(0, 1).",
        )
    return black, white


def _listed(level: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in sorted({*level.ravel().tolist()}))
