"""Crop regions from boxes that a user has: the smallest box around a component's peak."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from semlens.data.own_boxes import OwnBoxes
from semlens.data.prefetch import prefetch
from semlens.models.activations import LayerLayout
from semlens.models.preprocess_geometry import Geometry
from semlens.models.subject import SubjectModel
from semlens.stages.crop_regions import CropRegion, RegionRequest
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
        sizes: dict[int, tuple[int, int]] = {}
        found = prefetch(request.size, request.samples, self.workers)
        for sample, size in zip(request.samples, found, strict=True):
            sizes[sample] = size
            request.progress(1)
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
