"""The networks and images of the golden files, the same on every machine.

Architectures are torchvision's; every weight comes from here. Random numbers are the raw stream
of numpy's PCG64, which numpy keeps from version to version, while the initialisers of torch and
the distributions of numpy may change.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import models

SIZE = 64
CLASSES = 10
CALIBRATION_IMAGES = 6


@dataclass(frozen=True)
class Recipe:
    """What a golden file is about."""

    make: Callable[[], nn.Module]
    seed: int
    layers: tuple[str, ...]
    """The layers whose channels' relevance is kept."""
    starts: tuple[str, ...]
    """The layers at which conditional heatmaps start."""


def _vgg() -> nn.Module:
    """Return VGG-11 with batch norm and a narrow head (torchvision's has 120 million weights)."""
    network = models.vgg11_bn(num_classes=CLASSES)
    network.classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, 96), nn.ReLU(inplace=True), nn.Dropout(),
        nn.Linear(96, 96), nn.ReLU(inplace=True), nn.Dropout(),
        nn.Linear(96, CLASSES),
    )  # fmt: skip
    return network


STAGES = ("layer1", "layer2", "layer3", "layer4")
RECIPES = {
    "resnet18": Recipe(lambda: models.resnet18(num_classes=CLASSES), 18, STAGES, STAGES[1:]),
    "resnet50": Recipe(lambda: models.resnet50(num_classes=CLASSES), 50, STAGES, STAGES[1:]),
    # in order: two max-pools and two activations; the starts are one activation, two max-pools
    "vgg11_bn": Recipe(
        _vgg,
        11,
        ("features.7", "features.13", "features.21", "features.27"),
        ("features.13", "features.21", "features.28"),
    ),
}


def subject(name: str) -> tuple[nn.Module, Tensor]:
    """Make a network in eval mode and two noisy images, both in float64."""
    recipe = RECIPES[name]
    stream = np.random.PCG64(recipe.seed)
    with torch.device("meta"):
        network = recipe.make()
    network = network.to(torch.float64).to_empty(device="cpu")
    for module in network.modules():
        _fill(module, stream)
    calibrate(network, images(stream, CALIBRATION_IMAGES))
    return network, images(stream, 2)


def uniform(stream: np.random.PCG64, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Draw from [low, high)."""
    raw = np.asarray(stream.random_raw(math.prod(shape)), dtype=np.uint64)
    unit = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return torch.from_numpy(low + (high - low) * unit).reshape(shape)


def _fill(module: nn.Module, stream: np.random.PCG64) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        reach = math.sqrt(6 / module.weight[0].numel())  # variance 2 / fan-in, as He et al.
        module.weight.data.copy_(uniform(stream, tuple(module.weight.shape), -reach, reach))
        if module.bias is not None:
            module.bias.data.copy_(uniform(stream, tuple(module.bias.shape), -0.1, 0.1))
    elif isinstance(module, nn.BatchNorm2d):
        shape = tuple(module.weight.shape)
        module.weight.data.copy_(uniform(stream, shape, 0.5, 1.5))
        module.bias.data.copy_(uniform(stream, shape, -0.3, 0.3))
    elif any(True for _ in module.parameters(recurse=False)):
        raise TypeError(f"No weights are known for {type(module).__name__}.")


@torch.no_grad()
def calibrate(network: nn.Module, batch: Tensor) -> None:
    """Give batch norms the statistics of ``batch``: one training-mode pass, dropout off."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
        else:
            module.training = False
    network(batch)
    network.eval().requires_grad_(False)


def images(stream: np.random.PCG64, count: int) -> Tensor:
    """Make images of soft waves under noise: both signs, about unit variance, no flat parts."""
    places = torch.arange(SIZE, dtype=torch.float64) / SIZE
    total = torch.zeros(count, 3, SIZE, SIZE, dtype=torch.float64)
    for _ in range(8):
        # count x channel x (cycles down, cycles across, phase, height)
        down, across, phase, height = uniform(stream, (4, count, 3, 1, 1), -1, 1)
        angle = 5 * (down * places[:, None] + across * places) + math.pi * phase
        total += height * torch.sin(2 * math.pi * angle)
    return 0.6 * total + uniform(stream, (count, 3, SIZE, SIZE), -1, 1)
