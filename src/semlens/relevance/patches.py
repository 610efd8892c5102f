"""Cutting images down to what a peak of an early layer sees.

Patches start at multiples of the layer's stride, so that all positions on the way line up, and
lie inside the image. Where a patch ends within the image, its border is wrong (zeros instead
of neighbours), but only at positions that the peak does not see.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from semlens.relevance.boxes import Field
from semlens.relevance.interface import Tracer

_WORTH_IT = 0.6
"""Patches pay off below this share of the image: each pair has its own forward pass."""


@dataclass(frozen=True)
class Frame:
    """The size of patches for one layer.

    Parameters
    ----------
    height, width
        Of a patch, in pixels: multiples of the stride.
    columns, inner_columns
        Width of the layer's map over an image, and over a patch.
    """

    field: Field
    height: int
    width: int
    columns: int
    inner_columns: int


def frame_of(engine: Tracer, layer: str, inputs: Float[Tensor, "u 3 h w"]) -> Frame | None:
    """Return the patches that suit a layer, or None when whole images are as good."""
    field = engine.field(layer)
    high, wide = inputs.shape[-2:]
    if field is None or high % field.stride[0] or wide % field.stride[1]:
        return None
    height, width = (
        -(-(size + stride - 1) // stride) * stride
        for size, stride in zip(field.size, field.stride, strict=True)
    )
    if height > high or width > wide or height * width > _WORTH_IT * high * wide:
        return None
    return Frame(field, height, width, wide // field.stride[1], width // field.stride[1])


def cut(
    frame: Frame,
    inputs: Float[Tensor, "u 3 h w"],
    image: Int[Tensor, " p"],
    position: Int[Tensor, " p"],
) -> tuple[Float[Tensor, "p 3 y x"], Int[Tensor, "p 2"], Int[Tensor, " p"]]:
    """Cut each pair's patch out of its image.

    Returns
    -------
    tuple
        The patches, their top left corners, and the peaks' flat positions within them.
    """  # fmt: skip
    position = position.cpu()
    place = torch.stack([position // frame.columns, position % frame.columns], dim=1)
    stride = torch.tensor(frame.field.stride)
    corner = place * stride + torch.tensor(frame.field.first)
    corner = torch.div(corner, stride, rounding_mode="floor") * stride
    most = torch.tensor(inputs.shape[-2:]) - torch.tensor([frame.height, frame.width])
    corner = torch.minimum(corner.clamp(min=0), most)
    patches = torch.stack(
        [
            inputs[row, :, top : top + frame.height, left : left + frame.width]
            for row, (top, left) in zip(image.tolist(), corner.tolist(), strict=True)
        ]
    )
    inner = place - torch.div(corner, stride, rounding_mode="floor")
    return patches, corner, inner[:, 0] * frame.inner_columns + inner[:, 1]
