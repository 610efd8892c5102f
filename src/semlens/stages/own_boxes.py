"""Crops to boxes that a user has: the smallest box around a component's peak."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from semlens.data.own_boxes import OwnBoxes
from semlens.errors import RecipeError, StaleError
from semlens.models.activations import LayerLayout
from semlens.models.preprocess_geometry import Geometry
from semlens.models.subject import SubjectModel
from semlens.recipe import Recipe
from semlens.stages.crop_regions import CropRegion, ExamplePairs, RegionRequest
from semlens.store.manifest import Manifest
from semlens.types import Box


@dataclass(frozen=True)
class OwnBoxRegions:
    """The smallest of an image's boxes that contains the position where a component reacts most.

    The position is the centre of the cell of the layer's map, in pixels of the original. Where no
    box contains it, as in padding around the image, and where a layer has no positions, the region
    is the whole image.

    Parameters
    ----------
    layouts
        The layers, in the order of the pairs' indices.
    ids
        Id of each sample of the data.
    workers
        Threads that read sizes.
    """

    model: SubjectModel
    layouts: Sequence[LayerLayout]
    boxes: OwnBoxes
    ids: Sequence[str]
    workers: int = 2

    @cached_property
    def _geometry(self) -> Callable[[int, int], Geometry]:
        return self.model.geometry()

    @cached_property
    def _input_size(self) -> tuple[int, int]:
        height, width = self.model.example.shape[-2:]
        return height, width

    def __call__(self, request: RegionRequest) -> list[CropRegion]:
        """Return each pair's region; its mask is that of a whole image."""
        height, width = self._input_size
        sizes = request.sizes(self.workers)
        pairs = request.pairs.for_samples(request.samples)
        regions: list[CropRegion] = []
        for layer, sample, position in zip(
            pairs.layer.tolist(), pairs.sample.tolist(), pairs.position.tolist(), strict=True
        ):
            size, name = sizes[sample], self.ids[int(sample)]
            box = None
            centre = cell_centre(self.layouts[layer], position)
            if centre is not None and name in self.boxes.by_image:
                x, y = self._geometry(*size).point(centre[0] * width, centre[1] * height)
                box = self.boxes.smallest_at(name, x, y, size)
            regions.append(CropRegion(Box(0, 0, *size) if box is None else box))
        return regions


def cell_centre(layout: LayerLayout, position: int) -> tuple[float, float] | None:
    """Return the centre of a cell of a layer's map as shares of its width and height.

    Returns
    -------
    tuple or None
        None for a layer without a map, and for the position of a class token or register.
    """
    cell = position - layout.prefix
    if not layout.height or cell < 0:
        return None
    row, column = divmod(cell, layout.width)
    return (column + 0.5) / layout.width, (row + 0.5) / layout.height


_MANY = 0.5
"""Share of a layer's examples without a box above which the file is suspected."""


class BoxesWarning(UserWarning):
    """Most examples have no box where the component reacts most."""


def check_boxes(recipe: Recipe, *, given: bool) -> None:
    """Raise an error if boxes are given and not used, or the other way round.

    Raises
    ------
    RecipeError
        If only one of crop='boxes' and boxes is given.
    """
    if given == (recipe.crop == "boxes"):
        return
    raise RecipeError(
        f"The crop is '{recipe.crop}', and boxes are {'given' if given else 'missing'}.",
        "Expected both crop='boxes' and a file of boxes, or neither.",
        "Pass crop='boxes', boxes=FILE (--crop boxes --boxes FILE).",
    )


def check_same_boxes(manifest: Manifest, boxes: OwnBoxes | None, ids: Sequence[str]) -> None:
    """Raise an error if the images of a database have other boxes than at the time of the build.

    Parameters
    ----------
    ids
        Ids of these images.

    Raises
    ------
    StaleError
        If they have.
    """
    if manifest.boxes is None or boxes is None:  # a difference of the recipe is found elsewhere
        return
    if boxes.fingerprint(ids) != manifest.boxes.fingerprint:
        raise StaleError(
            f"The boxes '{boxes.spec}' are not those of the database: some of its images have "
            "others.",
            f"Expected the boxes of '{manifest.boxes.spec}' at the time of the build.",
            "Restore them, or build a new database.",
        )


def count_without_box(
    boxes: OwnBoxes,
    ids: Sequence[str],
    layout: LayerLayout,
    pairs: ExamplePairs,
    regions: np.ndarray,
) -> int:
    """Return how many examples of a layer are whole images for want of a box.

    Parameters
    ----------
    ids
        Id of each sample.
    pairs
        The pairs of the layer.
    regions
        int32[n 4], the region of each.

    Warns
    -----
    BoxesWarning
        If most examples of a layer with positions have no box.
    """
    count = sum(
        not boxes.has(ids[int(sample)], Box(*region))
        for sample, region in zip(pairs.sample.tolist(), regions.tolist(), strict=True)
    )
    if layout.height and count > _MANY * len(pairs):
        warnings.warn(
            f"{count} of {len(pairs)} examples of layer '{layout.name}' have no box where the "
            "component reacts most, so that they are whole images. Are the boxes of "
            f"'{boxes.spec}' in pixels of the upright originals?",
            BoxesWarning,
            stacklevel=2,
        )
    return count
