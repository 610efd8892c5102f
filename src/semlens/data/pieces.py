"""Cut-outs that are held in memory, as an artefact to insert."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from PIL import Image
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from semlens.data.artefact import Artefact
from semlens.data.artefact_rendering import paste_piece


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class Pieces(Artefact):
    """Cut-outs, one drawn at random per image, at its relative position in the source image.

    The cut-outs of :class:`semlens.data.artefact.Paste`, without files.

    Parameters
    ----------
    of
        What they were cut out of, for people.
    images
        RGBA images; their alpha channel is the mask.
    """

    of: str
    images: tuple[Image.Image, ...]
    name: ClassVar[str] = "mark"

    @property
    def spec(self) -> str:
        """What it is, in words: it has no text form that can be parsed."""
        return f"{len(self.images)} cut-outs of {self.of}"

    def insert(self, image: Image.Image, seed: int) -> Image.Image:
        """Return the image with one cut-out on it."""
        index = int(np.random.default_rng(seed).integers(len(self.images)))
        piece = self.images[index].resize(image.size, Image.Resampling.BILINEAR)
        return paste_piece(image, piece, (0, 0))
