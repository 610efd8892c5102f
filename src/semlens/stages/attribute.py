"""Attribute: the box in which a component reacts, for each of its examples (paper, H.1).

The work follows the samples: one decode and one forward pass, up to the deepest layer
that is needed, serve all components that refer to a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from semlens.data.prefetch import prefetch
from semlens.models.activations import LayerForm, spatial
from semlens.models.subject import SubjectModel
from semlens.models.taps import run_layers
from semlens.relevance.boxes import boxes, heatmaps
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
    """

    layer: Int[np.ndarray, " n"]
    channel: Int[np.ndarray, " n"]
    sign: Int[np.ndarray, " n"]
    sample: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.sample)

    def of(self, samples: Sequence[int]) -> slice:
        """Return where the pairs of consecutive referenced samples stand."""
        start = np.searchsorted(self.sample, samples[0], "left")
        return slice(int(start), int(np.searchsorted(self.sample, samples[-1], "right")))


@runtime_checkable
class Attributor(Protocol):
    """One way to find boxes: for each pair of some samples, a box in original pixels."""

    def __call__(
        self,
        samples: Sequence[int],
        references: References,
        read: Callable[[int], Image.Image],
        progress: Callable[[int], None],
    ) -> list[Box]:
        """Return the boxes of all pairs of the given samples, in the pairs' order."""
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
    ) -> list[Box]:
        """Return each pair's whole image."""
        numbers = references.sample[references.of(samples)]
        sizes: dict[int, tuple[int, int]] = {}
        for sample, image in zip(samples, prefetch(read, samples, self.workers), strict=True):
            sizes[sample] = image.size
            progress(1)
        return [Box(0, 0, *sizes[int(number)]) for number in numbers]


@dataclass(frozen=True)
class ActivationMap:
    """Boxes from the up-sampled activation map of the component itself."""

    model: SubjectModel
    forms: Sequence[LayerForm]
    blur: float
    threshold: float
    batch_size: int = 32
    workers: int = 2

    def __call__(
        self,
        samples: Sequence[int],
        references: References,
        read: Callable[[int], Image.Image],
        progress: Callable[[int], None],
    ) -> list[Box]:
        """Return each pair's box; a component without a map gets the model's whole view."""
        geometry = self.model.geometry()

        def prepare(sample: int) -> tuple[int, Tensor, tuple[int, int]]:
            image = read(sample)
            return sample, self.model.preprocess(image), image.size

        found: list[Box] = []
        stream = prefetch(prepare, samples, self.workers, ahead=2 * self.batch_size)
        for batch in _parts(stream, self.batch_size):
            numbers = [sample for sample, _, _ in batch]
            sizes = {sample: size for sample, _, size in batch}
            part = references.of(numbers)
            inputs = self.model.batch([tensor for _, tensor, _ in batch])
            view = self._boxes(inputs, numbers, references, part)
            for sample, box in zip(references.sample[part], view, strict=True):
                place = geometry(*sizes[int(sample)])
                found.append(place.to_original(*(float(edge) for edge in box)))
            progress(len(batch))
        return found

    def _boxes(
        self, inputs: Tensor, numbers: Sequence[int], references: References, part: slice
    ) -> np.ndarray:
        """Boxes int64[n 4] in input pixels, for the pairs of one batch."""
        height, width = inputs.shape[-2:]
        layers = references.layer[part]
        place = np.searchsorted(np.asarray(numbers), references.sample[part])
        result = np.tile(np.array([0, 0, width, height]), (len(layers), 1))
        wanted: Mapping[str, int] = {self.forms[i].name: int(i) for i in np.unique(layers)}

        def cut(name: str, output: Any) -> None:
            maps = spatial(self.forms[wanted[name]], output)
            if maps is None:
                return
            rows = np.flatnonzero(layers == wanted[name])
            channel = torch.from_numpy(references.channel[part][rows].astype(np.int64))
            sign = torch.from_numpy(references.sign[part][rows].astype(np.float32))
            picked = (
                maps[torch.from_numpy(place[rows]), channel] * sign.to(maps.device)[:, None, None]
            )
            for chunk in range(0, len(rows), 256):
                heat = heatmaps(picked[chunk : chunk + 256], height, width, self.blur)
                found = boxes(heat, self.threshold).cpu().numpy()
                result[rows[chunk : chunk + 256]] = found

        run_layers(self.model.module, inputs, list(wanted), cut, stop_early=True)
        return result


def _parts(stream: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while part := list(islice(stream, size)):
        yield part
