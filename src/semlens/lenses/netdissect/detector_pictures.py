"""Images on which detectors are strongest, where they are on, and where the concept is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int64

from semlens.lenses.netdissect.labelled_images import LabelledImages
from semlens.lenses.netdissect.layer_maps import stream_maps, upsampled
from semlens.draw.netdissect_plots import DetectorImage
from semlens.models.input_pictures import input_pictures
from semlens.types import Component


def detector_strips(
    labelled: LabelledImages,
    frame: pd.DataFrame,
    names: Sequence[str],
) -> list[list[DetectorImage]]:
    """Return the images of some components, strongest first.

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
) -> list[DetectorImage]:
    """Return the images of one component, as the model sees them."""
    database = labelled.database
    model, column = database.model, database.row(component) - database.layer(component.layer).first
    inputs = model.batch([model.prepare(labelled.image(int(sample))) for sample in samples])
    stream = stream_maps(database, labelled.image, samples, [component.layer], len(samples), None)
    _, maps = next(stream)
    on = upsampled(maps[component.layer][:, column], labelled.grid) > threshold
    masks = labelled.masks_of(samples)
    return [
        DetectorImage(picture, on[i].cpu().numpy(), mask.of(concept))
        for i, (picture, mask) in enumerate(zip(input_pictures(model, inputs), masks, strict=True))
    ]
