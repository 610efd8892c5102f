"""Tensor operations that place RGBA pictures on random backgrounds."""

import torch
import torch.nn.functional as F
from torch import Tensor

from demo_world.workspace import SIZE


def _ramp(angle: Tensor, size: int) -> Tensor:
    """Return linear ramps [B 1 H W] from -1 to 1 in direction ``angle`` [B 1 1 1]."""
    line = torch.linspace(-1, 1, size)
    vertical, horizontal = torch.meshgrid(line, line, indexing="ij")
    return (horizontal * angle.cos() + vertical * angle.sin()) / 1.4


def training_backgrounds(count: int, generator: torch.Generator, size: int = SIZE) -> Tensor:
    """Return whitish, plain, gradient, noisy and striped backgrounds [B 3 H W] in [0, 1]."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    pick = uniform(count, 1, 1, 1)
    first, second = uniform(count, 3, 1, 1), uniform(count, 3, 1, 1)
    ramp = _ramp(uniform(count, 1, 1, 1) * 2 * torch.pi, size)
    shape = (count, 3, size, size)
    whitish = (1 - 0.12 * uniform(count, 1, 1, 1) * uniform(count, 3, 1, 1)).expand(shape)
    share = (ramp + 1) / 2
    noise = F.interpolate(uniform(count, 3, 5, 5), size=(size, size), mode="bicubic").clamp(0, 1)
    stripes = torch.where((ramp * 1.4 * (4 + 14 * second[:, :1])).sin() > 0, first, second)
    result = torch.where(pick < 0.93, noise * 0.7 + first * 0.3,
                         stripes * (0.8 + 0.2 * uniform(*shape)))  # fmt: skip
    result = torch.where(pick < 0.73, first * (1 - share) + second * share, result)
    result = torch.where(pick < 0.55, first.expand(shape), result)
    return torch.where(pick < 0.35, whitish, result).clamp(0, 1)


def world_backgrounds(count: int, generator: torch.Generator, size: int = SIZE) -> Tensor:
    """Return smooth, mostly light backgrounds for worlds, [B 3 H W] in [0, 1]."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    pick = uniform(count, 1, 1, 1)
    first, second = 0.15 + 0.85 * uniform(count, 3, 1, 1), 0.15 + 0.85 * uniform(count, 3, 1, 1)
    share = (_ramp(uniform(count, 1, 1, 1) * 2 * torch.pi, size) + 1) / 2
    shape = (count, 3, size, size)
    noise = F.interpolate(uniform(count, 3, 4, 4), size=(size, size), mode="bicubic").clamp(0, 1)
    result = torch.where(
        pick < 0.75, first * (1 - share) + second * share, noise * 0.6 + first * 0.4
    )
    result = torch.where(pick < 0.45, first.expand(shape), result)
    whitish = (1 - 0.1 * uniform(count, 3, 1, 1)).expand(shape)
    return torch.where(pick < 0.25, whitish, result).clamp(0, 1)


def premultiply(pixels: Tensor) -> Tensor:
    """Return RGBA uint8 [B H W 4] as premultiplied float32 [B 4 H W] in [0, 1]."""
    images = pixels.permute(0, 3, 1, 2).float() / 255
    return torch.cat([images[:, :3] * images[:, 3:], images[:, 3:]], 1)


def over(background: Tensor, premultiplied: Tensor) -> Tensor:
    """Alpha-composite premultiplied [B 4 H W] over [B 3 H W]."""
    return background * (1 - premultiplied[:, 3:]) + premultiplied[:, :3]


def warp(
    images: Tensor,
    scale: Tensor,
    shift: Tensor,
    rotation: Tensor,
    flip: Tensor,
    padding: str = "zeros",
) -> Tensor:
    """Scale, shift ([B 2], in half sides), rotate (radians) and flip (+1 or -1) images."""
    cosine, sine = rotation.cos() / scale, rotation.sin() / scale
    x, y = shift.unbind(1)
    first = torch.stack([cosine * flip, -sine, -x * cosine * flip + y * sine], 1)
    second = torch.stack([sine * flip, cosine, -x * sine * flip - y * cosine], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def identity_warp(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return shift, rotation and flip of the identity."""
    return torch.zeros(count, 2), torch.zeros(count), torch.ones(count)
