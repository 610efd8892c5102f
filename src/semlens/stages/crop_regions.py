"""Attribute: the box in which a component reacts, for each of its examples (paper, H.1).

Heatmaps say where: activation maps, or conditional relevance of the pixels.

The work follows the samples: one decode and one forward pass, up to the deepest layer
that is needed, serve all components that refer to a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Int64
from PIL import Image
from torch import Tensor

from semlens.data.prefetch import prefetch
from semlens.models.activations import LayerLayout, spatial
from semlens.models.hooks import run_layers
from semlens.models.subject import SubjectModel
from semlens.relevance.conditional_heatmaps import (
    backward_heatmaps,
    batches,
    conditional_heatmaps,
    frame_of,
    pairs_per_pass,
)
from semlens.relevance.heatmap_boxes import MASK_CELLS, boxes, heatmaps, masks
from semlens.relevance.make_engine import Engines
from semlens.relevance.protocols import RelevanceEngine
from semlens.stages.batches import batch_inputs, prepared_batches
from semlens.types import Box, Readout

_AT_ONCE = 256
"""Heatmaps that are blurred together."""


@dataclass(frozen=True)
class ExamplePairs:
    """Examples to be cut out: n pairs of a component and a sample, sorted by sample.

    Parameters
    ----------
    layer
        int32[n], place in the list of layers.
    channel, sign
        int32[n] and int8[n].
    sample
        int64[n]: its number, or its row in a batch.
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

    def of(self, samples: Sequence[int]) -> ExamplePairs:
        """Return the pairs of consecutive referenced samples."""
        start = np.searchsorted(self.sample, samples[0], "left")
        stop = np.searchsorted(self.sample, samples[-1], "right")
        return ExamplePairs(*(column[start:stop] for column in vars(self).values()))

    def tensors(self, rows: np.ndarray) -> Iterator[Int64[Tensor, " n"]]:
        """Yield sample, channel, sign and position of some pairs."""
        for column in (self.sample, self.channel, self.sign, self.position):
            yield torch.from_numpy(column[rows].astype(np.int64))


Keep = Callable[[np.ndarray, Tensor, float], None]
"""Takes rows of the pairs, their blurred heatmaps float32[n h w], and the box's threshold."""


Heatmaps = Callable[[Tensor, ExamplePairs, Keep], None]
"""One kind of heatmap, for some of the layers: shows ``Keep`` those of its layers' pairs on a
batch float[b 3 h w]."""


@dataclass(frozen=True)
class ActivationMaps:
    """Up-sampled activation maps of the components themselves.

    Parameters
    ----------
    forms
        By place in the list of layers, those that are cropped this way.
    """

    model: SubjectModel
    forms: Mapping[int, LayerLayout]
    blur: float
    threshold: float

    def __call__(self, inputs: Tensor, pairs: ExamplePairs, keep: Keep) -> None:
        """Show the maps; a layer without a map shows none."""
        height, width = inputs.shape[-2:]
        used = set(np.unique(pairs.layer).tolist())
        wanted = {form.name: number for number, form in self.forms.items() if number in used}

        def cut(name: str, output: Any) -> None:
            number = wanted[name]
            maps = spatial(self.forms[number], output)
            if maps is None:
                return
            rows = np.flatnonzero(pairs.layer == number)
            for start in range(0, len(rows), _AT_ONCE):
                part = rows[start : start + _AT_ONCE]
                image, channel, sign, _ = pairs.tensors(part)
                picked = maps[image, channel] * sign.to(maps)[:, None, None]
                keep(part, heatmaps(picked, height, width, self.blur), self.threshold)

        if wanted:
            run_layers(self.model.module, inputs, list(wanted), cut, stop_early=True)


