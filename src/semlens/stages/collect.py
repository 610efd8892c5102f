"""Collecting examples and statistics: one pass over the data for all layers (paper, 3.1).

A shard is a run of whole batches. Batches are numbered over the whole data set, so that a sample
is always in the same batch, whatever the shards.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from semlens.data.images import Images
from semlens.models.activations import (
    LayerLayout,
    LayerReadouts,
    compute_readouts,
    layout_of_image,
)
from semlens.models.hooks import FittingBatches, run_layers
from semlens.models.subject import SubjectModel, batch_inputs, prepared_batches
from semlens.relevance.class_relevance import explain_batch, images_per_pass
from semlens.relevance.make_engine import EngineCache
from semlens.streaming.statistics import (
    Moments,
    ReadoutBlock,
    SampleReadouts,
    TopExamples,
    batch_statistics,
)
from semlens.types import Rank, Readout, Signs


def predicted_relevance(
    engines: EngineCache,
    inputs: Float32[Tensor, "b channels h w"],
    readouts: Mapping[str, LayerReadouts],
    signs: Signs,
) -> dict[str, Float32[Tensor, "2 b c"]]:
    """Return the relevance of each component on each sample, by layer, in units of the logit.

    Relevance is summed over space or tokens. The leading axis is the sign of the activation:
    relevance at positions where a channel is negative belongs to sign -1. If only positive signs
    count, sign +1 has all of it.

    A layer that the logits do not depend on has a relevance of zero. On a sample where some layer
    is NaN or infinite, all relevance is NaN.
    """
    peaks = (torch.isfinite(one.peak).all(dim=2).all(dim=0) for one in readouts.values())
    rows = torch.stack([*peaks]).all(dim=0).nonzero()[:, 0]
    relevance = {name: torch.full_like(one.peak, torch.nan) for name, one in readouts.items()}
    if not len(rows):
        return relevance
    engine = engines.engine(inputs, list(readouts))
    for chunk in rows.split(images_per_pass(engine)):
        _, explained = explain_batch(engine, inputs[chunk], list(readouts))
        for name, by_sign in relevance.items():
            found = explained.get(name)
            by_sign[:, chunk] = 0 if found is None else found.float().transpose(0, 1)
    if signs == "positive":
        for by_sign in relevance.values():
            by_sign[0] += by_sign[1]
    return relevance


@dataclass(frozen=True)
class LayerStatistics:
    """Examples and statistics of a layer; merging is associative and commutative.

    Parameters
    ----------
    top
        Examples of 2 K rows: sign +1 of every channel, then sign -1.
    moments
        Statistics of the K raw readouts.
    not_finite
        The samples with a readout that is NaN or infinite, ascending.
    reference
        What ranks the reference samples: K raw readouts, or where the signs differ
        (:func:`reads_by_direction`) 2 K in the order of ``top``.
    """

    top: TopExamples
    moments: Moments
    not_finite: tuple[int, ...]
    reference: SampleReadouts

    def merge(self, other: LayerStatistics) -> LayerStatistics:
        """Merge the results of two disjoint sets of batches."""
        return LayerStatistics(
            self.top.merge(other.top),
            self.moments.merge(other.moments),
            tuple(sorted({*self.not_finite, *other.not_finite})),
            self.reference.merge(other.reference),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all values as named tensors, for a file."""
        samples = list(self.reference.rows)
        return {
            "key": self.top.key,
            "position": self.top.position,
            "not_finite": torch.tensor(self.not_finite, dtype=torch.int64),
            "reference/sample": torch.tensor(samples, dtype=torch.int64),
            "reference/readout": self.reference.stack(samples),
            **{
                f"block/{level}/{number}/{field}": value
                for (level, number), block in self.moments.blocks.items()
                for field, value in vars(block).items()
            },
        }

    @classmethod
    def from_tensors(cls, flat: Mapping[str, Tensor]) -> LayerStatistics:
        """Return the result from the tensors of :meth:`tensors`."""
        blocks: dict[tuple[int, int], dict[str, Tensor]] = {}
        for key, value in flat.items():
            if key.startswith("block/"):
                _, level, number, field = key.split("/")
                blocks.setdefault((int(level), int(number)), {})[field] = value
        readout, samples = flat["reference/readout"], flat["reference/sample"]
        return cls(
            TopExamples(flat["key"], flat["position"]),
            Moments({key: ReadoutBlock(**values) for key, values in blocks.items()}),
            tuple(flat["not_finite"].tolist()),
            SampleReadouts.empty(readout.shape[1]).update(readout, samples),
        )


