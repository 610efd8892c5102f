"""Masks of an artefact: how sharp, and which pixels inside are the artefact's own.

Relevance says where components respond, with what surrounds the artefact. The colours there say
more: those that the same images have elsewhere, or that images without the artefact have there, are
surroundings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8
from PIL import Image
from scipy import ndimage

from semlens.lenses.correct.cav import POWER
from semlens.relevance.heatmap_boxes import upsample_and_blur

BINS = 16
"""Bins of each colour channel."""
SPREAD = 1.0
"""Deviation of the Gaussian that smooths a histogram of colours, in bins."""
WINDOW = 0.03
"""Width of the window over which a colour's share is averaged, as a fraction of the image."""
LEAST, MOST = 0.25, 0.75
"""Mean excess of a colour up to which a pixel is surroundings, and from which it is the artefact's.
"""
APART = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
"""Least distance of the colours of two pictures, the largest first."""

Picture = UInt8[np.ndarray, "_h _w 3"]
Mask = Float32[np.ndarray, "_h _w"]


def relevance_masks(heat: Sequence[Mask], blur: float, faint: float, full: float) -> list[Mask]:
    """Blur heatmaps, raise them to a power as the paper does, and cut off their faint tails.

    Parameters
    ----------
    blur
        Width of the kernel, as a fraction of the input.
    faint, full
        Of a map's maximum: the mask is 0 below the first value and 1 above the second.
    """
    maps = torch.from_numpy(np.stack(heat))
    smooth = upsample_and_blur(maps, maps.shape[1], maps.shape[2], blur).numpy()
    smooth = smooth.clip(min=0) ** POWER
    largest = smooth.max((1, 2), keepdims=True)
    soft = smooth / np.where(largest > 0, largest, 1)
    return list(np.clip((soft - faint) / (full - faint), 0, 1).astype(np.float32))


def own_colours(
    pictures: Sequence[Picture],
    core: Sequence[Mask],
    wide: Sequence[Mask],
    plain: Sequence[Picture],
) -> list[Mask]:
    """Return the part of wide masks that has colours which are in the core of most images only.

    A colour's excess is the share of it, in the core, that is beyond what the same images have
    outside the wide mask, and beyond what images without the artefact have inside it: 1 - p(colour
    elsewhere) / p(colour in the core), at least 0. p in the core is the median over images, so that
    an object that few of them show has no excess. A pixel's weight rises from 0 to 1 with the mean
    excess around it.

    Parameters
    ----------
    pictures, core, wide
        Images with the artefact, where components respond most, and where they respond at all.
    plain
        Images of the same class without the artefact, of any size.
    """
    inside = np.median([_histogram(*pair) for pair in zip(pictures, core, strict=True)], axis=0)
    outside = [_histogram(p, 1 - mask) for p, mask in zip(pictures, wide, strict=True)]
    without = [
        _histogram(picture, resized(wide[number % len(wide)], picture.shape))
        for number, picture in enumerate(plain)
    ]
    elsewhere = np.mean(outside, axis=0)
    if without:
        elsewhere = np.maximum(elsewhere, np.mean(without, axis=0))
    excess = np.where(inside > 0, np.clip(1 - elsewhere / np.maximum(inside, 1e-12), 0, 1), 0)
    parts: list[Mask] = []
    for picture, mask in zip(pictures, wide, strict=True):
        share = excess[tuple(np.moveaxis(_binned(picture), -1, 0))]
        mean = ndimage.uniform_filter(share, max(1, round(WINDOW * max(mask.shape))))
        weight = np.clip((mean - LEAST) / (MOST - LEAST), 0, 1)
        parts.append((mask * weight).astype(np.float32))
    return parts


def resized(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Resample a mask to the height and width of a picture."""
    if mask.shape == shape[:2]:
        return mask
    size = shape[1], shape[0]
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR), np.float32)


def _binned(picture: Picture) -> np.ndarray:
    return picture.astype(np.int64) * BINS // 256


def _histogram(picture: Picture, mask: Mask) -> Float64[np.ndarray, "b b b"]:
    """Return the distribution of a picture's colours, weighted by a mask."""
    counts = np.zeros((BINS,) * 3)
    np.add.at(counts, tuple(_binned(picture).reshape(-1, 3).T), mask.ravel())
    smooth = ndimage.gaussian_filter(counts, SPREAD, mode="nearest")
    return smooth / max(smooth.sum(), 1e-12)


def diverse(pictures: Sequence[Picture], count: int) -> list[int]:
    """Return the first pictures that differ in their colours, so that they show different things.

    Two differ by the total variation distance of their colours. Of the steps of :data:`APART`, the
    largest is used at which ``count`` pictures are left.
    """
    everywhere = [np.ones(picture.shape[:2], np.float32) for picture in pictures]
    colours = [_histogram(*pair) for pair in zip(pictures, everywhere, strict=True)]
    kept: list[int] = []
    for apart in APART:
        kept = []
        for number, one in enumerate(colours):
            if all(1 - np.minimum(one, colours[other]).sum() >= apart for other in kept):
                kept.append(number)
        if len(kept) >= count:
            break
    return kept[:count]
