"""Crops as they are shown: in squares with some of their surroundings, and outlined."""

from __future__ import annotations

from PIL import Image, ImageDraw

from semlens.types import Box

CONTEXT = 1.25
"""Side of a window over the longer side of its box, if the image is as large."""
OUTSIDE = (128, 128, 128)
"""Colour of what is outside the image."""


def window_around(box: Box, size: tuple[int, int]) -> Box:
    """Return the square of an image in which a box is shown.

    It is within the image along each side that is long enough, and centred on the image along a
    shorter one.

    Parameters
    ----------
    size
        Width and height of the image.
    """
    longest = max(box.right - box.left, box.bottom - box.top)
    side = max(longest, min(round(CONTEXT * longest), max(size)))
    left = _start((box.left, box.right), side, size[0])
    top = _start((box.top, box.bottom), side, size[1])
    return Box(left, top, left + side, top + side)


def _start(span: tuple[int, int], side: int, length: int) -> int:
    if side >= length:
        return (length - side) // 2
    return min(max((sum(span) - side) // 2, 0), length - side)


def cut_window(
    image: Image.Image,
    window: Box,
    side: int,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """Cut a square window out of an image, as an RGB picture of ``side`` pixels."""
    left, top = max(window.left, 0), max(window.top, 0)
    right, bottom = min(window.right, image.width), min(window.bottom, image.height)
    inside = box_within(Box(left, top, right, bottom), window, side)
    source = image if image.mode == "RGB" else image.convert("RGB")  # which copies all pixels
    piece = source.resize(_size(inside), resample, (left, top, right, bottom))
    if piece.size == (side, side):
        return piece
    picture = Image.new("RGB", (side, side), OUTSIDE)
    picture.paste(piece, (inside.left, inside.top))
    return picture


def box_within(box: Box, window: Box, side: int) -> Box:
    """Return a box of an image in the pixels of a picture of a square window."""
    scale = side / (window.right - window.left)
    left, right = (round((x - window.left) * scale) for x in (box.left, box.right))
    top, bottom = (round((y - window.top) * scale) for y in (box.top, box.bottom))
    return Box(left, top, max(right, left + 1), max(bottom, top + 1))


def outline(picture: Image.Image, box: Box, width: int = 1) -> Image.Image:
    """Draw a box as a white line beside a black one, which is visible on any picture.

    A box that is the whole picture is not drawn.
    """
    frame = (box.left, box.top, box.right - 1, box.bottom - 1)
    if frame == (0, 0, picture.width - 1, picture.height - 1):
        return picture
    result = picture.copy()
    draw = ImageDraw.Draw(result)
    draw.rectangle(frame, outline="black", width=2 * width)
    draw.rectangle(frame, outline="white", width=width)
    return result


def _size(box: Box) -> tuple[int, int]:
    return box.right - box.left, box.bottom - box.top
