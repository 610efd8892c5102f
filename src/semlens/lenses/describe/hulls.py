"""Outlines of the places of a map: smooth, apart from each other, without stray components."""

from __future__ import annotations

from collections.abc import Sequence

import contourpy
import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.ndimage import gaussian_filter

CELLS = 4
"""Cells of the grid per standard deviation of the kernel."""
LEVEL = 0.35
"""Density of an outline, relative to that of a component at the edge of its place."""
_EDGE = 0.1
"""Quantile of the density at a place's components that is its edge."""
_MARGIN = 3.0
_SMALLEST = 0.05
"""Islands with a smaller share of their place's area are left out."""

Ring = Float32[np.ndarray, "_ 2"]


def outlines(
    points: Float32[np.ndarray, "n 2"],
    place: Int64[np.ndarray, " n"],
    places: Sequence[int],
    bandwidth: float,
) -> list[list[Ring]]:
    """Return the rings around each place: outer borders and holes, for the even-odd rule.

    A place is where the density of its components (a Gaussian kernel) exceeds that of any other
    place by ``LEVEL`` of its density at the edge. So outlines never overlap, and stray components
    have none.

    Parameters
    ----------
    places
        The places that get an outline; all components count as others.
    bandwidth
        Standard deviation of the kernel.
    """
    if not len(points) or not places:
        return [[] for _ in places]
    low = points.min(0) - _MARGIN * bandwidth
    cell = bandwidth / CELLS
    at = np.rint((points - low) / cell).astype(np.int64)
    shape = tuple((at.max(0) + 1 + int(_MARGIN * CELLS)).tolist())
    numbers = np.unique(place)
    density = np.stack([_density(at[place == number], shape) for number in numbers])
    ranked = np.sort(density, axis=0) if len(numbers) > 1 else np.zeros((2, *shape))
    result: list[list[Ring]] = []
    for number in places:
        own = density[np.searchsorted(numbers, number)]
        others = np.where(own >= ranked[-1], ranked[-2], ranked[-1])
        if len(numbers) == 1:
            others = np.zeros(shape)
        inside = at[place == number]
        edge = float(np.quantile(own[inside[:, 0], inside[:, 1]], _EDGE))
        score = own / (LEVEL * edge + others)
        lines = contourpy.contour_generator(z=score.T).lines(1.0)
        rings = [np.asarray(line)[::2] for line in lines if len(line) >= 2 * CELLS]
        areas = [abs(_area(ring)) for ring in rings]
        result.append(
            [
                (ring * cell + low).astype(np.float32)
                for ring, area in zip(rings, areas, strict=True)
                if area >= _SMALLEST * sum(areas)
            ]
        )
    return result


def _density(at: Int64[np.ndarray, "m 2"], shape: tuple[int, ...]) -> Float64[np.ndarray, "w h"]:
    """Return the sum of kernels, each 1 at its component."""
    counts = np.zeros(shape)
    np.add.at(counts, (at[:, 0], at[:, 1]), 1)
    return gaussian_filter(counts, CELLS, mode="constant") * 2 * np.pi * CELLS**2


def _area(ring: Float64[np.ndarray, "v 2"]) -> float:
    x, y = ring.T
    return 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))
