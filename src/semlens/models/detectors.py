"""Detectors of torchvision without suppression: all boxes and their scores, for targets."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.ssd import SSD

from semlens.errors import ModelError
from semlens.models.hooks import NamedLayers, layer_modules


class UnsuppressedDetector(NamedLayers):
    """A one-stage detector that returns the logits and the corners of all anchors' boxes.

    Its layers have the names that they have in the detector.

    Parameters
    ----------
    detector
        An SSD (also SSDlite), RetinaNet or FCOS of torchvision.
    """

    def __init__(self, detector: SSD | RetinaNet | FCOS) -> None:
        super().__init__()
        self.detector = detector

    def layers(self) -> dict[str, nn.Module]:
        """Return the layers of the detector."""
        return layer_modules(self.detector)

    def name_of(self, path: str) -> str:
        """Return the layer's name for a path in ``named_modules``."""
        return path.removeprefix("detector").removeprefix(".")

    def forward(self, batch: Float[Tensor, "b channels h w"]) -> dict[str, Tensor]:
        """Return ``logits`` [b n classes], and ``boxes`` [b n 4] as corners in pixels."""
        detector = cast(Any, self.detector)
        height, width = batch.shape[-2:]
        images, size = self._prepared(batch)
        features = detector.backbone(images)
        features = [*features.values()] if isinstance(features, dict) else [features]
        head = detector.head(features)
        (anchors,) = detector.anchor_generator(ImageList(images[:1], [size]), features)
        offsets = head["bbox_regression"]
        flat = anchors[None].expand(offsets.shape[0], -1, -1).flatten(0, 1)
        coder = detector.box_coder
        decode = coder.decode if isinstance(detector, FCOS) else coder.decode_single
        boxes = decode(offsets.flatten(0, 1), flat).unflatten(0, offsets.shape[:2])
        scale = boxes.new_tensor([width / size[1], height / size[0]] * 2)
        return {"logits": head["cls_logits"], "boxes": boxes * scale}

    def _prepared(self, batch: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return what the detector's own transform makes of images of one size."""
        transform = cast(Any, self.detector).transform
        with torch.no_grad():
            blank = torch.zeros(batch.shape[1:], device=batch.device, dtype=batch.dtype)
            prepared, _ = transform([blank])
        size = cast("tuple[int, int]", tuple(prepared.image_sizes[0]))
        moments = (transform.image_mean, transform.image_std)
        mean, std = (batch.new_tensor(values)[:, None, None] for values in moments)
        images = (batch - mean) / std
        if tuple(batch.shape[-2:]) != size:
            images = functional.interpolate(images, size, mode="bilinear", align_corners=False)
        rows, columns = (a - b for a, b in zip(prepared.tensors.shape[-2:], size, strict=True))
        return functional.pad(images, (0, columns, 0, rows)), size


def before_suppression(module: nn.Module) -> nn.Module:
    """Return a detector of torchvision as a model of all its boxes, before suppression.

    A target such as ``box:person@120,40,300,220`` then is the logit of the anchor whose box is
    nearest, relevance starts at this logit, and LRP has rules for all that follows.

    Parameters
    ----------
    module
        An SSD, SSDlite, RetinaNet or FCOS.

    Raises
    ------
    ModelError
        If it is another model, such as a detector of two stages.

    Examples
    --------
    >>> from torchvision.models.detection import ssdlite320_mobilenet_v3_large
    >>> module = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    >>> before_suppression(module.eval())(torch.zeros(1, 3, 320, 320))["boxes"].shape[1:]
    torch.Size([3234, 4])
    """
    if isinstance(module, SSD | RetinaNet | FCOS):
        return UnsuppressedDetector(module)
    raise ModelError(
        f"{type(module).__name__} is not a detector of one stage.",
        "Expected an SSD, SSDlite, RetinaNet or FCOS of torchvision.",
        "Wrap the model so that it returns {'logits': [b n classes], 'boxes': [b n 4]}, the "
        "scores and corners in pixels of all queries or anchors.",
    )
