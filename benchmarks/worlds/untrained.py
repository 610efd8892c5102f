"""Databases of untrained networks: components that respond to colours and edges, and learned none.

Their examples are alike, but not because of a concept.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import timm
import torch
from torch import nn
from torchvision.models import resnet18

import semlens as sl
from benchmarks.harness import log
from demo_world.nets import as_subject

SIZE, CLASSES = 96, 12
SEEDS = (0, 1)
IMAGES = 60
"""Of each folder."""
REFERENCE, EXAMPLES = 512, 30
EMBEDDER = "semlens/demo"


def _vgg() -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for width in (32, 64, 128, 128):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    return nn.Sequential(
        nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)
    )


def _vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, img_size=SIZE, num_classes=CLASSES,
        depth=4, embed_dim=64, num_heads=4,
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "ResNet-18": (lambda: resnet18(num_classes=CLASSES), ("layer2",)),
    "VGG": (_vgg, ("0.10",)),
    "ViT": (_vit, ("blocks.2",)),
}
"""Networks with random weights, and a layer in the middle of each."""


def untrained_databases(
    folder: Path, images: Path, *, few: bool = False
) -> Iterator[tuple[str, sl.ConceptDatabase]]:
    """Yield name and database of each network and seed, built in a folder.

    Parameters
    ----------
    few
        Only one of them, of ten images in each folder, with few examples.
    """
    images = _some(images, folder / "some-images", 10 if few else IMAGES)
    for name, (make, layers) in [*NETWORKS.items()][few:][: 1 if few else None]:
        for seed in SEEDS[: 1 if few else None]:
            path = folder / f"untrained-{name}-{seed}.semlens"
            if not path.is_dir():
                log(f"building the database of an untrained {name}, seed {seed}")
                torch.manual_seed(seed)
                names = [f"class {index}" for index in range(CLASSES)]
                model = as_subject(make().eval(), names, f"python:{path.stem}")
                sl.build(
                    path, model, images, EMBEDDER, layers, examples=5 if few else EXAMPLES,
                    crop="activation", reference=REFERENCE,
                )  # fmt: skip
            yield f"{name}, seed {seed}", sl.open(path)


def _some(images: Path, folder: Path, count: int) -> Path:
    for kind in images.iterdir():
        (folder / kind.name).mkdir(parents=True, exist_ok=True)
        for file in sorted(kind.iterdir())[:count]:
            shutil.copy(file, folder / kind.name)
    return folder
