"""Light variation of training images, in their own pixels: any preprocessing can follow."""

from __future__ import annotations

import numpy as np
from PIL import Image

CUT = 0.2
"""How much of a side a random cut-out may leave away."""


def varied(image: Image.Image, draw: np.random.Generator, *, flip: bool) -> Image.Image:
    """Return a random part of an image at the image's own size, perhaps mirrored.

    Shape and size stay, since the preprocessing may rely on them.
    """
    share = 1 - CUT * draw.random()
    left, top = draw.random(2) * (1 - share) * np.array(image.size)
    box = (left, top, left + share * image.width, top + share * image.height)
    changed = image.resize(image.size, Image.Resampling.BILINEAR, box)
    if flip and draw.random() < 0.5:
        changed = changed.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return changed
