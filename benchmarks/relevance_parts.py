"""Our side of the relevance benchmark, and the ideal: each a process of its own.

    python benchmarks/relevance_parts.py ours|ideal SETTINGS.json

answers the questions of ``harness.Worker``. The ideal is what PyTorch itself needs for the
gradient of one number with respect to the input, once the forward pass is done, on the network
with its batch norms merged and nothing above the layer.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from harness import Meter, serve
from relevance_inputs import (
    BLUR,
    LAYERS,
    THRESHOLD,
    Inputs,
    Pairs,
    folded,
    load_images,
    load_network,
    load_pairs,
    run_to,
    start,
)
from safetensors.torch import save_file
from torch import Tensor


class Ours:
    """The answers of this project."""

    def __init__(self, settings: Inputs) -> None:
        from semlens.relevance import heatmap_boxes
        from semlens.relevance.class_relevance import class_relevance
        from semlens.relevance.conditional_heatmaps import conditional_heatmaps
        from semlens.relevance.lrp_engine import LRPEngine

        self.settings = settings
        self.images = load_images(settings)
        self.network = load_network(settings)
        self._engine, self._boxes = LRPEngine, heatmap_boxes
        self._conditional, self._classes = conditional_heatmaps, class_relevance
        self.engines: dict[tuple[str, ...], Any] = {}
        self.heat = self.found = torch.empty(0)

    def _precision(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "bf16":
            return torch.autocast(self.settings.device, torch.bfloat16)
        return nullcontext()

    def _load(self, layers: tuple[str, ...]) -> None:
        if layers not in self.engines:
            self.engines[layers] = self._engine(
                self.network, self.images[:2], layers=list(layers), rules="auto"
            )

    def load(self, layer: str) -> dict[str, Any]:
        """Capture the network and run once what will be timed, on a few pairs."""
        self._load((layer,))
        self._heatmaps(layer, load_pairs(self.settings, layer), 8)
        return {}

    def _heatmaps(self, layer: str, pairs: Pairs, count: int | None = None) -> Tensor:
        needed, image = pairs.image[:count].unique(return_inverse=True)
        channel = pairs.channel[:count]
        with self._precision():
            return self._conditional(
                self.engines[layer,],
                self.images[needed],
                layer,
                image,
                channel,
                torch.ones_like(channel, dtype=torch.int8),
                position=pairs.position[:count],
            )

    def run(self, layer: str) -> dict[str, Any]:
        """Compute the heatmaps of all pairs."""
        pairs = load_pairs(self.settings, layer)
        self.heat = torch.empty(0)
        meter = Meter(self.settings.device)
        with meter.clock:
            self.heat = self._heatmaps(layer, pairs)
        return meter.read(len(pairs))

    def bound(self) -> dict[str, Any]:
        """Find the boxes of the heatmaps at hand."""
        size = self.settings.size
        meter = Meter(self.settings.device)
        with meter.clock:
            parts = []
            for part in self.heat.split(32):
                smooth = self._boxes.upsample_and_blur(part, size, size, BLUR)
                parts.append(self._boxes.bounding_boxes(smooth, THRESHOLD))
            found = torch.cat(parts)
        self.found = found
        return meter.read(len(found))

    def save(self, path: str) -> dict[str, Any]:
        """Write the heatmaps and boxes at hand."""
        save_file({"heat": self.heat.cpu().contiguous(), "boxes": self.found.cpu()}, path)
        return {}

    def classes(self, targets: list[int]) -> dict[str, Any]:
        """Relevance of the channels of four layers for one class per image."""
        self._load(LAYERS)
        size = self.settings.batch
        inputs = self.images[: len(targets)].split(size)
        meant = torch.tensor(targets, device=self.images.device).split(size)
        meter = Meter(self.settings.device)
        with meter.clock, self._precision():
            for batch, classes in zip(inputs, meant, strict=True):
                self._classes(self.engines[LAYERS], batch, classes)
        return meter.read(len(targets))


class Ideal:
    """Plain gradients."""

    def __init__(self, settings: Inputs) -> None:
        self.settings = settings
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self.network = folded(load_network(settings)).to(dtype)
        self.images = load_images(settings).to(dtype)

    def load(self, layer: str) -> dict[str, Any]:
        """Run once what will be timed."""
        self._gradients(layer, 1, Meter(self.settings.device))
        return {}

    def run(self, layer: str) -> dict[str, Any]:
        """Compute one gradient for each pair; forward passes are not timed."""
        meter = Meter(self.settings.device)
        return meter.read(self._gradients(layer, None, meter))

    def _gradients(self, layer: str, batches: int | None, meter: Meter) -> int:
        pairs = load_pairs(self.settings, layer)
        columns = (pairs.image, pairs.channel, pairs.position)
        split = [column.split(self.settings.batch)[:batches] for column in columns]
        for image, channel, position in zip(*split, strict=True):
            pixels = self.images[image].requires_grad_()
            output = run_to(self.network, layer, pixels)
            one = torch.zeros_like(output).flatten(2)
            one[torch.arange(len(image)), channel, position] = 1
            one = one.reshape(output.shape)
            with meter.clock:
                torch.autograd.grad(output, pixels, one)
        return len(pairs)

    def targets(self) -> dict[str, Any]:
        """Return the class that each image is given."""
        with torch.inference_mode():
            batches = self.images[: self.settings.classified].split(self.settings.batch)
            return {"targets": [int(c) for part in batches for c in self.network(part).argmax(1)]}

    def classes(self, targets: list[int]) -> dict[str, Any]:
        """Run forward passes and the gradients of one logit per image."""
        size = self.settings.batch
        meter = Meter(self.settings.device)
        meant = torch.tensor(targets, device=self.images.device).split(size)
        with meter.clock:
            for batch, classes in zip(self.images[: len(targets)].split(size), meant, strict=True):
                pixels = batch.clone().requires_grad_()
                logits = self.network(pixels)
                torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), pixels)
        return meter.read(len(targets))


def main() -> None:
    """Answer."""
    settings = Inputs.read(sys.argv[2])
    start(settings)
    if sys.argv[1] == "ours":
        ours = Ours(settings)
        serve({"load": ours.load, "run": ours.run, "bound": ours.bound, "save": ours.save,
               "classes": ours.classes})  # fmt: skip
    else:
        ideal = Ideal(settings)
        serve({"load": ideal.load, "run": ideal.run, "targets": ideal.targets,
               "classes": ideal.classes})  # fmt: skip


if __name__ == "__main__":
    main()
