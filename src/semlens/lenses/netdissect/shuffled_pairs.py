"""Whether a component fits the masks of its own images better than those of others.

The images are put into a random order, and each map is paired with the mask some places further on.
If a component has nothing to do with the concepts, such pairs are as good as the right ones, and
the share of shifts that fit as well is a p-value. Shifts are a group, so that the test is exact for
any distribution (Hemerik and Goeman 2018). They are sums of products, which the fast Fourier
transform has for all shifts at once. If images are shifted within groups, each group has a shift of
its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64
from scipy import sparse

from semlens.lenses.netdissect.overlap import CellCounts, iou_of
from semlens.lenses.statistics.permutation import permutation_p
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
    counts: CellCounts, groups: Int64[np.ndarray, " images"], orders: int, seed: int = 0
) -> Float64[np.ndarray, " components"]:
    """Return the p-value of each component's largest IoU.

    The largest IoU over all concepts is compared with the largest ones of random shifts, so that
    the choice of the concept is allowed for. Its pixels are counted in cells: in each, the common
    part of two areas is their product by the cell's own.

    Parameters
    ----------
    groups
        Images of equal number change masks with each other only.
    orders
        Random orders, each with ``images - 1`` shifts (of a single group, all that there are). The
        smallest p-value is ``1 / (1 + orders * (images - 1))``. With one order, the test is exact;
        with several, the p-values of the orders are averaged.
    """
    random = np.random.default_rng(seed)
    images, components = len(groups), counts.shape[0]
    reached = np.zeros(components)
    for order in range(orders):
        members = [random.permutation(np.flatnonzero(groups == g)) for g in np.unique(groups)]
        shifts = np.stack([_shifts(len(own), images, random) for own in members])
        right = random.integers(images)  # one of the shifts is made that of the right pairs
        shifts = (shifts - shifts[:, [right]]) % np.array([[len(own)] for own in members])
        largest = _largest_by_shift(counts, members, shifts)
        # a tie, up to the rounding of the transform, counts as reached
        reached += (largest >= largest[right] * (1 - 1e-9) - 1e-12).sum(0) - 1
        report_progress("comparing with other images", order + 1, orders)
    return permutation_p(reached, orders * (images - 1))


def _shifts(members: int, count: int, random: np.random.Generator) -> Int64[np.ndarray, " count"]:
    """Return shifts of a group, all equally often."""
    rounds = [random.permutation(members) for _ in range(-(-count // members))]
    return np.concatenate(rounds)[:count]


def _largest_by_shift(
    counts: CellCounts, members: Sequence[np.ndarray], shifts: Int64[np.ndarray, "groups shifts"]
) -> Float64[np.ndarray, "shifts components"]:
    """Return each component's largest IoU with any concept, by shift.

    Parameters
    ----------
    members
        The images of each group, in their order.
    """
    (components, concepts), cells, tried = counts.shape, len(counts.pixels), shifts.shape[1]
    active, masks, valid = counts.components, counts.concepts, counts.valid
    parts = [(active[own], masks[own], valid[own]) for own in members]
    masked = np.asarray(masks.sum(0)).reshape(concepts, cells).sum(1)
    step = max(1, min(BLOCK // (cells * tried), int(np.sqrt(BLOCK / tried))))
    largest = np.zeros((tried, components))
    for first in range(0, components, step):
        chosen = slice(first, first + step)
        spectra = [_spectrum(maps, chosen, cells) / counts.pixels for maps, _, _ in parts]
        on = 0.0
        for maps, (_, _, labelled), shift in zip(spectra, parts, shifts, strict=True):
            on += _correlated(maps, np.fft.rfft(labelled, axis=0)[:, :, None], labelled, shift)
        for start in range(0, concepts, step):
            part = slice(start, start + step)
            common = 0.0
            for maps, (_, inside, labelled), shift in zip(spectra, parts, shifts, strict=True):
                other = _spectrum(inside, part, cells).transpose(0, 2, 1)
                common += _correlated(maps, other, labelled, shift)
            iou = iou_of(np.asarray(common), np.asarray(on), masked[part])
            np.maximum(largest[:, chosen], iou.max(2), out=largest[:, chosen])
    return largest


def _spectrum(values: sparse.csc_array, part: slice, cells: int) -> np.ndarray:
    """Return the spectrum over images of some components or concepts, [frequencies n cells]."""
    dense = values[:, part.start * cells : part.stop * cells].toarray()
    return np.fft.rfft(dense.reshape(len(dense), -1, cells).astype(np.float64), axis=0)


def _correlated(
    maps: np.ndarray, others: np.ndarray, images: np.ndarray, shifts: np.ndarray
) -> Float64[np.ndarray, "shifts components n"]:
    """Return sums over the images of a group, and cells, of products, at some shifts."""
    return np.fft.irfft(maps.conj() @ others, len(images), axis=0)[shifts]
