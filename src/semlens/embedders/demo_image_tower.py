"""The image tower of ``semlens/demo``."""

from __future__ import annotations

from pathlib import Path

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from semlens.embedders.demo_space import DIMENSION, IMAGE_ASSET
from semlens.embedders.quantised import load_quantised

BODY = "efficientnet_lite0"
BODY_FEATURES = 1280
BATCH_NORM_EPSILON = 1e-3  # as in the published weights; timm's default for this body differs


class ImageTower(nn.Module):
    """EfficientNet-Lite0 body and a linear projection to unit vectors."""

    def __init__(self, dimension: int = DIMENSION) -> None:
        super().__init__()
        self.body = timm.create_model(BODY, pretrained=False, num_classes=0)
        for module in self.body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = BATCH_NORM_EPSILON
        self.projection = nn.Linear(BODY_FEATURES, dimension)

    def forward(self, images: Tensor) -> Tensor:
        """Map preprocessed images [B 3 96 96] to unit vectors [B dimension]."""
        return F.normalize(self.projection(self.body(images)).float(), dim=-1)


def load_image_tower(folder: Path) -> ImageTower:
    """Load the image tower of ``folder`` (``image.safetensors``)."""
    tower = ImageTower()
    load_quantised(tower, folder / IMAGE_ASSET)
    return tower.eval()
