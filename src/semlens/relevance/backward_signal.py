"""The relevance signal of a backward pass: relevance divided by activation, for many seeds at once.

For seed ``i`` and image ``u``, ``values[i, u]`` has the shape of the node's value for one image,
or of a window of it. Relevance seeded at one position of a map only reaches the receptive field of
that position, so nearly all of the map is zero near the seed and need not be stored.
Multipliers are computed once per image and broadcast over the seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class BackwardSignal:
    """Relevance divided by activation, at one node of the graph.

    Parameters
    ----------
    values
        float[n U ...], n seeds for each of U images.
    corner
        int64[n U 2], row and column of the window's first position in the node's map, which may
        lie outside of the map; None if ``values`` covers the whole map.
    """

    values: Tensor
    corner: Tensor | None = None

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the window."""
        return self.values.shape[-2], self.values.shape[-1]

    def as_batch(self) -> Tensor:
        """Return the values as one batch [n*U ...]."""
        return self.values.flatten(0, 1)

    def from_batch(self, batch: Tensor, corner: Tensor | None = None) -> BackwardSignal:
        """Return a signal for the same seeds from a batch [n*U ...]."""
        return BackwardSignal(batch.unflatten(0, self.values.shape[:2]), corner)

    def multiply(self, factor: Tensor) -> BackwardSignal:
        """Multiply by float[U ...], or by a tensor that broadcasts against it.

        Positions of a window outside of the map become zero.
        """
        if self.corner is None or factor.ndim < 2 or factor.shape[-2:] == (1, 1):
            return BackwardSignal(self.values * factor, self.corner)
        maps = factor[(None,) * (4 - factor.ndim)]
        return BackwardSignal(
            self.values * extract_windows(maps, self.corner, self.window), self.corner
        )

    def add(self, other: BackwardSignal) -> BackwardSignal:
        """Add a signal that reaches the same node along another path."""
        if self.corner is None and other.corner is None:
            return BackwardSignal(self.values + other.values)
        if self.corner is None or other.corner is None:
            whole, windowed = (self, other) if self.corner is None else (other, self)
            size = (whole.values.shape[-2], whole.values.shape[-1])
            return BackwardSignal(whole.values + windowed.full_map(size).values)
        # windows keep one stride to their seeds, so the first pair's offset holds for all pairs
        down, right = (other.corner - self.corner).flatten(0, 1)[0].tolist()
        first, second = self.pad_before(-min(down, 0), -min(right, 0)), other
        second = other.pad_before(max(down, 0), max(right, 0))
        height = max(first.window[0], second.window[0])
        width = max(first.window[1], second.window[1])
        return BackwardSignal(
            first.pad_after(height, width).values + second.pad_after(height, width).values,
            first.corner,
        )

    def pad_before(self, rows: int, columns: int) -> BackwardSignal:
        """Pad the window with zeros above and to the left."""
        if self.corner is None or not (rows or columns):
            return self
        corner = self.corner - torch.tensor([rows, columns], device=self.corner.device)
        return BackwardSignal(functional.pad(self.values, (columns, 0, rows, 0)), corner)

    def pad_after(self, height: int, width: int) -> BackwardSignal:
        """Pad the window with zeros below and to the right."""
        padding = (0, width - self.window[1], 0, height - self.window[0])
        return (
            BackwardSignal(functional.pad(self.values, padding), self.corner)
            if any(padding)
            else self
        )

    def full_map(self, size: tuple[int, int]) -> BackwardSignal:
        """Return the signal over the whole map of ``size``; values outside of it are dropped."""
        if self.corner is None:
            return self
        height, width = size
        shape = (*self.values.shape[:-2], height, width)
        batch = self.as_batch()
        full = _zeros(batch, (shape[0] * shape[1], *shape[2:]))
        for index, (top, left) in enumerate(self.corner.flatten(0, 1).tolist()):
            rows, inner_rows = _overlap(top, self.window[0], height)
            columns, inner_columns = _overlap(left, self.window[1], width)
            full[index, ..., rows, columns] = batch[index, ..., inner_rows, inner_columns]
        return BackwardSignal(full.unflatten(0, shape[:2]))


def _zeros(template: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return zeros in the memory format of ``template``."""
    zeros = template.new_zeros(shape)
    if len(shape) == 4 and template.is_contiguous(memory_format=torch.channels_last):
        return zeros.contiguous(memory_format=torch.channels_last)
    return zeros


def _overlap(start: int, length: int, size: int) -> tuple[slice, slice]:
    """Return the slice of a map that a window covers, and the matching slice of the window."""
    first, last = max(start, 0), min(start + length, size)
    last = max(first, last)
    return slice(first, last), slice(first - start, last - start)


def extract_windows(maps: Tensor, corner: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut a window out of each image's map for each seed, with zeros outside of the map.

    Parameters
    ----------
    maps
        [U C H W], or [1 C H W] if it is the same for all images.
    corner
        int64[n U 2].

    Returns
    -------
    Tensor
        [n U C h w], channels last in memory.
    """
    images, _, height, width = maps.shape
    device = maps.device
    rows = corner[..., 0, None] + torch.arange(window[0], device=device)
    columns = corner[..., 1, None] + torch.arange(window[1], device=device)
    inside = ((rows >= 0) & (rows < height))[..., :, None] & ((columns >= 0) & (columns < width))[
        ..., None, :
    ]
    image = torch.arange(images, device=device)[None, :, None, None]
    index = (image * height + rows.clamp(0, height - 1)[..., :, None]) * width
    index = index + columns.clamp(0, width - 1)[..., None, :]  # [n U h w]
    table = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
    patches = table.index_select(0, index.flatten()).view(*index.shape, -1)
    # only the CPU gains from the check: it would have to wait for the answer of another device
    if device.type != "cpu" or not bool(inside.all()):
        patches = (
            patches * inside[..., None]
            if patches.is_floating_point()
            else patches.masked_fill(~inside[..., None], -1)
        )
    return patches.permute(0, 1, 4, 2, 3)
