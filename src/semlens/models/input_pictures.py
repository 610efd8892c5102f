"""Pictures of a model's inputs: preprocessing undone as far as brightness goes."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from semlens.models.subject import SubjectModel


def input_pictures(model: SubjectModel, inputs: Float[Tensor, "b 3 h w"]) -> list[Image.Image]:
    """Return inputs as pictures, at the size that the model sees.

    The values that the preprocessing gives to black and to white tell how to scale each colour. If
    they are equal, since every image is normalised by itself, its own extremes are used.
    """
    black, white = (
        model.preprocess(Image.new("RGB", (64, 64), colour)).flatten(1).median(1).values.double()
        for colour in ("black", "white")
    )
    values = inputs.detach().cpu().double()
    flat = values.flatten(2)
    usable = (white - black).abs() > 1e-6
    low = torch.where(usable, black, flat.amin(2))[..., None, None]
    high = torch.where(usable, white, flat.amax(2))[..., None, None]
    scaled = ((values - low) / (high - low).where(high != low, torch.ones_like(high))).clamp(0, 1)
    pixels = (255 * scaled).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    return [Image.fromarray(one) for one in pixels]
