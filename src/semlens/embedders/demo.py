"""The bundled foundation model: an image tower and a text tower with a 384-dimensional space.

Small (7.5 MB) and trained in ``demo_world/`` on emoji and clip art only, so that the demo runs
offline. Do not use it for photographs; use a real CLIP for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semlens.embedders.demo_towers import (
    DIMENSION,
    IMAGE_ASSET,
    INPUT_SIZE,
    TEXT_ASSET,
    VOCABULARY_ASSET,
    load_text_tower,
)
from semlens.embedders.embedder import Embedder
from semlens.recipe import fingerprint
from semlens.regular_files import file_digest

if TYPE_CHECKING:
    from semlens.embedders.demo_towers import ImageTower
else:
    ImageTower = object


def letterboxed(image: Image.Image, side: int) -> Tensor:
    """Return a square float32 [3 side side] in [-1, 1] of an image of any size.

    The longer side is scaled to ``side`` pixels and the shorter one is padded with the mean colour
    of the image's border, which preserves the aspect ratio.
    """
    pixels = np.array(_letterbox(image.convert("RGB"), side), dtype=np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32).div(127.5).sub(1.0)


def _letterbox(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.BICUBIC)
    if size == (side, side):
        return image
    pixels = np.asarray(image, dtype=np.float32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).mean(0)
    canvas = Image.new("RGB", (side, side), tuple(round(float(c)) for c in border))
    canvas.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
    return canvas


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
        from semlens.embedders.demo_towers import load_image_tower

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
