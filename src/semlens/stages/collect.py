"""Collecting examples and statistics: one pass over the data for all layers (paper, 3.1).

A shard is a run of whole batches. Batches are numbered over the whole data set, so that a sample
is always in the same batch, whatever the shards.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from semlens.data.images import Images
from semlens.errors import LayerError
from semlens.models.activations import (
    LayerLayout,
    LayerReadouts,
    compute_readouts,
    first_tensor,
    measure_layout,
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
    inputs: Float32[Tensor, "b 3 h w"],
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
class Collected:
    """Examples and statistics of a pass; merging is associative and commutative.

    Parameters
    ----------
    top
        By layer, examples of 2 K rows: sign +1 of every channel, then sign -1.
    moments
        By layer, statistics of the K raw readouts.
    not_finite
        By layer, the samples with a readout that is NaN or infinite.
    unreadable
        Samples that could not be decoded, with the reason.
    reference
        By layer, what ranks the reference samples: K raw readouts, or where the signs differ
        (:func:`reads_by_direction`) 2 K in the order of ``top``.
    """

    top: dict[str, TopExamples]
    moments: dict[str, Moments]
    not_finite: dict[str, tuple[int, ...]]
    unreadable: dict[int, str]
    reference: dict[str, SampleReadouts]

    def merge(self, other: Collected) -> Collected:
        """Merge the results of two disjoint sets of batches."""
        return Collected(
            {name: top.merge(other.top[name]) for name, top in self.top.items()},
            {name: moments.merge(other.moments[name]) for name, moments in self.moments.items()},
            {
                name: tuple(sorted({*samples, *other.not_finite[name]}))
                for name, samples in self.not_finite.items()
            },
            dict(sorted({**self.unreadable, **other.unreadable}.items())),
            {name: rows.merge(other.reference[name]) for name, rows in self.reference.items()},
        )

    def of_layer(self, name: str) -> Collected:
        """Return the results of one layer."""
        return Collected(
            {name: self.top[name]},
            {name: self.moments[name]},
            {name: self.not_finite[name]},
            self.unreadable,
            {name: self.reference[name]},
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all values as named tensors, for a file."""
        flat: dict[str, Tensor] = {}
        for name, top in self.top.items():
            flat[f"{name}/key"], flat[f"{name}/position"] = top.key, top.position
            not_finite = self.not_finite[name]
            flat[f"{name}/not_finite"] = torch.tensor(not_finite, dtype=torch.int64)
            reference = self.reference[name]
            samples = list(reference.rows)
            flat[f"{name}/reference/sample"] = torch.tensor(samples, dtype=torch.int64)
            flat[f"{name}/reference/readout"] = reference.stack(samples)
            for (level, number), block in self.moments[name].blocks.items():
                for field, value in vars(block).items():
                    flat[f"{name}/block/{level}/{number}/{field}"] = value
        for sample, reason in self.unreadable.items():
            text = np.frombuffer(reason.encode(), np.uint8).copy()
            flat[f"/unreadable/{sample}"] = torch.from_numpy(text)
        return flat

    @classmethod
    def from_tensors(cls, flat: dict[str, Tensor], names: Sequence[str]) -> Collected:
        """Return the result from the tensors of :meth:`tensors`."""
        top: dict[str, TopExamples] = {}
        moments: dict[str, Moments] = {}
        reference: dict[str, SampleReadouts] = {}
        for name in names:
            readout, sample = (flat[f"{name}/reference/{key}"] for key in ("readout", "sample"))
            reference[name] = SampleReadouts.empty(readout.shape[1]).update(readout, sample)
            top[name] = TopExamples(flat[f"{name}/key"], flat[f"{name}/position"])
            block_fields: dict[tuple[int, int], dict[str, Tensor]] = {}
            for key, value in flat.items():
                if key.startswith(f"{name}/block/"):
                    level, number, field = key.removeprefix(f"{name}/block/").split("/")
                    block_fields.setdefault((int(level), int(number)), {})[field] = value
            moments[name] = Moments(
                {key: ReadoutBlock(**values) for key, values in block_fields.items()}
            )
        not_finite = {name: tuple(flat[f"{name}/not_finite"].tolist()) for name in names}
        unreadable = {
            int(key.removeprefix("/unreadable/")): bytes(value.tolist()).decode()
            for key, value in flat.items()
            if key.startswith("/unreadable/")
        }
        return cls(top, moments, not_finite, unreadable, reference)


def layer_layouts(model: SubjectModel, names: Sequence[str], readout: Readout) -> list[LayerLayout]:
    """Return the layers' layouts, measured on an example image, and check the readout.

    Raises
    ------
    LayerError
        If a layer is missing, does not run once, or has no such readout.
    """
    channel_orders = model.channel_orders(names)

    def measure(name: str, output: Any) -> LayerLayout:
        layout = measure_layout(name, output, channel_orders[name])
        if len(first_tensor(output)) != 1:
            raise LayerError(
                f"Layer '{name}' returns {list(first_tensor(output).shape)} for one image.",
                "Expected one entry per image in the first axis.",
                "Choose the block around it: layers that work on windows of an image mix axes.",
            )
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
    top = {
        layout.name: TopExamples.empty(2 * layout.components, examples, device)
        for layout in layouts
    }
    moments = {layout.name: Moments() for layout in layouts}
    not_finite: dict[str, set[int]] = {layout.name: set() for layout in layouts}
    unreadable: dict[int, str] = {}
    rank: Rank = "relevance" if engines else "activation"
    by_direction = reads_by_direction(readout, signs, rank)
    kept = {
        layout.name: SampleReadouts.empty(layout.components * (1 + by_direction))
        for layout in layouts
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
            top[name] = top[name].update(by_sign, device_samples, position)
            value, raw_negative, peak = on_cpu[name]
            moments[name] = moments[name].update(batch_index, batch_statistics(value, peak))
            finite = torch.isfinite(peak).all(dim=0).all(dim=1)
            not_finite[name].update(samples[~finite].tolist())
            if rows:
                both = [value, -raw_negative] if relevance is None else relevance[name]
                raw = [one[rows] for one in both[: 1 + by_direction]]
                kept[name] = kept[name].update(torch.cat(raw, dim=1), samples[rows])
        progress(len(batch))
    return Collected(
        {name: value.to("cpu") for name, value in top.items()},
        moments,
        {name: tuple(sorted(values)) for name, values in not_finite.items()},
        unreadable,
        kept,
    )


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
