"""The small bundled image-text model: enough to try everything, no match for a real CLIP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from semlens.embedders import demo_towers
from semlens.embedders.base import Embedder
from semlens.models.subject import weights_digest
from semlens.recipe import fingerprint


class DemoEmbedder(Embedder):
    """``semlens/demo``: trained on emoji and clip art; photographs and word order are weak."""

    has_text = True
    spec = "semlens/demo"

    def __init__(self, device: str = "cpu") -> None:
        towers = demo_towers.load_towers()
        self._image_tower = towers.image.to(device)
        self._text_tower = towers.text
        self._device = torch.device(device)
        self.fingerprint = fingerprint(
            self.spec, weights_digest(towers.image), weights_digest(towers.text)
        )
        self.dim = demo_towers.DIMENSION

    def preprocess(self, image: Image.Image) -> Tensor:
        """Scale to the tower's 96 x 96 input, padded to a square."""
        return demo_towers.preprocess_image(image)

    def _images(self, batch: Tensor) -> Tensor:
        return self._image_tower(batch.to(self._device))

    def _texts(self, texts: Sequence[str]) -> Tensor:
        return self._text_tower.encode(texts)
