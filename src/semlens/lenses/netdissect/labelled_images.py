"""The images of a database that have masks, and the masks of each in the model's input."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from PIL import Image

from semlens.data.prefetch import default_workers, prefetch
from semlens.errors import DataError
from semlens.lenses.netdissect.input_masks import InputMasks, grid_size, masks_in_input
from semlens.lenses.netdissect.mask_folder import MaskFolder, load_masks, mask_file
from semlens.store.reader import Database

LEAST_IMAGES = 8
"""Images that are needed to compare maps with the masks of other images."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images of a database with masks.

    Parameters
    ----------
    samples
        Numbers of the images in the database.
    grid
        Rows and columns, over the model's input, at which maps and masks are compared.
    """

    database: Database
    masks: MaskFolder
    samples: Int64[np.ndarray, " n"]
    input_size: tuple[int, int]
    grid: tuple[int, int]
    _sizes: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])

    def image(self, sample: int) -> Image.Image:
        """Return an image of the database, and remember its size."""
        image = self.database.images.read(sample)
        self._sizes[sample] = image.size
        return image

    def masks_of(self, samples: Int64[np.ndarray, " n"]) -> list[InputMasks]:
        """Return the masks of some images of the database.

        Raises
        ------
        ModelError
            If the place of the input in an image is not known.
        DataError
            If a mask cannot be read.
        """
        return list(prefetch(self._read, samples.tolist(), default_workers()))

    def _read(self, sample: int) -> InputMasks:
        size = self._sizes.get(sample) or self.image(sample).size
        path = self.database.sample(sample).path
        geometry = self.database.model.geometry()
        return masks_in_input(self.masks, path, geometry, size, self.input_size, self.grid)


def labelled_images(
    database: Database, folder: str | Path, resolution: int, limit: int | None, seed: int
) -> LabelledImages:
    """Find the images with masks.

    Parameters
    ----------
    resolution
        Rows and columns of the grid at most.
    limit
        Images at most, drawn at random; None for all.

    Raises
    ------
    DataError
        If the masks cannot be read, or are those of fewer than :data:`LEAST_IMAGES` images.
    """
    masks = load_masks(folder)
    paths = database.samples["path"].tolist()
    readable = np.flatnonzero(database.samples["error"].isna())
    samples = np.array([sample for sample in readable.tolist() if masks.covers(paths[sample])])
    if len(samples) < LEAST_IMAGES:
        raise DataError(
            f"'{folder}' has masks of {len(samples)} images of the database.",
            f"Expected at least {LEAST_IMAGES}, such as '{mask_file(paths[readable[0]])}'.",
            "Name masks as the images, with the ending .png.",
        )
    if limit is not None and limit < len(samples):
        samples = np.sort(np.random.default_rng(seed).permutation(samples)[:limit])
    model = database.model
    height, width = model.prepare(database.images.read(int(samples[0]))).shape[-2:]
    grid = grid_size(height, width, resolution)
    return LabelledImages(database, masks, samples, (height, width), grid)
