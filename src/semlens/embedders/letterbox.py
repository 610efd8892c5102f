"""Images of any shape as square inputs."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


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
