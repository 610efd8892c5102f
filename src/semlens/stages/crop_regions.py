"""Crop regions: the box to which a component responds, for each of its examples (paper, H.1).

Boxes come from heatmaps: activation maps, or conditional relevance of the pixels. Work is
organised by sample: one decode and one forward pass, up to the deepest layer that is needed, serve
all components that refer to a sample.
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
from semlens.models.activations import LayerLayout, spatial_map
from semlens.models.hooks import run_layers
from semlens.models.subject import SubjectModel, batch_inputs, prepared_batches
from semlens.relevance.conditional_heatmaps import (
    backward_heatmaps,
    conditional_heatmaps,
    group_pairs,
    pairs_per_pass,
    patch_geometry,
)
from semlens.relevance.heatmap_boxes import (
    MASK_CELLS,
    bounding_boxes,
    display_masks,
    strongest_slices,
    upsample_and_blur,
)
from semlens.relevance.make_engine import EngineCache
from semlens.relevance.protocols import RelevanceEngine
from semlens.types import Box, Readout

_BLUR_BATCH = 256
"""Number of heatmaps that are blurred together."""


@dataclass(frozen=True)
class ExamplePairs:
    """Examples to be cropped: n pairs of a component and a sample, sorted by sample.

    Parameters
    ----------
    layer
        int32[n], index in the list of layers.
    channel, sign
        int32[n] and int8[n].
    sample
        int64[n], sample number, or row in a batch.
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

    def for_samples(self, samples: Sequence[int]) -> ExamplePairs:
        """Return the pairs of some consecutive referenced samples."""
        start = np.searchsorted(self.sample, samples[0], "left")
        stop = np.searchsorted(self.sample, samples[-1], "right")
        return self.take(slice(start, stop))

    def take(self, rows: np.ndarray | slice) -> ExamplePairs:
        """Return some of the pairs."""
        return ExamplePairs(*(column[rows] for column in vars(self).values()))

    def none(self) -> ExamplePairs:
        """Return no pairs."""
        return self.take(slice(0))

    def tensors(self, rows: np.ndarray) -> Iterator[Int64[Tensor, " n"]]:
        """Yield sample, channel, sign and position of some pairs."""
        for column in (self.sample, self.channel, self.sign, self.position):
            yield torch.from_numpy(column[rows].astype(np.int64))


OnHeatmaps = Callable[[np.ndarray, Tensor, float], None]
"""Called with rows of the pairs, their blurred heatmaps float32[n h w] and the box threshold."""


HeatmapSource = Callable[[Tensor, ExamplePairs, OnHeatmaps], None]
"""One kind of heatmap, for some of the layers: called with a batch float[b 3 h w] and pairs, it
passes the heatmaps of its layers' pairs to a callback."""


@dataclass(frozen=True)
class ActivationMaps:
    """Up-sampled activation maps of the components themselves.

    Parameters
    ----------
    layouts
        The layers that are cropped this way, by index in the list of layers.
    """

    model: SubjectModel
    layouts: Mapping[int, LayerLayout]
    blur: float
    threshold: float

    def __call__(self, inputs: Tensor, pairs: ExamplePairs, on_heatmaps: OnHeatmaps) -> None:
        """Emit the heatmaps; a layer without a spatial map has none."""
        height, width = inputs.shape[-2:]
        used_layers = set(np.unique(pairs.layer).tolist())
        layer_of_name = {
            layout.name: layer_index
            for layer_index, layout in self.layouts.items()
            if layer_index in used_layers
        }

        def emit_maps(name: str, output: Any) -> None:
            layer_index = layer_of_name[name]
            layout = self.layouts[layer_index]
            maps, slices = spatial_map(layout, output), (layout.slices, self.model.slices)
            if maps is None:
                return
            rows = np.flatnonzero(pairs.layer == layer_index)
            for start in range(0, len(rows), _BLUR_BATCH):
                chunk = rows[start : start + _BLUR_BATCH]
                image, channel, sign, _ = pairs.tensors(chunk)
                component_maps = maps[image, channel] * sign.to(maps)[:, None, None]
                on_heatmaps(
                    chunk,
                    upsample_and_blur(component_maps, height, width, self.blur, slices),
                    self.threshold,
                )

        if layer_of_name:
            run_layers(self.model.module, inputs, list(layer_of_name), emit_maps, stop_early=True)


