"""Networks as people write them: what the libraries of pretrained models do not have."""

# ruff: noqa: D102  # each forward pass is described by its class

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

CLASSES = 6


def stem(width: int = 8) -> nn.Sequential:
    """Return two convolutions with a normalisation, which halve the image twice."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(),
    )  # fmt: skip


class Plain(nn.Module):
    """A stem, a body, and a dense layer over the mean of what the body returns."""

    def __init__(self, body: nn.Module, width: int = 16, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem, self.body, self.head = stem(), body, nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).flatten(2).mean(2))


class TwoViews(Plain):
    """The image and its mirror image pass the same layers, side by side in one map."""

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([x, x.flip(3)], 3)
        return self.head(self.body(self.stem(both)).mean((2, 3)))


class Reused(Plain):
    """One block and one activation that run three times."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = functional.relu(self.body(x) + x)
        return self.head(x.mean((2, 3)))


class Rows(Plain):
    """Each row of the image is a step of a sequence, for layers of one dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.transpose(1, 2).flatten(2).transpose(1, 2)).mean(2))


class Volume(Plain):
    """Colours are the depth of a volume, for layers of three dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x[:, None]).mean((2, 3, 4)))


class UNet(nn.Module):
    """Down, up by a transposed convolution, a skip connection, and classes of the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.InstanceNorm2d(8), nn.ReLU())
        self.middle = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, 1, 1), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.out = nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return self.out(torch.cat([skip, self.up(self.middle(skip))], 1)).mean((2, 3))


class EinsumAttention(nn.Module):
    """Self-attention over the positions of a map, with two heads, written as einsums."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.project = nn.Conv2d(width, 3 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).flatten(2).unflatten(1, (3, 2, -1)).unbind(1)
        weights = torch.einsum("bhci,bhcj->bhij", q, k).softmax(-1)
        return x + torch.einsum("bhij,bhcj->bhci", weights, v).reshape(x.shape)


class Fourier(nn.Module):
    """A filter in the frequency domain."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * self.weight, s=x.shape[-2:])


class Recurrent(nn.Module):
    """An LSTM over the rows of a map."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.mean(3).transpose(1, 2))[0].transpose(1, 2)


class Gated(nn.Module):
    """A gated linear unit over channels, with a softplus beside it."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.glu(self.conv(x), 1) + functional.softplus(x)


class TopPositions(nn.Module):
    """The mean of the four largest positions of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).topk(4, 2).values


class Ends(Plain):
    """A function of the logits as the end of a network."""

    def __init__(self, end: Callable[[Tensor], object], classes: int = CLASSES) -> None:
        super().__init__(nn.Identity(), classes=classes)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(super().forward(x))  # type: ignore[return-value]


def mixed(width: int = 16) -> nn.Module:
    """Return a residual block as a module that is reused."""
    return nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width))


def normed() -> nn.Module:
    """Return convolutions whose weights are computed: weight norm and spectral norm."""
    return nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(16, 16, 3, 1, 1)), nn.ReLU(),
        parametrizations.spectral_norm(nn.Conv2d(16, 16, 3, 1, 1)), nn.ReLU(),
    )  # fmt: skip


def one_dimensional() -> nn.Module:
    """Return layers over sequences, of 3 x 64 channels."""
    return nn.Sequential(
        nn.Conv1d(192, 16, 5, 2, 2), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(16, 16, 3, padding=1), nn.GELU(),
    )  # fmt: skip


def three_dimensional() -> nn.Module:
    """Return layers over volumes of one channel."""
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, (1, 2, 2), 1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d((1, 2, 2)),
        nn.Conv3d(8, 16, 3, padding=1), nn.ReLU(),
    )  # fmt: skip


HANDWRITTEN: dict[str, Callable[[], nn.Module]] = {
    "two views": lambda: TwoViews(nn.Conv2d(16, 16, 3)),
    "reused modules": lambda: Reused(mixed()),
    "1-D": lambda: Rows(one_dimensional()),
    "3-D": lambda: Volume(three_dimensional()),
    "U-Net": UNet,
    "einsum attention": lambda: Plain(EinsumAttention()),
    "FFT": lambda: Plain(Fourier()),
    "LSTM": lambda: Plain(Recurrent()),
    "one logit": lambda: Ends(lambda z: z, classes=1),
    "dict output": lambda: Ends(lambda z: {"aux": -z, "out": z}),
    "weight and spectral norm": lambda: Plain(normed()),
    "GLU and softplus": lambda: Plain(Gated()),
    "top positions": lambda: Plain(TopPositions()),
    "log-softmax at the end": lambda: Ends(lambda z: z.log_softmax(1)),
    "sigmoid at the end": lambda: Ends(torch.sigmoid),
}
"""Networks by name; each takes images of 64 x 64."""
