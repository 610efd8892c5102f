"""Whether a component fits the masks of its own images better than those of others.

The images are put into a random order, and each map is paired with the mask ``s`` places further
on, for every ``s``. If a component has nothing to do with the concepts, these shifts are as good as
the right pairs, and the share of them that fit as well is a p-value: shifts are a group, so the
test is exact for any distribution (Hemerik and Goeman 2018). Shifts are sums of products, which the
fast Fourier transform has for all of them at once.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from scipy import sparse

from semlens.analysis.netdissect.overlap import CellCounts, iou_of
from semlens.progress import report_progress

BLOCK = 2**22
"""Complex numbers in a block of spectra; bounds the memory."""
MOST_ORDERS = 100
"""Random orders at most; bounds the time for few images and many components."""


def orders_for(components: int, images: int, rate: float) -> int:
    """Return how many random orders one detector among all components needs to be found.

    At most :data:`MOST_ORDERS`: then several detectors are needed to find them.
    """
    return min(MOST_ORDERS, int(np.ceil(components / (rate * (images - 1)))))


def shifted_p_values(
    counts: CellCounts, orders: int, seed: int = 0
) -> Float64[np.ndarray, " components"]:
    """Return the p-value of each component's largest IoU.

    The largest IoU over all concepts is compared with the largest ones of the shifts, so that the
    choice of the concept is allowed for. Its pixels are counted in cells: in each, the common part
    of two areas is their product by the cell's own.

    Parameters
    ----------
    orders
        Random orders; the smallest p-value is ``1 / (1 + orders * (images - 1))``. With one, the
        test is exact; with several, the p-values of the orders are averaged.
    """
    random = np.random.default_rng(seed)
    images, components = len(counts.valid), counts.shape[0]
    reached = np.zeros(components)
    for order in range(orders):
        largest = _largest_by_shift(counts, random.permutation(images))
        # a tie, up to the rounding of the transform, counts as reached
        reached += (largest[1:] >= largest[0] * (1 - 1e-9) - 1e-12).sum(0)
        report_progress("comparing with other images", order + 1, orders)
    return (1 + reached) / (1 + orders * (images - 1))


def _largest_by_shift(
    counts: CellCounts, order: np.ndarray
) -> Float64[np.ndarray, "images components"]:
    """Return each component's largest IoU with any concept, by shift; the first is none."""
    images, (components, concepts), cells = len(order), counts.shape, len(counts.pixels)
    active, masks = counts.components[order], counts.concepts[order]
    valid = np.fft.rfft(counts.valid[order], axis=0)[:, :, None]
    masked = np.asarray(masks.sum(0)).reshape(concepts, cells).sum(1)
    step = max(1, min(BLOCK // (cells * images), int(np.sqrt(BLOCK / images))))
    largest = np.zeros((images, components))
    for first in range(0, components, step):
        chosen = slice(first, first + step)
        maps = _spectrum(active, chosen, cells) / counts.pixels
        on = _correlated(maps, valid, images)[:, :, 0]
        for start in range(0, concepts, step):
            part = slice(start, start + step)
            spectrum = _spectrum(masks, part, cells).transpose(0, 2, 1)
            iou = iou_of(_correlated(maps, spectrum, images), on[:, :, None], masked[part])
            np.maximum(largest[:, chosen], iou.max(2), out=largest[:, chosen])
    return largest


def _spectrum(values: sparse.csc_array, part: slice, cells: int) -> np.ndarray:
    """Return the spectrum over images of some components or concepts, [frequencies n cells]."""
    dense = values[:, part.start * cells : part.stop * cells].toarray()
    return np.fft.rfft(dense.reshape(len(dense), -1, cells).astype(np.float64), axis=0)


def _correlated(maps: np.ndarray, others: np.ndarray, images: int) -> np.ndarray:
    """Return sums over images and cells of products, by shift [images components n]."""
    return np.fft.irfft(maps.conj() @ others, images, axis=0)
