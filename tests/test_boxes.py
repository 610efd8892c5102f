"""Heatmaps and boxes against torch's up-sampling, torchvision's blur and a plain threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur

from semlens.relevance.heatmap_boxes import (
    bounding_boxes,
    kernel_size,
    smoothing_matrix,
    upsample_and_blur,
)


def slow_heat(maps, height, width, blur):
    """The paper's recipe step by step (H.1), in float64."""
    maps = maps.double().clamp(min=0)[:, None]
    large = functional.interpolate(maps, (height, width), mode="bilinear", align_corners=False)
    kernel = [kernel_size(blur, width), kernel_size(blur, height)]
    return gaussian_blur(large, kernel)[:, 0]


def slow_box(heat, threshold):
    rows, columns = np.nonzero(heat > threshold * heat.max())
    if heat.max() <= 0:
        return [0, 0, heat.shape[1], heat.shape[0]]
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_the_kernel_is_odd_and_that_of_the_paper_at_224():
    assert kernel_size(51 / 224, 224) == 51
    assert kernel_size(51 / 224, 448) == 101  # 102 is even
    for share in (0.0, 0.01, 51 / 224, 0.5, 1.0):
        for size in (1, 2, 3, 7, 32, 224, 225, 518):
            kernel = kernel_size(share, size)
            assert kernel % 2 == 1
            assert abs(kernel - max(1, share * size)) <= 1


CASES = [  # map, input, blur
    ((7, 7), (224, 224), 51 / 224),
    ((14, 14), (224, 224), 51 / 224),
    ((5, 9), (60, 100), 0.2),
    ((9, 5), (33, 70), 0.11),
    ((1, 1), (32, 32), 0.3),
    ((1, 6), (20, 48), 0.25),
    ((40, 40), (24, 24), 0.25),
    ((8, 8), (8, 8), 0.0),
    ((4, 4), (16, 16), 1.0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("cells", "size", "blur"), CASES)
def test_heat_and_box_are_those_of_the_slow_recipe(cells, size, blur):
    maps = torch.randn(2, *cells, generator=torch.Generator().manual_seed(0))
    heat = upsample_and_blur(maps, *size, blur)
    slow = slow_heat(maps, *size, blur)
    assert heat.shape == (2, *size)
    torch.testing.assert_close(heat.double(), slow, atol=1e-5, rtol=1e-4)
    for threshold in (0.01, 0.3, 0.9):
        got = bounding_boxes(heat, threshold).tolist()
        assert got == [slow_box(one, threshold) for one in heat.numpy()]
        for box, expected in zip(got, (slow_box(s.numpy(), threshold) for s in slow), strict=True):
            assert np.abs(np.subtract(box, expected)).max() <= 1  # a rounding at the very edge


def test_one_bright_cell_gives_a_box_around_it():
    maps = torch.zeros(1, 7, 7)
    maps[0, 2, 5] = 3
    left, top, right, bottom = bounding_boxes(upsample_and_blur(maps, 224, 224, 51 / 224), 0.01)[
        0
    ].tolist()
    assert left < 160 < 192 <= right
    assert top < 64 < 96 < bottom
    assert right - left < 160 and bottom - top < 160
    narrow = bounding_boxes(upsample_and_blur(maps, 224, 224, 0.0), 0.5)[0].tolist()
    assert narrow == [160, 64, 192, 96]


def test_a_map_without_a_positive_value_gives_the_whole_input():
    maps = torch.stack([torch.zeros(3, 4), torch.full((3, 4), -2.0), torch.eye(3, 4)])
    heat = upsample_and_blur(maps, 30, 40, 0.1)
    for threshold in (0.0, 0.01, 0.5):
        got = bounding_boxes(heat, threshold).tolist()
        assert got[:2] == [[0, 0, 40, 30]] * 2
    assert bounding_boxes(heat, 0.5)[2].tolist() != [0, 0, 40, 30]
    assert bounding_boxes(torch.full((1, 5, 5), 1e-45), 0.01).tolist() == [[0, 0, 5, 5]]


def test_a_threshold_of_zero_keeps_what_is_positive():
    heat = torch.zeros(1, 6, 8)
    heat[0, 2, 3] = 1e-6
    heat[0, 4, 5] = 1
    assert bounding_boxes(heat, 0.0).tolist() == [[3, 2, 6, 5]]
    assert bounding_boxes(heat, 0.01).tolist() == [[5, 4, 6, 5]]


def test_smoothing_keeps_constants_and_is_symmetric():
    for cells, size, kernel in ((7, 224, 51), (3, 20, 50), (1, 9, 3), (5, 4, 9)):
        matrix = smoothing_matrix(cells, size, kernel)
        assert matrix.shape == (size, cells)
        torch.testing.assert_close(matrix.sum(1), torch.ones(size))
        torch.testing.assert_close(matrix, matrix.flip(0, 1))