@dataclass(frozen=True)
class ConditionalMaps:
    """Relevance of the pixels for a component, seeded at its peak (CRP).

    Parameters
    ----------
    names
        The layers that are cropped this way, by index in the list of layers.
    readout
        With ``cls``, relevance is seeded at the class token, where the component is read;
        otherwise at its largest spatial activation.
    engines
        Relevance engines of the model.
    slices
        Slices that inputs are made of, see :attr:`SubjectModel.slices`.
    """

    names: Mapping[int, str]
    readout: Readout
    engines: EngineCache
    blur: float
    threshold: float
    slices: int = 1

    def __call__(self, inputs: Tensor, pairs: ExamplePairs, on_heatmaps: OnHeatmaps) -> None:
        """Emit the heatmaps: one forward pass per image, one backward pass for many pairs."""
        if not np.isin(pairs.layer, list(self.names)).any():
            return
        engine = self.engines.engine(inputs, list(self.names.values()))
        early = [
            index
            for index, name in self.names.items()
            if patch_geometry(engine, name, inputs) is not None
        ]
        for index in early:
            self._early_layer(engine, inputs, pairs, index, on_heatmaps)
        late = {index: name for index, name in self.names.items() if index not in early}
        self._late_layers(engine, inputs, pairs, late, on_heatmaps)

    def _early_layer(
        self,
        engine: RelevanceEngine,
        inputs: Tensor,
        pairs: ExamplePairs,
        layer_index: int,
        on_heatmaps: OnHeatmaps,
    ) -> None:
        """Emit the heatmaps of an early layer, computed on the receptive field of each peak."""
        layer_rows = np.flatnonzero(pairs.layer == layer_index)
        for start in range(0, len(layer_rows), _BLUR_BATCH):
            rows = layer_rows[start : start + _BLUR_BATCH]
            image, channel, sign, position = pairs.tensors(rows)
            heatmaps = conditional_heatmaps(
                engine, inputs, self.names[layer_index], image, channel, sign, position=position
            )
            self._blur_and_emit(rows, heatmaps.float(), on_heatmaps)

    def _late_layers(
        self,
        engine: RelevanceEngine,
        inputs: Tensor,
        pairs: ExamplePairs,
        names: Mapping[int, str],
        on_heatmaps: OnHeatmaps,
    ) -> None:
        """Emit the heatmaps of the later layers; one forward pass per image serves them all."""
        selected = np.flatnonzero(np.isin(pairs.layer, list(names)))
        if not len(selected):
            return
        chunk = pairs_per_pass(engine, engine.sort_layers(list(names.values()))[-1])
        for images, batch_pairs in group_pairs(pairs.sample[selected].tolist(), chunk):
            members = selected[batch_pairs]
            batch_layers = {
                index: names[index] for index in np.unique(pairs.layer[members]).tolist()
            }
            trace = engine.trace(
                inputs[images], [engine.sort_layers(list(batch_layers.values()))[-1]]
            )
            row_in_trace = np.zeros(len(inputs), np.int64)
            row_in_trace[images] = np.arange(len(images))
            for layer_index, name in batch_layers.items():
                layer_rows = members[pairs.layer[members] == layer_index]
                image, channel, sign, _ = pairs.tensors(layer_rows)
                trace_row = torch.from_numpy(row_in_trace)[image]
                position = torch.zeros_like(trace_row) if self.readout == "cls" else None
                heatmaps = backward_heatmaps(trace, name, trace_row, channel, sign, chunk, position)
                self._blur_and_emit(layer_rows, heatmaps.float(), on_heatmaps)

    def _blur_and_emit(self, rows: np.ndarray, heatmaps: Tensor, on_heatmaps: OnHeatmaps) -> None:
        height, width = heatmaps.shape[-2:]
        slices = (self.slices, self.slices)
        for start in range(0, len(rows), _BLUR_BATCH):
            chunk = slice(start, start + _BLUR_BATCH)
            on_heatmaps(
                rows[chunk],
                upsample_and_blur(heatmaps[chunk], height, width, self.blur, slices),
                self.threshold,
            )


