"""Attribute: the box in which a component reacts, for each of its examples (paper, H.1).

The work follows the samples: one decode and one forward pass, up to the deepest layer
that is needed, serve all components that refer to a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from semlens.data.prefetch import prefetch
from semlens.models.subject import SubjectModel
from semlens.relevance.boxes import MASK_CELLS, boxes, masks
from semlens.stages.batches import batch_inputs, prepared_batches
from semlens.stages.heat import Heatmaps, Pairs
from semlens.types import Box


@dataclass(frozen=True)
class References:
    """Examples to be cut out: n pairs of a component and a sample, sorted by sample.

    Parameters
    ----------
    layer
        int32[n], place in the list of layers.
    channel, sign
        int32[n] and int8[n].
    sample
        int64[n].
    position
        int32[n], flat position of the peak in the layer's map or token row.
    """

    layer: Int[np.ndarray, " n"]
    channel: Int[np.ndarray, " n"]
    sign: Int[np.ndarray, " n"]
    sample: Int[np.ndarray, " n"]
    position: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.sample)

    def of(self, samples: Sequence[int]) -> slice:
        """Return where the pairs of consecutive referenced samples stand."""
        start = np.searchsorted(self.sample, samples[0], "left")
        return slice(int(start), int(np.searchsorted(self.sample, samples[-1], "right")))


@dataclass(frozen=True)
class Region:
    """Where a component reacts in an image.

    Parameters
    ----------
    box
        In original pixels.
    mask
        Display mask over the box, bool[16 16] packed to 32 bytes; None for a whole image.
    """

    box: Box
    mask: bytes | None = None


@runtime_checkable
class Attributor(Protocol):
    """One way to find regions: one for each pair of some samples."""

    def __call__(
        self,
        samples: Sequence[int],
        references: References,
        read: Callable[[int], Image.Image],
        progress: Callable[[int], None],
    ) -> list[Region]:
        """Return the regions of all pairs of the given samples, in the pairs' order."""
        ...


@dataclass(frozen=True)
class WholeImage:
    """No crop: the box is the image."""

    workers: int = 2

    def __call__(
        self,
        samples: Sequence[int],
        references: References,
        read: Callable[[int], Image.Image],
        progress: Callable[[int], None],
    ) -> list[Region]:
        """Return each pair's whole image."""
        numbers = references.sample[references.of(samples)]
        sizes: dict[int, tuple[int, int]] = {}
        for sample, image in zip(samples, prefetch(read, samples, self.workers), strict=True):
            sizes[sample] = image.size
            progress(1)
        return [Region(Box(0, 0, *sizes[int(number)])) for number in numbers]


@dataclass(frozen=True)
class Cut:
    """Boxes from heatmaps: batches of images are decoded once and shown to every kind of map.

    Parameters
    ----------
    maps
        Makes the heatmaps; each kind for the layers that are its own.
    """

    model: SubjectModel
    maps: Sequence[Heatmaps]
    batch_size: int = 32
    workers: int = 2

    def __call__(
        self,
        samples: Sequence[int],
        references: References,
        read: Callable[[int], Image.Image],
        progress: Callable[[int], None],
    ) -> list[Region]:
        """Return each pair's region; a component without a map gets the model's whole view."""
        geometry = self.model.geometry()

        found: list[Region] = []
        for batch in prepared_batches(self.model, read, samples, self.batch_size, self.workers):
            numbers = [one.number for one in batch]
            sizes = {one.number: one.size for one in batch}
            part = references.of(numbers)
            inputs = batch_inputs(self.model, batch)
            place = np.searchsorted(np.asarray(numbers), references.sample[part])
            pairs = Pairs(
                references.layer[part],
                place,
                references.channel[part],
                references.sign[part],
                references.position[part],
            )
            view, masks = self._regions(inputs, pairs)
            for sample, box, mask in zip(references.sample[part], view, masks, strict=True):
                to = geometry(*sizes[int(sample)]).to_original
                found.append(Region(to(*(float(edge) for edge in box)), mask.tobytes()))
            progress(len(batch))
        return found

    def _regions(self, inputs: Tensor, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
        """Boxes int64[n 4] in input pixels, and packed masks uint8[n 32]."""
        height, width = inputs.shape[-2:]
        box = np.tile(np.array([0, 0, width, height]), (len(pairs.layer), 1))
        mask = np.full((len(pairs.layer), MASK_CELLS**2 // 8), 255, np.uint8)

        def keep(rows: np.ndarray, heat: Tensor, threshold: float) -> None:
            edges = boxes(heat, threshold)
            box[rows] = edges.cpu().numpy()
            shown = masks(heat, edges).flatten(1).cpu().numpy()
            mask[rows] = np.packbits(shown, axis=1)

        for maps in self.maps:
            maps(inputs, pairs, keep)
        return box, mask
