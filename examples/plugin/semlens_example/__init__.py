"""An embedder by colours and an untrained network: the smallest plug-in for semlens."""

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import functional

import semlens as sl


class Hues(sl.Embedder):
    """``hues/BINS``: how often each hue occurs, weighted by saturation; images only."""

    has_text = False

    def __init__(self, name: str, device: str) -> None:
        self.spec, self.dim = f"hues/{name}", int(name)
        self.fingerprint = f"hues {name}, version 1"

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return hue, saturation and value [3 32 32] in [0, 1]."""
        return functional.to_tensor(image.convert("HSV").resize((32, 32)))

    def _images(self, batch: Tensor) -> Tensor:
        bins = (batch[:, 0].flatten(1) * self.dim).long().clamp_max(self.dim - 1)
        counts = torch.full((len(batch), self.dim), 1e-3)
        return counts.scatter_add_(1, bins, batch[:, 1].flatten(1))


def tiny(name: str) -> tuple[nn.Module, object, list[str]]:
    """``tiny/WIDTH``: an untrained network of two classes."""
    torch.manual_seed(0)
    width = int(name)
    net = nn.Sequential(
        nn.Conv2d(3, width, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, 2),
    )  # fmt: skip
    return net, lambda image: functional.to_tensor(image.resize((32, 32))), ["first", "second"]
