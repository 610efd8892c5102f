"""Collect: one pass over the data, for all layers at once (paper, 3.1).

A shard is a run of whole batches. Batches are numbered over the whole data set, so
that a sample always meets the same batch mates, whatever the shards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semlens.data.images import Images
from semlens.models.activations import LayerLayout, Readings, measure_form, read
from semlens.models.hooks import run_layers
from semlens.models.subject import SubjectModel
from semlens.stages.batches import batch_inputs, prepared_batches
from semlens.streaming.statistics import Moments, ReadoutBlock, TopExamples, leaf
from semlens.types import Readout, Signs


@dataclass(frozen=True)
class Collected:
    """What a pass has found; merging is associative and free of order.

    Parameters
    ----------
    top
        Per layer, examples of 2 K rows: sign +1 of every channel, then sign -1.
    moments
        Per layer, statistics of the K raw readouts.
    not_finite
        Per layer, the samples on which some readout was NaN or infinite.
    unreadable
        Samples that could not be decoded, with the reason.
    """

    top: dict[str, TopExamples]
    moments: dict[str, Moments]
    not_finite: dict[str, tuple[int, ...]]
    unreadable: dict[int, str]

    def merge(self, other: Collected) -> Collected:
        """Join the findings over two disjoint sets of batches."""
        return Collected(
            {name: top.merge(other.top[name]) for name, top in self.top.items()},
            {name: moments.merge(other.moments[name]) for name, moments in self.moments.items()},
            {
                name: tuple(sorted({*samples, *other.not_finite[name]}))
                for name, samples in self.not_finite.items()
            },
            dict(sorted({**self.unreadable, **other.unreadable}.items())),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Flatten to named tensors, for a file."""
        flat: dict[str, Tensor] = {}
        for name, top in self.top.items():
            flat[f"{name}/key"], flat[f"{name}/position"] = top.key, top.position
            bad = self.not_finite[name]
            flat[f"{name}/not_finite"] = torch.tensor(bad, dtype=torch.int64)
            for (level, number), block in self.moments[name].blocks.items():
                for part, value in vars(block).items():
                    flat[f"{name}/block/{level}/{number}/{part}"] = value
        for sample, reason in self.unreadable.items():
            text = np.frombuffer(reason.encode(), np.uint8).copy()
            flat[f"/unreadable/{sample}"] = torch.from_numpy(text)
        return flat

    @classmethod
    def from_tensors(cls, flat: dict[str, Tensor], names: Sequence[str]) -> Collected:
        """Undo :meth:`tensors`."""
        top: dict[str, TopExamples] = {}
        moments: dict[str, Moments] = {}
        for name in names:
            top[name] = TopExamples(flat[f"{name}/key"], flat[f"{name}/position"])
            parts: dict[tuple[int, int], dict[str, Tensor]] = {}
            for key, value in flat.items():
                if key.startswith(f"{name}/block/"):
                    level, number, part = key.removeprefix(f"{name}/block/").split("/")
                    parts.setdefault((int(level), int(number)), {})[part] = value
            moments[name] = Moments({key: ReadoutBlock(**values) for key, values in parts.items()})
        bad = {name: tuple(flat[f"{name}/not_finite"].tolist()) for name in names}
        unreadable = {
            int(key.removeprefix("/unreadable/")): bytes(value.tolist()).decode()
            for key, value in flat.items()
            if key.startswith("/unreadable/")
        }
        return cls(top, moments, bad, unreadable)


def layer_forms(model: SubjectModel, names: Sequence[str], readout: Readout) -> list[LayerLayout]:
    """Measure the layers' forms on an example image, and that the readout fits them.

    Raises
    ------
    LayerError
        If a layer is missing, does not run once, or has no such readout.
    """
    layouts = model.layouts(names)

    def measure(name: str, output: Any) -> LayerLayout:
        form = measure_form(name, output, layouts[name])
        read(form, output, readout)
        return form

    found = run_layers(model.module, model.example[:1], names, measure)
    return [found[name] for name in names]


def collect(
    model: SubjectModel,
    images: Images,
    forms: Sequence[LayerLayout],
    batches: range,
    *,
    examples: int,
    readout: Readout,
    signs: Signs = "auto",
    batch_size: int = 32,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> Collected:
    """Run the model over some batches and keep each component's strongest samples.

    Parameters
    ----------
    batches
        Numbers of the batches; batch ``i`` holds samples ``i * batch_size`` onwards.
    progress
        Called with the number of samples done since the last call.

    Notes
    -----
    Memory is O(components x examples). The model's mode and hooks are put back after
    every batch, and on errors too.
    """
    device = model.device
    by_name = {form.name: form for form in forms}
    top = {f.name: TopExamples.empty(2 * f.components, examples, device) for f in forms}
    moments = {form.name: Moments() for form in forms}
    bad: dict[str, set[int]] = {form.name: set() for form in forms}
    unreadable: dict[int, str] = {}

    stop = min(batches.stop * batch_size, len(images))
    numbers = range(batches.start * batch_size, stop)
    parts = prepared_batches(model, images.read, numbers, batch_size, workers)
    for number, batch in zip(batches, parts, strict=True):
        unreadable.update({s.number: s.reason for s in batch if s.inputs is None})
        ready = [s for s in batch if s.inputs is not None]
        if ready:
            inputs = batch_inputs(model, ready)
            found = run_layers(
                model.module, inputs, by_name, lambda name, out: read(by_name[name], out, readout)
            )
        else:
            found = {form.name: _nothing(form) for form in forms}
        samples = torch.tensor([s.number for s in ready], dtype=torch.int64, device=device)
        for name, reading in found.items():
            negative = reading.negative
            if signs == "positive":
                negative = torch.full_like(negative, torch.nan)
            both = torch.cat([reading.value, negative], dim=1)
            top[name] = top[name].update(both, samples, torch.cat([*reading.position], dim=1))
            moments[name] = moments[name].update(number, leaf(reading.value, reading.peak))
            finite = torch.isfinite(reading.peak).all(dim=0).all(dim=1)
            bad[name].update(samples[~finite].tolist())
        progress(len(batch))
    return Collected(
        {name: value.to("cpu") for name, value in top.items()},
        moments,
        {name: tuple(sorted(values)) for name, values in bad.items()},
        unreadable,
    )


def _nothing(form: LayerLayout) -> Readings:
    none = torch.zeros(0, form.components)
    return Readings(
        none, none, torch.zeros(2, 0, form.components), torch.zeros(2, 0, form.components).int()
    )
