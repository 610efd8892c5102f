"""Masks of the marks of a world, from the difference between images with and without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image
from scipy import ndimage

from semlens.demo.bundled_images import BundledImage, MarkedWorld
from semlens.store.atomic_files import write_atomic

DIFFERENT = 8
"""Grey levels, of 255 in any colour, by which a pixel of the mark differs."""
GAP = 5
"""Pixels of 96 that are closed between the letters of a mark."""


def mark_mask(world: MarkedWorld, picture: BundledImage) -> Bool[np.ndarray, "h w"]:
    """Return where an image with its mark differs from that without, gaps included."""
    marked, clean = (
        np.asarray(world.image(picture, version), np.int16) for version in ("marked", "clean")
    )
    different = (np.abs(marked - clean) > DIFFERENT).any(2)
    padded = np.pad(different, GAP)  # otherwise nothing is closed along the border
    return ndimage.binary_closing(padded, np.ones((GAP, GAP)))[GAP:-GAP, GAP:-GAP]


def write_mark_masks(world: MarkedWorld, folder: Path, concept: str = "text") -> int:
    """Write the masks of all marks that are in the data, as ``folder/CONCEPT/CLASS/....png``.

    Returns
    -------
    int
        Number of masks.
    """
    marked = [picture for picture in world.pictures if picture.marked]
    for picture in marked:
        path = folder / concept / Path(picture.path).relative_to("images").with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = Image.fromarray(mark_mask(world, picture))
        write_atomic(path, lambda part, mask=mask: mask.save(part, "PNG"))
    return len(marked)
