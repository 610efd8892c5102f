"""What travels backwards: relevance divided by activation, for many starts at once.

For a start ``i`` and an image ``u``, ``values[i, u]`` has the shape of the node's value for
one image, or of a window of it: relevance that starts at one position of a map can only reach
that position's receptive field, so early on the way down nearly all of the map is zero.
Multipliers, computed once per image, are broadcast over the starts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class RelevanceSignal:
    """Relevance over activation, on its way from a node to those that it reads.

    Parameters
    ----------
    values
        float[n U ...]; n starts for each of U images.
    corner
        int64[n U 2], row and column of the window's first position in the node's map
        (outside of the map too), or None when ``values`` covers all of it.
    """

    values: Tensor
    corner: Tensor | None = None

    @property
    def window(self) -> tuple[int, int]:
        """Return height and width of the window."""
        return self.values.shape[-2], self.values.shape[-1]

    def flat(self) -> Tensor:
        """Return the values as one batch [n*U ...]."""
        return self.values.flatten(0, 1)

    def like(self, flat: Tensor, corner: Tensor | None = None) -> RelevanceSignal:
        """Return a flow over the same starts from a batch [n*U ...]."""
        return RelevanceSignal(flat.unflatten(0, self.values.shape[:2]), corner)

    def times(self, factor: Tensor) -> RelevanceSignal:
        """Multiply by float[U ...], or by anything that broadcasts against it.

        In a window, positions outside of the map become zero.
        """
        if self.corner is None or factor.ndim < 2 or factor.shape[-2:] == (1, 1):
            return RelevanceSignal(self.values * factor, self.corner)
        maps = factor[(None,) * (4 - factor.ndim)]
        return RelevanceSignal(self.values * windows(maps, self.corner, self.window), self.corner)

    def plus(self, other: RelevanceSignal) -> RelevanceSignal:
        """Add a flow that reaches the same node on another way."""
        if self.corner is None and other.corner is None:
            return RelevanceSignal(self.values + other.values)
        if self.corner is None or other.corner is None:
            whole, part = (self, other) if self.corner is None else (other, self)
            size = (whole.values.shape[-2], whole.values.shape[-1])
            return RelevanceSignal(whole.values + part.whole(size).values)
        # both windows have the same stride to their start: one offset holds for all
        down, right = (other.corner - self.corner).flatten(0, 1)[0].tolist()
        first, second = self.padded(-min(down, 0), -min(right, 0)), other
        second = other.padded(max(down, 0), max(right, 0))
        height = max(first.window[0], second.window[0])
        width = max(first.window[1], second.window[1])
        return RelevanceSignal(
            first.grown(height, width).values + second.grown(height, width).values, first.corner
        )

    def padded(self, rows: int, columns: int) -> RelevanceSignal:
        """Put zeros above and left of the window."""
        if self.corner is None or not (rows or columns):
            return self
        corner = self.corner - torch.tensor([rows, columns], device=self.corner.device)
        return RelevanceSignal(functional.pad(self.values, (columns, 0, rows, 0)), corner)

    def grown(self, height: int, width: int) -> RelevanceSignal:
        """Put zeros below and right of the window."""
        more = (0, width - self.window[1], 0, height - self.window[0])
        return (
            RelevanceSignal(functional.pad(self.values, more), self.corner) if any(more) else self
        )

    def whole(self, size: tuple[int, int]) -> RelevanceSignal:
        """Return the flow over the whole map; what is outside of it is dropped."""
        if self.corner is None:
            return self
        height, width = size
        shape = (*self.values.shape[:-2], height, width)
        flat = self.flat()
        out = _zeros(flat, (shape[0] * shape[1], *shape[2:]))
        for place, (top, left) in enumerate(self.corner.flatten(0, 1).tolist()):
            rows, inner_rows = _overlap(top, self.window[0], height)
            columns, inner_columns = _overlap(left, self.window[1], width)
            out[place, ..., rows, columns] = flat[place, ..., inner_rows, inner_columns]
        return RelevanceSignal(out.unflatten(0, shape[:2]))


def _zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return zeros in the memory format that convolutions give."""
    zeros = like.new_zeros(shape)
    if len(shape) == 4 and like.is_contiguous(memory_format=torch.channels_last):
        return zeros.contiguous(memory_format=torch.channels_last)
    return zeros


def _overlap(start: int, length: int, size: int) -> tuple[slice, slice]:
    """Return where a window lies in a map, and that part of the window."""
    first, last = max(start, 0), min(start + length, size)
    last = max(first, last)
    return slice(first, last), slice(first - start, last - start)


def windows(maps: Tensor, corner: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut a window out of each image's map for each start, with zeros outside of the map.

    Parameters
    ----------
    maps
        [U C H W], or [1 C H W] when it is the same for all images.
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
    place = (image * height + rows.clamp(0, height - 1)[..., :, None]) * width
    place = place + columns.clamp(0, width - 1)[..., None, :]  # [n U h w]
    table = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
    cut = table.index_select(0, place.flatten()).view(*place.shape, -1)
    if not bool(inside.all()):
        cut = (
            cut * inside[..., None]
            if cut.is_floating_point()
            else cut.masked_fill(~inside[..., None], -1)
        )
    return cut.permute(0, 1, 4, 2, 3)
