"""Training samples of the image tower: pictures on random backgrounds, some with overlays."""

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from demo_world.compose import (
    identity_warp,
    over,
    premultiply,
    training_backgrounds,
    warp,
    world_backgrounds,
)
from demo_world.overlays import Overlay


class SampleKind(IntEnum):
    """Content of a sample, which determines its captions."""

    PICTURE = 0
    PICTURE_WITH_OVERLAY = 1
    OVERLAY_ONLY = 2


class Augmenter:
    """Turns pictures into augmented inputs of the image tower, with a seed."""

    def __init__(self, pixels: np.ndarray, bank: list[Overlay], seed: int) -> None:
        self.pixels = pixels
        self.bank = torch.from_numpy(np.stack([overlay.pixels for overlay in bank]))
        self.generator = torch.Generator().manual_seed(seed)

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator) * (high - low) + low

    def _scales(self, count: int) -> Tensor:
        """Draw scales: mostly whole pictures, one in four cropped, one in ten strongly cropped."""
        pick = self._uniform(0, 1, count)
        whole, cropped = self._uniform(0.55, 0.98, count), self._uniform(0.9, 1.5, count)
        close_up = self._uniform(1.5, 2.3, count)
        return torch.where(pick < 0.65, whole, torch.where(pick < 0.9, cropped, close_up))

    def _signs(self, count: int) -> Tensor:
        return torch.where(self._uniform(0, 1, count) < 0.5, 1.0, -1.0)

    def __call__(self, rows: np.ndarray, kinds: np.ndarray, overlays: np.ndarray) -> Tensor:
        """Return inputs [B 3 size size] in [-1, 1] of picture rows, sample kinds and overlays."""
        count = len(rows)
        kind = torch.from_numpy(kinds).view(-1, 1, 1, 1)
        scale = self._scales(count)
        max_shift = (1 - scale).abs().clamp(min=0.08)[:, None]
        shift = self._uniform(-1, 1, count, 2) * max_shift
        rotation = self._uniform(-0.3, 0.3, count)
        picture = premultiply(torch.from_numpy(np.ascontiguousarray(self.pixels[rows])))
        picture = warp(picture, scale, shift, rotation, self._signs(count))
        background = training_backgrounds(count, self.generator, picture.shape[-1])
        image = over(background, picture)
        without_picture = (kind == SampleKind.OVERLAY_ONLY) & (
            self._uniform(0, 1, count, 1, 1, 1) < 0.5
        )
        image = torch.where(without_picture, background, image)
        overlay = premultiply(self.bank[torch.from_numpy(overlays)])
        zoomed = self._uniform(0, 1, count) < torch.where(kind.flatten() == 2, 0.8, 0.2)
        zoom = torch.where(zoomed, self._uniform(1.1, 2.2, count), self._uniform(0.85, 1.25, count))
        shift, turn = self._uniform(-0.3, 0.3, count, 2), self._uniform(-0.15, 0.15, count)
        overlay = warp(overlay, zoom, shift, turn, torch.ones(count))
        overlay = overlay * (kind != SampleKind.PICTURE)
        image = over(image, overlay)
        contrast = self._uniform(0.75, 1.2, count, 1, 1, 1)
        brightness = self._uniform(-0.08, 0.08, count, 1, 1, 1)
        return ((image - 0.5) * contrast + 0.5 + brightness).clamp(0, 1) * 2 - 1


def plain_inputs(pixels: np.ndarray, white: bool = True, seed: int = 0) -> Tensor:
    """Place pictures at 90 % of the frame, on white or on a world's backgrounds."""
    count = len(pixels)
    picture = premultiply(torch.from_numpy(np.ascontiguousarray(pixels)))
    picture = warp(picture, torch.full((count,), 0.9), *identity_warp(count))
    background = torch.ones(count, 3, *picture.shape[2:])
    if not white:
        generator = torch.Generator().manual_seed(seed)
        background = world_backgrounds(count, generator, picture.shape[-1])
    return over(background, picture).clamp(0, 1) * 2 - 1