@dataclass(frozen=True)
class Collected:
    """Examples and statistics of a pass; merging is associative and commutative.

    Parameters
    ----------
    layers
        Those of each layer, by name.
    unreadable
        Samples that could not be decoded, with the reason.
    """

    layers: dict[str, LayerStatistics]
    unreadable: dict[int, str]

    def merge(self, other: Collected) -> Collected:
        """Merge the results of two disjoint sets of batches."""
        return Collected(
            {name: layer.merge(other.layers[name]) for name, layer in self.layers.items()},
            dict(sorted({**self.unreadable, **other.unreadable}.items())),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all values as named tensors, for a file."""
        reasons = {
            f"{_UNREADABLE}{sample}": torch.from_numpy(
                np.frombuffer(text.encode(), np.uint8).copy()
            )
            for sample, text in self.unreadable.items()
        }
        return reasons | {
            f"{name}/{key}": value
            for name, layer in self.layers.items()
            for key, value in layer.tensors().items()
        }

    @classmethod
    def from_tensors(cls, flat: Mapping[str, Tensor], names: Sequence[str]) -> Collected:
        """Return the result from the tensors of :meth:`tensors`."""
        reasons = _below(_UNREADABLE, flat)
        return cls(
            {name: LayerStatistics.from_tensors(_below(f"{name}/", flat)) for name in names},
            {int(sample): bytes(text.tolist()).decode() for sample, text in reasons.items()},
        )


_UNREADABLE = "/unreadable/"


def _below(prefix: str, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {key.removeprefix(prefix): v for key, v in flat.items() if key.startswith(prefix)}


def layer_layouts(model: SubjectModel, names: Sequence[str], readout: Readout) -> list[LayerLayout]:
    """Return the layers' layouts, measured on an example image, and check the readout.

    Raises
    ------
    LayerError
        If a layer is missing, does not run once, or has no such readout.
    """
    axes = model.axes(names)

    def measure(name: str, output: Any) -> LayerLayout:
        layout = layout_of_image(name, output, axes[name])
        compute_readouts(layout, output, readout)
        return layout

    by_name = run_layers(model.module, model.example[:1], names, measure)
    return [by_name[name] for name in names]


def collect(
    model: SubjectModel,
    images: Images,
    layouts: Sequence[LayerLayout],
    batches: range,
    *,
    examples: int,
    readout: Readout,
    signs: Signs = "auto",
    engines: EngineCache | None = None,
    reference: Collection[int] = (),
    batch_size: int = 32,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> Collected:
    """Run the model over some batches and keep each component's strongest samples.

    Parameters
    ----------
    batches
        Indices of the batches; batch ``i`` starts at sample ``i * batch_size``.
    engines
        Relevance engines, to rank samples by relevance for the predicted class rather than by
        readout. Statistics are those of the readouts in any case.
    reference
        The reference samples, of which what ranks them is kept; they may be in other batches.
    progress
        Called with the number of samples done since the last call.

    Notes
    -----
    Memory is O(components x (examples + reference samples)). The model's mode and hooks are
    restored after every batch, also on errors.
    """
    device = model.device
    by_name = {layout.name: layout for layout in layouts}
    unreadable: dict[int, str] = {}
    rank: Rank = "relevance" if engines else "activation"
    by_direction = reads_by_direction(readout, signs, rank)
    layers = {
        name: LayerStatistics(
            TopExamples.empty(2 * layout.components, examples, device),
            Moments(),
            (),
            SampleReadouts.empty(layout.components * (1 + by_direction)),
        )
        for name, layout in by_name.items()
    }

    def read(inputs: Tensor) -> dict[str, LayerReadouts]:
        return run_layers(
            model.module,
            inputs,
            by_name,
            lambda name, out: compute_readouts(by_name[name], out, readout),
        )

    passes = FittingBatches()
    stop = min(batches.stop * batch_size, len(images))
    sample_range = range(batches.start * batch_size, stop)
    sample_batches = prepared_batches(model, images.read, sample_range, batch_size, workers)
    for batch_index, batch in zip(batches, sample_batches, strict=True):
        unreadable.update({item.sample: item.reason for item in batch if item.inputs is None})
        ready = [item for item in batch if item.inputs is not None]
        if ready:
            inputs = batch_inputs(model, ready)
            readouts = passes.run(read, inputs, _join)
            relevance = predicted_relevance(engines, inputs, readouts, signs) if engines else None
        else:
            readouts = {layout.name: _empty_readouts(layout, device) for layout in layouts}
            relevance = None
        on_cpu = _copy_to_cpu(readouts)
        samples = torch.tensor([item.sample for item in ready], dtype=torch.int64)
        device_samples = samples.to(device)
        rows = [row for row, item in enumerate(ready) if item.sample in reference]
        for name, reading in readouts.items():
            strength = [reading.value, reading.negative] if relevance is None else relevance[name]
            positive, negative = strength
            if signs == "positive":
                negative = torch.full_like(negative, torch.nan)
            by_sign = torch.cat([positive, negative], dim=1)
            position = torch.cat([*reading.position], dim=1)
            value, raw_negative, peak = on_cpu[name]
            finite = torch.isfinite(peak).all(dim=0).all(dim=1)
            before = layers[name]
            reference_readouts = before.reference
            if rows:
                both = [value, -raw_negative] if relevance is None else relevance[name]
                raw = [one[rows] for one in both[: 1 + by_direction]]
                reference_readouts = before.reference.update(torch.cat(raw, dim=1), samples[rows])
            layers[name] = LayerStatistics(
                before.top.update(by_sign, device_samples, position),
                before.moments.update(batch_index, batch_statistics(value, peak)),
                (*before.not_finite, *samples[~finite].tolist()),
                reference_readouts,
            )
        progress(len(batch))
    on_host = {name: replace(layer, top=layer.top.to("cpu")) for name, layer in layers.items()}
    return Collected(on_host, unreadable)


def reads_by_direction(readout: Readout, signs: Signs, rank: Rank) -> bool:
    """Return whether the two signs of a channel differ in more than the sign of their readouts.

    Maximum and minimum do, and relevance where the channel is positive and where it is negative.
    """
    return signs != "positive" and (readout == "max" or rank == "relevance")


def _join(parts: Sequence[Mapping[str, LayerReadouts]]) -> dict[str, LayerReadouts]:
    """Return the readouts of a batch from those of its parts."""
    return {
        name: LayerReadouts(
            torch.cat([part[name].value for part in parts]),
            torch.cat([part[name].negative for part in parts]),
            torch.cat([part[name].peak for part in parts], dim=1),
            torch.cat([part[name].position for part in parts], dim=1),
        )
        for name in parts[0]
    }


def _copy_to_cpu(
    readouts: Mapping[str, LayerReadouts],
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Return value, negative and peak of each layer on the CPU.

    All in one copy, since the CPU waits for the device at each.
    """
    parts = [part for one in readouts.values() for part in (one.value, one.negative, one.peak)]
    flat = torch.cat([part.flatten() for part in parts]).cpu()
    sizes = [part.numel() for part in parts]
    copies = [piece.view(part.shape) for piece, part in zip(flat.split(sizes), parts, strict=True)]
    return dict(
        zip(readouts, zip(copies[::3], copies[1::3], copies[2::3], strict=True), strict=True)
    )


def _empty_readouts(layout: LayerLayout, device: torch.device) -> LayerReadouts:
    empty = torch.zeros(0, layout.components, device=device)
    both = torch.zeros(2, 0, layout.components, device=device)
    return LayerReadouts(empty, empty, both, both.int())
