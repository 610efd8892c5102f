"""Overlap of thresholded activation maps with masks of their own images, and of other images.

With ``A`` the pixels where a component's map exceeds its threshold and ``M`` those of a concept,
``IoU = sum |A and M| / sum |A or M|``; the sums are over all images (Bau et al. 2017, Eq. 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from scipy import sparse
from torch import Tensor

from semlens.lenses.netdissect.input_masks import InputMasks
from semlens.lenses.netdissect.layer_maps import upsampled
from semlens.lenses.statistics.permutation import permutation_p
from semlens.progress import report_progress

CELLS = 8
"""Cells, along each side, in which pixels are counted for the comparison with other images."""


class Overlap:
    """Sums over images, for the components of one or several layers.

    Parameters
    ----------
    thresholds
        A component is on where its map exceeds this.
    concepts
        Number of concepts.
    grid
        Rows and columns at which maps and masks are compared.
    """

    def __init__(
        self, thresholds: Float32[np.ndarray, " c"], concepts: int, grid: tuple[int, int]
    ) -> None:
        self.thresholds, self.grid = thresholds, grid
        components, pixels = len(thresholds), grid[0] * grid[1]
        self.images = 0
        self.common = np.zeros((components, concepts))
        """Pixels of both, by component and concept; float64, exact."""
        self.on, self.masked = np.zeros(components), np.zeros(concepts)
        """Pixels of each component (of the labelled ones), and of each concept."""
        # how many images have a component, a concept or a label at a pixel
        self._on_at = np.zeros((components, pixels), np.float32)
        self._masked_at = np.zeros((concepts, pixels), np.float32)
        self._valid_at = np.zeros(pixels)
        self.cells = CellCounts(components, concepts, grid)

    def add(
        self, maps: Float32[Tensor, "b rows h w"], first: int, masks: Sequence[InputMasks]
    ) -> None:
        """Add a batch of maps of one layer.

        Parameters
        ----------
        first
            Number of the layer's first component.
        masks
            Those of the same images.
        """
        rows = maps.shape[1]
        thresholds = torch.from_numpy(self.thresholds[first : first + rows]).to(maps.device)
        # interpolation does not exceed the maximum: most components are off in most images
        image, row = torch.nonzero(maps.amax((2, 3)) > thresholds, as_tuple=True)
        on = upsampled(maps[image, row], self.grid) > thresholds[row, None, None]
        images, components = image.cpu().numpy(), row.cpu().numpy() + first
        active = on.cpu().numpy()
        for number, mask in enumerate(masks):
            chosen = images == number
            flat = active[chosen].reshape(int(chosen.sum()), mask.valid.size)
            seen = flat & mask.valid.ravel()
            both = seen.astype(np.float32) @ mask.pixels.T.astype(np.float32)
            self.common[np.ix_(components[chosen], mask.concepts)] += both
            self.on[components[chosen]] += seen.sum(1)
            self._on_at[components[chosen]] += flat
        self.cells.add_components(self.images + images, components, active)

    def add_masks(self, masks: Sequence[InputMasks]) -> None:
        """Add the masks of a batch, after the maps of all its layers."""
        for mask in masks:
            self.masked[mask.concepts] += mask.pixels.sum(1)
            self._masked_at[mask.concepts] += mask.pixels
            self._valid_at += mask.valid.ravel()
        self.cells.add_masks(self.images, masks)
        self.images += len(masks)

    @property
    def iou(self) -> Float64[np.ndarray, "c k"]:
        """IoU of every component with every concept; 0 where both are empty."""
        return iou_of(self.common, self.on[:, None], self.masked)

    @property
    def expected(self) -> Float64[np.ndarray, "c k"]:
        """IoU of the sums that are expected if maps are compared with masks of other images.

        The mean of all pairs of different images, without sampling: it follows from how many
        images have a component, and how many a concept, at each pixel.
        """
        n = self.images
        common = self._on_at.astype(np.float64) @ self._masked_at.T.astype(np.float64)
        on = self._on_at.astype(np.float64) @ self._valid_at
        common, on = (common - self.common) / (n - 1), (on - self.on) / (n - 1)
        return iou_of(common, on[:, None], self.masked)


class CellCounts:
    """Pixels of components and concepts in the cells of a coarse grid, image by image.

    Components are on at few positions, so that their counts are sparse.
    """

    def __init__(self, components: int, concepts: int, grid: tuple[int, int]) -> None:
        self.shape = components, concepts
        self._rows, self._columns = (_indicator(size) for size in grid)
        self.pixels = np.outer(self._rows.sum(1), self._columns.sum(1)).ravel()
        """Pixels of each cell."""
        self._components: list[tuple[np.ndarray, ...]] = []
        self._concepts: list[tuple[np.ndarray, ...]] = []
        self._valid: list[np.ndarray] = []

    def add_components(
        self, images: Int64[np.ndarray, " n"], components: Int64[np.ndarray, " n"],
        active: Bool[np.ndarray, "n h w"],
    ) -> None:  # fmt: skip
        """Add where components are on, each in one image."""
        self._components.append(self._entries(images, components, active))

    def add_masks(self, first: int, masks: Sequence[InputMasks]) -> None:
        """Add the masks of images ``first``, ``first + 1``, ..."""
        for number, mask in enumerate(masks, start=first):
            images = np.full(len(mask.concepts), number)
            self._concepts.append(self._entries(images, mask.concepts, mask.inside))
            self._valid.append(self._counts(mask.valid[None])[0])

    @property
    def components(self) -> sparse.csc_array:
        """Counts [images, components x cells]; the cells of a component are neighbours."""
        return self._matrix(self._components, self.shape[0])

    @property
    def concepts(self) -> sparse.csc_array:
        """Counts [images, concepts x cells]."""
        return self._matrix(self._concepts, self.shape[1])

    @property
    def valid(self) -> Float64[np.ndarray, "images cells"]:
        """Labelled pixels of the images."""
        return np.stack(self._valid).astype(np.float64)

    def _counts(self, pixels: np.ndarray) -> Float32[np.ndarray, "n cells"]:
        counts = self._rows @ pixels.astype(np.float32) @ self._columns.T
        return counts.reshape(len(pixels), len(self.pixels))

    def _entries(
        self, images: np.ndarray, numbers: np.ndarray, pixels: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Return the counts that are not zero, their images and their columns."""
        counts = self._counts(pixels)
        which, cell = np.nonzero(counts)
        return counts[which, cell], images[which], numbers[which] * len(self.pixels) + cell

    def _matrix(self, entries: Sequence[tuple[np.ndarray, ...]], numbers: int) -> sparse.csc_array:
        counts, images, columns = (np.concatenate(part) for part in zip(*entries, strict=True))
        shape = len(self._valid), numbers * len(self.pixels)
        return sparse.coo_array((counts, (images, columns)), shape).tocsc()


def iou_of(
    common: Float64[np.ndarray, "*s"], on: Float64[np.ndarray, "*_o"], masked: np.ndarray
) -> Float64[np.ndarray, "*s"]:
    """Return intersection over union from the sizes; 0 where the union is empty."""
    union = on + masked - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _indicator(size: int) -> Float32[np.ndarray, "cells size"]:
    """Return which pixels of a side belong to each cell."""
    cells = min(CELLS, size)
    return (np.arange(cells)[:, None] == np.arange(size) * cells // size).astype(np.float32)


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