@dataclass(frozen=True)
class CropRegion:
    """Region of an image to which a component responds.

    Parameters
    ----------
    box
        Box in original pixels.
    mask
        Display mask over the box, bool[16 16] packed to 32 bytes; None for a whole image.
    """

    box: Box
    mask: bytes | None = None


@dataclass(frozen=True)
class RegionRequest:
    """The samples in which regions are to be found.

    Parameters
    ----------
    pairs
        The pairs of these and of all other samples.
    read
        Returns a sample's image.
    size
        Returns its width and height.
    progress
        Called with the number of samples that were finished.
    """

    samples: Sequence[int]
    pairs: ExamplePairs
    read: Callable[[int], Image.Image]
    size: Callable[[int], tuple[int, int]]
    progress: Callable[[int], None]

    def sizes(self, workers: int) -> dict[int, tuple[int, int]]:
        """Return width and height of each sample, read in threads, as all that has to be done."""
        found: dict[int, tuple[int, int]] = {}
        sizes = prefetch(self.size, self.samples, workers)
        for sample, size in zip(self.samples, sizes, strict=True):
            found[sample] = size
            self.progress(1)
        return found


RegionFinder = Callable[[RegionRequest], list[CropRegion]]
"""One way to find the regions of all pairs of the requested samples, in the pairs' order."""


@dataclass(frozen=True)
class WholeImage:
    """No crop: the box is the whole image."""

    workers: int = 2

    def __call__(self, request: RegionRequest) -> list[CropRegion]:
        """Return the whole image for each pair."""
        sizes = request.sizes(self.workers)
        return [
            CropRegion(Box(0, 0, *sizes[int(pair_sample)]))
            for pair_sample in request.pairs.for_samples(request.samples).sample
        ]


@dataclass(frozen=True)
class HeatmapCrops:
    """Boxes from heatmaps: each batch of images is decoded once for all kinds of heatmaps.

    Parameters
    ----------
    maps
        Compute the heatmaps, each for its own layers.
    """

    model: SubjectModel
    maps: Sequence[HeatmapSource]
    batch_size: int = 32
    workers: int = 2

    def __call__(self, request: RegionRequest) -> list[CropRegion]:
        """Return each pair's region; without a map, the whole input of the model.

        In a volume, it is in the slice with the strongest position.
        """
        geometry = self.model.geometry()
        regions: list[CropRegion] = []
        for batch in prepared_batches(
            self.model, request.read, request.samples, self.batch_size, self.workers
        ):
            batch_samples = [item.sample for item in batch]
            sizes = {item.sample: item.size for item in batch}
            batch_pairs = request.pairs.for_samples(batch_samples)
            pairs_by_row = replace(
                batch_pairs, sample=np.searchsorted(np.asarray(batch_samples), batch_pairs.sample)
            )
            input_boxes, masks = self._regions(batch_inputs(self.model, batch), pairs_by_row)
            for sample, box, mask in zip(batch_pairs.sample, input_boxes, masks, strict=True):
                to_original = geometry(*sizes[int(sample)]).to_original
                regions.append(
                    CropRegion(to_original(*(float(edge) for edge in box)), mask.tobytes())
                )
            request.progress(len(batch))
        return regions

    def _regions(self, inputs: Tensor, pairs: ExamplePairs) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes int64[n 4] in input pixels, and packed masks uint8[n 32]."""
        height, width = inputs.shape[-2:]
        boxes = np.tile(np.array([0, 0, width, height]), (len(pairs), 1))
        packed_masks = np.full((len(pairs), MASK_CELLS**2 // 8), 255, np.uint8)

        def store(rows: np.ndarray, heatmaps: Tensor, threshold: float) -> None:
            heatmaps = strongest_slices(heatmaps, self.model.slices)
            input_boxes = bounding_boxes(heatmaps, threshold)
            boxes[rows] = input_boxes.cpu().numpy()
            cells = display_masks(heatmaps, input_boxes).flatten(1).cpu().numpy()
            packed_masks[rows] = np.packbits(cells, axis=1)

        for maps in self.maps:
            maps(inputs, pairs, store)
        return boxes, packed_masks
