"""The square in which a crop is shown."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semlens.draw.crop_window import OUTSIDE, box_within, cut_window, outline, window_around
from semlens.types import Box


@st.composite
def boxes(draw):
    width, height = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    return Box(left, top, right, bottom), (width, height)


@given(boxes())
def test_a_window_is_the_smallest_square_with_context_and_shows_the_whole_crop(drawn):
    box, (width, height) = drawn
    window = window_around(box, (width, height))
    side = window.right - window.left
    longest = max(box.right - box.left, box.bottom - box.top)
    assert side == window.bottom - window.top
    assert longest <= side <= max(round(1.25 * longest), longest)
    assert side <= max(width, height)
    assert window.left <= box.left < box.right <= window.right
    assert window.top <= box.top < box.bottom <= window.bottom
    for low, high, length in (
        (window.left, window.right, width),
        (window.top, window.bottom, height),
    ):
        assert (0 <= low and high <= length) if side < length else (low <= 0 and high >= length)


@given(boxes(), st.integers(1, 200))
def test_a_picture_of_a_window_has_every_pixel_in_its_place(drawn, side):
    box, size = drawn
    window = window_around(box, size)
    grid = np.indices((size[1], size[0]))
    pixels = np.stack([grid[1] % 256, grid[0] % 256, np.full(grid[0].shape, 7)], 2)
    image = Image.fromarray(pixels.astype(np.uint8))
    length = window.right - window.left
    picture = np.asarray(cut_window(image, window, length, Image.Resampling.NEAREST))
    inside = box_within(box, window, length)
    np.testing.assert_array_equal(
        picture[inside.top : inside.bottom, inside.left : inside.right],
        np.asarray(image.crop(box.as_tuple())),
    )
    outer = np.ones(picture.shape[:2], bool)
    whole = box_within(Box(0, 0, *size), window, length)
    outer[max(whole.top, 0) : whole.bottom, max(whole.left, 0) : whole.right] = False
    assert (picture[outer] == OUTSIDE).all()
    small = box_within(box, window, side)
    assert 0 <= small.left < small.right <= side + 1
    assert cut_window(image, window, side).size == (side, side)


def test_an_outline_is_on_the_box_and_nowhere_else():
    picture = Image.new("RGB", (40, 40), (90, 120, 30))
    box = Box(10, 5, 30, 35)
    drawn = np.asarray(outline(picture, box)).astype(int)
    changed = (drawn != np.asarray(picture)).any(2)
    assert changed[5, 10:30].all()
    assert changed[34, 10:30].all()
    assert changed[5:35, 10].all()
    assert changed[5:35, 29].all()
    assert not changed[8:32, 13:27].any()
    assert (drawn[5, 10:30] == 255).all()
    assert outline(picture, Box(0, 0, 40, 40)) is picture
