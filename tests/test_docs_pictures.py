"""The pictures of the documentation show something: none is flat, no crop in them is blank."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import UInt8
from PIL import Image

IMAGES = Path(__file__).resolve().parents[1] / "docs/images"
PICTURES = sorted(path for path in IMAGES.rglob("*") if path.suffix in (".png", ".webp", ".jpg"))
DESCRIPTION = 0x010E
"""The EXIF tag in which ``docs/screenshots.py`` keeps the boxes of the pictures in a screenshot."""
SMALL = 12
"""Side in pixels of boxes that are too small to tell."""


def flat_share(pixels: UInt8[np.ndarray, "h w 3"]) -> float:
    """Return the share of the most frequent colour; levels of 8 are one, as WebP changes them."""
    levels = (pixels >> 3).astype(np.int64)
    codes = (levels[..., 0] << 10) | (levels[..., 1] << 5) | levels[..., 2]
    return float(np.bincount(codes.ravel()).max() / codes.size)


def one_colour(pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Return whether nearly all pixels have the median colour, within what WebP changes."""
    apart = np.abs(pixels - np.median(pixels, axis=(0, 1)))
    return bool((apart <= 12).all(2).mean() > 0.97)


def blank_crops(picture: Image.Image) -> tuple[int, list[tuple[int, int, int, int]]]:
    """Return the number of boxes of pictures in a screenshot, and those that are one colour."""
    boxes = json.loads(picture.getexif()[DESCRIPTION])
    whole = (0, 0, *picture.size)
    pixels = np.asarray(picture.convert("RGB"))
    seen, blank = 0, []
    for box in boxes:
        left, top = (max(a, b) for a, b in zip(box[:2], whole[:2], strict=True))
        right, bottom = (min(a, b) for a, b in zip(box[2:], whole[2:], strict=True))
        if right - left < SMALL or bottom - top < SMALL:
            continue  # outside the part that is shown
        seen += 1
        # without the frame that a crop has on the map
        x, y = (right - left) // 6, (bottom - top) // 6
        if one_colour(pixels[top + y : bottom - y, left + x : right - x]):
            blank.append((left, top, right, bottom))
    return seen, blank


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_not_of_one_colour(path: Path) -> None:
    with Image.open(path) as picture:
        assert flat_share(np.asarray(picture.convert("RGB"))) < 0.95


@pytest.mark.parametrize("path", sorted(IMAGES.glob("web/*.webp")), ids=lambda path: path.name)
def test_every_crop_of_a_screenshot_is_there(path: Path) -> None:
    with Image.open(path) as picture:
        if DESCRIPTION not in picture.getexif():  # of databases that the demo does not have
            assert path.stem.startswith("real-") or path.stem == "compare"
            return
        seen, blank = blank_crops(picture)
    assert seen > 0
    assert blank == []


def test_the_check_finds_what_is_blank(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 120, 3), np.uint8)
    noise[10:50, 70:110] = 250
    exif = Image.Exif()
    exif[DESCRIPTION] = json.dumps([[10, 10, 50, 50], [70, 10, 110, 50], [200, 0, 240, 40]])
    Image.fromarray(noise).save(tmp_path / "a.webp", exif=exif, quality=82)
    with Image.open(tmp_path / "a.webp") as picture:
        assert blank_crops(picture) == (2, [(70, 10, 110, 50)])
