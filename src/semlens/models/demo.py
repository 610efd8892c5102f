"""The bundled subject model: a small residual network with a planted spurious feature."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from semlens.models.subject import SubjectModel
from semlens.recipe import fingerprint

INPUT_SIZE = 96  # pixels, both sides
PREPROCESS: Mapping[str, object] = MappingProxyType(
    {
        "size": INPUT_SIZE,
        "resize": "squash",
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
)
LAYERS = ("layer1", "layer2", "layer3")
WIDTHS = (24, 32, 64, 128)
ASSET = "subject.safetensors"


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut; the output is after a ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B inputs H W] to [B outputs H/stride W/stride], non-negative."""
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y)) + self.downsample(x))


class DemoNet(nn.Module):
    """Stem, three residual stages, mean over space, dropout (training only), linear classifier."""

    def __init__(
        self, classes: int = 12, widths: tuple[int, int, int, int] = WIDTHS, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 5, 2, 2, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.layer1 = ResidualBlock(widths[0], widths[1], 1)  # 24 x 24
        self.layer2 = ResidualBlock(widths[1], widths[2], 2)  # 12 x 12
        self.layer3 = ResidualBlock(widths[2], widths[3], 2)  # 6 x 6
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(widths[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map preprocessed images [B 3 96 96] to logits [B classes]."""
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.fc(self.dropout(self.pool(x).flatten(1)))


def preprocess(image: Image.Image) -> Tensor:
    """Turn an upright image of any size into float32[3 96 96] in [-1, 1]."""
    image = image.convert("RGB").resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.permute(2, 0, 1).to(torch.float32).div(127.5).sub(1.0)


def load_demo_net(path: Path | None = None) -> DemoNet:
    """Load the subject in evaluation mode from fp16 safetensors (default: the bundled file)."""
    if path is None:
        with as_file(files("semlens") / "assets" / "demo" / ASSET) as asset:
            return load_demo_net(asset)
    state = {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}
    with safe_open(path, framework="pt") as file:
        widths = tuple(int(w) for w in (file.metadata() or {})["widths"].split(","))
    if len(widths) != 4:
        raise ValueError(f"{path} names {len(widths)} stage widths; expected 4. Rebuild the asset.")
    net = DemoNet(state["fc.weight"].shape[0], widths)
    net.load_state_dict(state)
    return net.eval()


def demo_model() -> SubjectModel:
    """Load ``semlens/demo``; its classes are those of the bundled world."""
    world = json.loads(files("semlens").joinpath("assets", "demo", "world.json").read_text("utf-8"))
    return SubjectModel(
        load_demo_net(),
        preprocess,
        fingerprint(dict(PREPROCESS)),
        "semlens/demo",
        tuple(world["classes"]),
    )
