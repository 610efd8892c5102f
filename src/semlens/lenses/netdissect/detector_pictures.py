"""Images of detectors: dark where the component is off, with the mask of its concept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64
from PIL import Image
from scipy.ndimage import binary_erosion

from semlens.draw.heatmap_mask import resize_heatmap
from semlens.draw.palette import AGAINST, rgb
from semlens.lenses.netdissect.labelled_images import LabelledImages
from semlens.lenses.netdissect.layer_maps import stream_maps, upsampled
from semlens.models.subject import input_pictures
from semlens.types import Component

OPACITY = 0.65
"""Opacity of the black where a component is off."""


def detector_strips(
    labelled: LabelledImages,
    frame: pd.DataFrame,
    names: Sequence[str],
) -> list[list[Image.Image]]:
    """Return the images of some components, strongest first, as the model sees them.

    They are dark where the component is off; the mask of its concept is outlined.

    Parameters
    ----------
    frame
        ``component``, ``concept``, ``threshold`` and ``strongest`` (numbers of the images).
    """
    return [
        _strip(
            labelled,
            Component.parse(record["component"]),
            names.index(record["concept"]),
            record["threshold"],
            np.array(record["strongest"]),
        )
        for record in frame.to_dict("records")
    ]


def _strip(
    labelled: LabelledImages,
    component: Component,
    concept: int,
    threshold: float,
    samples: Int64[np.ndarray, " images"],
) -> list[Image.Image]:
    database = labelled.database
    model, column = database.model, database.row(component) - database.layer(component.layer).first
    inputs = model.batch([model.prepare(labelled.image(int(sample))) for sample in samples])
    stream = stream_maps(database, labelled.image, samples, [component.layer], len(samples), None)
    _, maps = next(stream)
    on = upsampled(maps[component.layer][:, column], labelled.grid) > threshold
    masks = labelled.masks_of(samples)
    return [
        detector_picture(picture, on[i].cpu().numpy(), mask.of(concept))
        for i, (picture, mask) in enumerate(zip(input_pictures(model, inputs), masks, strict=True))
    ]


def detector_picture(
    picture: Image.Image, on: Bool[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]
) -> Image.Image:
    """Darken a picture where a component is off, and outline the mask of a concept."""
    pixels = np.asarray(picture, np.float32)
    shown = resize_heatmap(on, picture.size)[:, :, None] > 0.5
    inside = resize_heatmap(mask, picture.size) > 0.5
    pixels = np.where(shown, pixels, pixels * (1 - OPACITY))
    eroded = np.asarray(binary_erosion(inside), dtype=bool)
    pixels[inside & ~eroded] = rgb(AGAINST)
    return Image.fromarray(pixels.round().astype(np.uint8))
