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
        image_tower, text_tower = demo_towers.load_towers()
        self._image_tower = image_tower.eval().to(device)
        self._text_tower = text_tower.eval()
        self._device = torch.device(device)
        self.fingerprint = fingerprint(
            "semlens/demo", weights_digest(image_tower), weights_digest(text_tower)
        )
        self.dim = int(self._texts([""]).shape[1])

    def preprocess(self, image: Image.Image) -> Tensor:
        """Resize to the tower's 96 x 96 input."""
        return demo_towers.preprocess(image)

    def _images(self, batch: Tensor) -> Tensor:
        return self._image_tower(batch.to(self._device))

    @torch.inference_mode()
    def _texts(self, texts: Sequence[str]) -> Tensor:
        return self._text_tower(list(texts))