@dataclass(frozen=True)
class ConditionalMaps:
    """Relevance of the pixels for a component, started at its peak (CRP).

    Parameters
    ----------
    names
        By place in the list of layers, those that are cropped this way.
    readout
        With ``cls``, relevance starts at the class token, where the component is read; else at
        its largest spatial activation.
    engines
        Of the model.
    """

    names: Mapping[int, str]
    readout: Readout
    engines: Engines
    blur: float
    threshold: float

    def __call__(self, inputs: Tensor, pairs: ExamplePairs, keep: Keep) -> None:
        """Show the maps: one forward pass per image, one backward pass for many pairs."""
        if not np.isin(pairs.layer, list(self.names)).any():
            return
        engine = self.engines.engine(inputs, list(self.names.values()))
        early = [n for n, name in self.names.items() if frame_of(engine, name, inputs) is not None]
        for number in early:
            self._patches(engine, inputs, pairs, number, keep)
        late = {n: name for n, name in self.names.items() if n not in early}
        self._images(engine, inputs, pairs, late, keep)

    def _patches(
        self, engine: RelevanceEngine, inputs: Tensor, pairs: ExamplePairs, number: int, keep: Keep
    ) -> None:
        """Treat an early layer: each pair from what its peak sees."""
        mine = np.flatnonzero(pairs.layer == number)
        for start in range(0, len(mine), _AT_ONCE):
            rows = mine[start : start + _AT_ONCE]
            image, channel, sign, position = pairs.tensors(rows)
            heat = conditional_heatmaps(
                engine, inputs, self.names[number], image, channel, sign, position=position
            )
            self._show(rows, heat.float(), keep)

    def _images(
        self,
        engine: RelevanceEngine,
        inputs: Tensor,
        pairs: ExamplePairs,
        names: Mapping[int, str],
        keep: Keep,
    ) -> None:
        """Treat the later layers: one forward pass per image serves them all."""
        mine = np.flatnonzero(np.isin(pairs.layer, list(names)))
        if not len(mine):
            return
        chunk = pairs_per_pass(engine, engine.order(list(names.values()))[-1])
        for rows, part in batches(pairs.sample[mine].tolist(), chunk):
            members = mine[part]
            here = {n: names[n] for n in np.unique(pairs.layer[members]).tolist()}
            trace = engine.trace(inputs[rows], [engine.order(list(here.values()))[-1]])
            place = np.zeros(len(inputs), np.int64)
            place[rows] = np.arange(len(rows))
            for number, name in here.items():
                own = members[pairs.layer[members] == number]
                image, channel, sign, _ = pairs.tensors(own)
                local = torch.from_numpy(place)[image]
                position = torch.zeros_like(local) if self.readout == "cls" else None
                heat = backward_heatmaps(trace, name, local, channel, sign, chunk, position)
                self._show(own, heat.float(), keep)

    def _show(self, rows: np.ndarray, heat: Tensor, keep: Keep) -> None:
        height, width = heat.shape[-2:]
        for start in range(0, len(rows), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            keep(rows[part], heatmaps(heat[part], height, width, self.blur), self.threshold)


@dataclass(frozen=True)
class CropRegion:
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


Attributor = Callable[
    [Sequence[int], ExamplePairs, Callable[[int], Image.Image], Callable[[int], None]],
    list[CropRegion],
]
"""One way to find regions: given samples, all pairs, what reads a sample, and what is told how many
are done, it returns the regions of all pairs of these samples, in the pairs' order."""


@dataclass(frozen=True)
class WholeImage:
    """No crop: the box is the image."""

    workers: int = 2

    def __call__(
        self,
        samples: Sequence[int],
        pairs: ExamplePairs,
        read: Callable[[int], Image.Image],
        progress: Callable[[int], None],
    ) -> list[CropRegion]:
        """Return each pair's whole image."""
        sizes: dict[int, tuple[int, int]] = {}
        for sample, image in zip(samples, prefetch(read, samples, self.workers), strict=True):
            sizes[sample] = image.size
            progress(1)
        return [CropRegion(Box(0, 0, *sizes[int(number)])) for number in pairs.of(samples).sample]


@dataclass(frozen=True)
class HeatmapCrops:
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
        pairs: ExamplePairs,
        read: Callable[[int], Image.Image],
        progress: Callable[[int], None],
    ) -> list[CropRegion]:
        """Return each pair's region; a component without a map gets the model's whole view."""
        geometry = self.model.geometry()
        found: list[CropRegion] = []
        for batch in prepared_batches(self.model, read, samples, self.batch_size, self.workers):
            numbers = [one.number for one in batch]
            sizes = {one.number: one.size for one in batch}
            mine = pairs.of(numbers)
            by_row = replace(mine, sample=np.searchsorted(np.asarray(numbers), mine.sample))
            view, masks = self._regions(batch_inputs(self.model, batch), by_row)
            for sample, box, mask in zip(mine.sample, view, masks, strict=True):
                to = geometry(*sizes[int(sample)]).to_original
                found.append(CropRegion(to(*(float(edge) for edge in box)), mask.tobytes()))
            progress(len(batch))
        return found

    def _regions(self, inputs: Tensor, pairs: ExamplePairs) -> tuple[np.ndarray, np.ndarray]:
        """Boxes int64[n 4] in input pixels, and packed masks uint8[n 32]."""
        height, width = inputs.shape[-2:]
        box = np.tile(np.array([0, 0, width, height]), (len(pairs), 1))
        mask = np.full((len(pairs), MASK_CELLS**2 // 8), 255, np.uint8)

        def keep(rows: np.ndarray, heat: Tensor, threshold: float) -> None:
            edges = boxes(heat, threshold)
            box[rows] = edges.cpu().numpy()
            shown = masks(heat, edges).flatten(1).cpu().numpy()
            mask[rows] = np.packbits(shown, axis=1)

        for maps in self.maps:
            maps(inputs, pairs, keep)
        return box, mask
