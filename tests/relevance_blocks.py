"""Blocks of networks, each from a map of ``WIDTH`` channels to one of ``WIDTH`` channels."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Residual(nn.Module):
    def __init__(self, width, stride, norm) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, stride, 1)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.second = nn.Conv2d(width, width, 3, 1, 1)
        self.short = nn.Conv2d(width, width, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        inner = self.second(functional.relu(self.norm(self.first(x))))
        return functional.relu(inner + self.short(x))


class Branches(nn.Module):
    """Kernels of two sizes side by side, joined along the channels."""

    def __init__(self, width) -> None:
        super().__init__()
        self.small = nn.Conv2d(width, width // 2, 1)
        self.large = nn.Conv2d(width, width // 2, 5, 1, 2)

    def forward(self, x):
        return torch.cat([self.small(x), self.large(x).relu()], 1)


class Squeeze(nn.Module):
    """A gate per channel, from the whole map."""

    def __init__(self, width) -> None:
        super().__init__()
        self.gate = nn.Conv2d(width, width, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))


class Shuffled(nn.Module):
    """Half of the channels pass by, and the halves are mixed (ShuffleNet)."""

    def __init__(self, width) -> None:
        super().__init__()
        self.inner = nn.Conv2d(width // 2, width // 2, 3, 1, 1)

    def forward(self, x):
        a, b = x.chunk(2, 1)
        joined = torch.cat([a, self.inner(b)], 1)
        return joined.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


class Joined(nn.Module):
    """Parts of the map pass through one convolution, and are joined along an axis of the map."""

    def __init__(self, width, axis, parts=2) -> None:
        super().__init__()
        self.axis, self.parts, self.inner = axis, parts, nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x):
        parts = x.chunk(self.parts, self.axis)
        return torch.cat([torch.relu(self.inner(part)) for part in parts], self.axis)


class PaddedByZeros(nn.Module):
    """Zeros are joined below and to the left, around maps of other sizes beside each other."""

    def forward(self, x):
        x = torch.cat([x, nn.functional.max_pool2d(x, (1, 2))], 3)
        x = torch.cat([torch.zeros_like(x[..., :2]), x], 3)
        return torch.cat([x, torch.zeros_like(x[:, :, :3])], 2)


WIDTH = 4
BLOCKS = {
    "conv": lambda: nn.Conv2d(WIDTH, WIDTH, 3, 1, 1),
    "stride": lambda: nn.Conv2d(WIDTH, WIDTH, 3, 2, 1),
    "dilation": lambda: nn.Conv2d(WIDTH, WIDTH, 3, 1, 2, 2),
    "no padding": lambda: nn.Conv2d(WIDTH, WIDTH, 2),
    "same": lambda: nn.Conv2d(WIDTH, WIDTH, 2, padding="same"),
    "point, stride": lambda: nn.Conv2d(WIDTH, WIDTH, 1, 2),
    "depthwise": lambda: nn.Conv2d(WIDTH, WIDTH, 5, 1, 2, groups=WIDTH),
    "groups": lambda: nn.Conv2d(WIDTH, WIDTH, 3, 2, 1, groups=2),
    "conv and norm": lambda: nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3), nn.BatchNorm2d(WIDTH)),
    "norm": lambda: nn.BatchNorm2d(WIDTH),
    "relu": lambda: nn.ReLU(inplace=True),
    "silu": nn.SiLU,
    "max pool": lambda: nn.MaxPool2d(3, 2, 1),
    "small max pool": lambda: nn.MaxPool2d(2, 1),
    "mean pool": lambda: nn.AvgPool2d(2, 2),
    "residual": lambda: Residual(WIDTH, 1, True),
    "strided residual": lambda: Residual(WIDTH, 2, False),
    "branches": lambda: Branches(WIDTH),
    "gate": lambda: Squeeze(WIDTH),
    "shuffle": lambda: Shuffled(WIDTH),
    "upsample": lambda: nn.Upsample(scale_factor=2.0),
    "views beside each other": lambda: Joined(WIDTH, 3),
    "views above each other": lambda: Joined(WIDTH, -2, 3),
    "zeros around": PaddedByZeros,
    "transposed": lambda: nn.ConvTranspose2d(WIDTH, WIDTH, 3, 2, 1),
}
