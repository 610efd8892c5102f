"""The mark: masks, ways to cut it out, and the choice among them, against planted squares."""

from __future__ import annotations

import numpy as np
import pytest

from semlens.lenses.correct.mark import (
    MaskTrial,
    _cleanest,
    diverse,
    own_colours,
    relevance_masks,
    resized,
)

RED, KEYS = (230, 20, 20), (250, 250, 250)


def square(colour, background, number, side=10):
    """A noisy picture of 40 x 40 with a square, and where the square is."""
    draw = np.random.default_rng(number)
    picture = np.empty((40, 40, 3), np.int64)
    picture[:] = background
    truth = np.zeros((40, 40), bool)
    if colour is not None:
        x, y = draw.integers(5, 35 - side, 2)
        truth[y : y + side, x : x + side] = True
        picture[truth] = colour
    picture += draw.integers(-6, 7, picture.shape)
    return picture.clip(0, 255).astype(np.uint8), truth


def core_of(truth):
    """Where components respond most: in the middle of the square, and beside it."""
    core = np.zeros(truth.shape, np.float32)
    y, x = (int(axis.mean()) for axis in np.nonzero(truth))
    core[y - 3 : y + 7, x - 3 : x + 7] = 1
    return core


def test_own_colours_leave_out_the_surroundings():
    pairs = [square(RED, KEYS, number) for number in range(8)]
    pictures = [picture for picture, _ in pairs]
    cores = [core_of(truth) for _, truth in pairs]
    wide = [np.zeros((40, 40), np.float32) for _ in pairs]
    for mask, (_, truth) in zip(wide, pairs, strict=True):
        y, x = (int(axis.mean()) for axis in np.nonzero(truth))
        mask[max(y - 12, 0) : y + 12, max(x - 12, 0) : x + 12] = 1
    # images without the mark look different from those with it: the keys are known from outside
    plain = [square(None, (40, 80, 200), 100 + number)[0] for number in range(5)]
    for mask, (_, truth) in zip(own_colours(pictures, cores, wide, plain), pairs, strict=True):
        assert mask[truth].mean() > 0.9
        assert mask[~truth].mean() < 0.05
    # what images without the mark have is not its own, either
    red = [square(None, RED, 100 + number)[0] for number in range(5)]
    assert max(m.mean() for m in own_colours(pictures, cores, wide, red)) < 0.05


def test_own_colours_against_a_plain_loop():
    from scipy.ndimage import gaussian_filter

    def histogram(picture, mask):
        counts = np.zeros((16, 16, 16))
        for y in range(40):
            for x in range(40):
                r, g, b = (int(value) // 16 for value in picture[y, x])
                counts[r, g, b] += mask[y, x]
        counts = gaussian_filter(counts, 1.0, mode="nearest")
        return counts / counts.sum()

    draw = np.random.default_rng(0)
    pictures = [draw.integers(0, 256, (40, 40, 3)).astype(np.uint8) for _ in range(3)]
    plain = [draw.integers(0, 256, (40, 40, 3)).astype(np.uint8)]
    core, wide = draw.random((2, 3, 40, 40)).astype(np.float32)
    found = own_colours(pictures, list(core), list(wide), plain)
    inside = np.median([histogram(*pair) for pair in zip(pictures, core, strict=True)], 0)
    outside = np.mean([histogram(*pair) for pair in zip(pictures, 1 - wide, strict=True)], 0)
    without = histogram(plain[0], wide[0])
    for y, x in draw.integers(0, 40, (50, 2)).tolist():
        r, g, b = (int(value) // 16 for value in pictures[1][y, x])
        share = max(0.0, 1 - max(outside[r, g, b], without[r, g, b]) / inside[r, g, b])
        weight = min(max((share - 0.25) / 0.5, 0), 1)  # the window is one pixel at this size
        assert found[1][y, x] == pytest.approx(wide[1][y, x] * weight, abs=1e-4)


def test_of_nearly_equal_ways_the_cleanest_is_used():
    def chosen(*pairs, images=72):
        return _cleanest([MaskTrial("", *pair) for pair in pairs], images)

    assert chosen((0.92, 0.29), (0.61, 0.04)) == 1  # .63 and .57, with an error of .06
    assert chosen((0.92, 0.29), (0.61, 0.04), images=10_000) == 0
    assert chosen((0.3, 0.0), (0.9, 0.2)) == 1
    assert chosen((0.5, float("nan")), (0.4, float("nan"))) == 0
    assert chosen() == 0


def test_an_object_that_few_images_show_has_no_colours_of_its_own():
    pairs = [square(RED, (90, 90, 90), number) for number in range(7)]
    pictures = [picture.copy() for picture, _ in pairs]
    cores = [core_of(truth) for _, truth in pairs]
    wide = [np.ones((40, 40), np.float32) for _ in pairs]
    for mask in wide:
        mask[:, :4] = 0  # the background is known from outside
    for picture, core in zip(pictures[:3], cores[:3], strict=True):
        picture[:3] = KEYS  # on three of seven, white keys, inside the masks
        core[:3] = 1
        picture[:, :4] = (90, 90, 90)
    masks = own_colours(pictures, cores, wide, [])
    assert all(mask[:2].max() < 0.05 for mask in masks[:3])
    assert all(mask[t].mean() > 0.9 for mask, (_, t) in zip(masks[3:], pairs[3:], strict=True))
    assert all(mask[~t].mean() < 0.05 for mask, (_, t) in zip(masks[3:], pairs[3:], strict=True))


def test_cut_outs_are_taken_from_images_that_differ():
    white = [square(None, KEYS, number)[0] for number in range(6)]
    others = [square(None, colour, 9)[0] for colour in ((20, 20, 200), (20, 150, 20))]
    assert diverse([*white, *others], 3) == [0, 6, 7]
    assert diverse([*white, *others], 2) == [0, 6]
    assert diverse(white, 4) == [0, 1, 2, 3]  # there is nothing else
    assert diverse(white[:2], 4) == [0, 1]


def test_relevance_masks_are_sharper_with_less_blur():
    heat = np.zeros((48, 48), np.float32)
    heat[20:28, 20:28] = 1
    heat[0, 0] = -5  # negative relevance is left out
    (wide,) = relevance_masks([heat], 41 / 224, 0.25, 0.75)
    (tight,) = relevance_masks([heat], 11 / 224, 0.25, 0.75)
    assert wide.max() == tight.max() == 1
    assert tight.sum() < wide.sum()
    assert tight[24, 24] == 1 and tight[5, 5] == 0
    (nothing,) = relevance_masks([np.zeros((8, 8), np.float32)], 0.1, 0.25, 0.75)
    assert not nothing.any()


def test_masks_are_resampled_to_a_picture():
    mask = np.eye(8, dtype=np.float32)
    assert resized(mask, (8, 8, 3)) is mask
    assert resized(mask, (16, 4, 3)).shape == (16, 4)
