"""Small networks and their ONNX files, exported by torch as users do."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SETTINGS = {
    "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "crop_pct": 1.0,
    "interpolation": "bilinear", "input_size": [3, 32, 32],
    "classes": ["vegetable", "ox", "zebra", "clock"],
}  # fmt: skip


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(self.act(self.bn1(self.conv1(x)))) + x)


class Cnn(nn.Module):
    """Convolutions, batch normalisation, shortcuts, pooling and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(Residual(8), Residual(8))
        self.pool = nn.MaxPool2d(2)
        self.last = nn.Conv2d(8, 12, 3, padding=1)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.pool(self.blocks(self.stem(x))))
        return self.head(torch.relu(x).mean((2, 3)))


def vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=4
    )


def mobilenet() -> nn.Module:
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    blocks = [
        InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1.0),
        InvertedResidualConfig(16, 5, 32, 24, True, "HS", 2, 1, 1.0),
    ]
    return MobileNetV3(blocks, 32, num_classes=4)


NETS = {"cnn": Cnn, "vit": vit, "mobilenet": mobilenet}


def make(name: str, seed: int = 0) -> nn.Module:
    """Return a network with random weights and, as after training, statistics of batches."""
    torch.manual_seed(seed)
    net = NETS[name]().train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(16, 3, 32, 32))
    return net.eval()


def export(
    net: nn.Module, file: Path, *, dynamo: bool = False, dynamic: bool = True, **options: Any
) -> Path:
    """Export a network, with its preprocessing beside it."""
    images = torch.randn(2 if dynamic else 1, 3, 32, 32)
    if dynamic and dynamo:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    elif dynamic:
        options["dynamic_axes"] = {"images": {0: "batch"}, "logits": {0: "batch"}}
    with silenced():
        torch.onnx.export(
            net, (images,), str(file), dynamo=dynamo, input_names=["images"],
            output_names=["logits"], **options,
        )  # fmt: skip
    write_settings(file)
    return file


def write_settings(file: Path, **changes: Any) -> None:
    """Write the JSON beside a file; a setting of None is left out."""
    settings = {k: v for k, v in {**SETTINGS, **changes}.items() if v is not None}
    file.with_suffix(".json").write_text(json.dumps(settings))


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Suppress what the exporter prints."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(action="ignore"),
    ):
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
