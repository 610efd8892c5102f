"""The bundled foundation model: an image tower and a text tower with a 384-dimensional space.

Small (7.5 MB) and trained in ``demo_world/`` on emoji and clip art only, so that the demo runs
offline. Do not use it for photographs; use a real CLIP for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from semlens.embedders.demo_space import (
    DIMENSION,
    IMAGE_ASSET,
    INPUT_SIZE,
    TEXT_ASSET,
    VOCABULARY_ASSET,
)
from semlens.embedders.demo_text_tower import load_text_tower
from semlens.embedders.embedder import Embedder
from semlens.embedders.letterbox import letterboxed
from semlens.recipe import fingerprint
from semlens.regular_files import file_digest

if TYPE_CHECKING:
    from semlens.embedders.demo_image_tower import ImageTower
else:
    ImageTower = object

ASSETS = files("semlens") / "assets" / "demo"


class DemoEmbedder(Embedder):
    """``semlens/demo``: trained on emoji and clip art, weak on photographs; ignores word order."""

    has_text = True
    spec = "semlens/demo"

    def __init__(self, device: str = "cpu") -> None:
        with as_file(ASSETS) as assets:
            self._text_tower = load_text_tower(assets)
            names = (IMAGE_ASSET, TEXT_ASSET, VOCABULARY_ASSET)
            digests = [file_digest(assets / name) for name in names]
        self._device = torch.device(device)
        self.fingerprint = fingerprint(self.spec, *digests)
        self.dim = DIMENSION

    @cached_property
    def _image_tower(self) -> ImageTower:
        # on first use: a search by text needs neither the weights nor timm, which takes seconds
        from semlens.embedders.demo_image_tower import load_image_tower

        with as_file(ASSETS) as assets:
            return load_image_tower(assets).to(self._device)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Scale and pad the image to the 96 x 96 input of the tower."""
        return letterboxed(image, INPUT_SIZE)

    def understands(self, text: str) -> bool:
        """Whether a word of a text, or a part of one, is in the vocabulary."""
        return bool(self._text_tower.token_ids([text])[0])

    def _images(self, batch: Tensor) -> Tensor:
        return self._image_tower(batch.to(self._device))

    def _texts(self, texts: Sequence[str]) -> Tensor:
        return self._text_tower.encode(texts)
