"""zennit-crp 0.6 on the same pairs, run by the Python of an environment of its own.

    crp-env/bin/python benchmarks/relevance_reference.py SETTINGS.json

answers the questions of ``harness.Worker``. Heatmaps come from FeatureVisualization itself,
as ``get_max_reference(mode="activation", rf=True)`` calls it once it has read its images: one
component after the other, in batches of 32 at most, hence of as many as a component has
examples. ``mixed`` runs the same pairs in batches of 32 over components, which is what a component
with 32 examples costs. Boxes are found as its ``vis_opaque_img`` finds them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from crp.attribution import CondAttribution
from crp.concepts import ChannelConcept
from crp.helper import max_norm
from crp.image import get_crop_range
from crp.visualization import FeatureVisualization
from harness import Meter, serve
from relevance_inputs import (
    LAYERS,
    THRESHOLD,
    Inputs,
    Pairs,
    load_images,
    load_network,
    load_pairs,
    start,
)
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur
from zennit.composites import EpsilonPlusFlat
from zennit.torchvision import ResNetCanonizer

BATCH = 32
"""FeatureVisualization's default."""


class Reference:
    """The answers."""

    def __init__(self, settings: Inputs) -> None:
        self.settings = settings
        self.images = load_images(settings)
        self.attribution = CondAttribution(load_network(settings))
        self.composite = EpsilonPlusFlat([ResNetCanonizer()])
        self.visualization = FeatureVisualization(
            self.attribution, None, dict.fromkeys(settings.layers, ChannelConcept()),
            max_target="max", path=str(Path(settings.work) / "crp"),
        )  # fmt: skip
        self.heat = torch.empty(0)
        self.boxes = torch.empty(0)

    def load(self, layer: str) -> dict[str, Any]:
        """Run once what will be timed, on one component."""
        pairs = load_pairs(self.settings, layer)
        self._component(layer, pairs, 0)
        return {}

    def run(self, layer: str, mixed: bool = False) -> dict[str, Any]:
        """Compute the heatmaps of all pairs; for ``mixed``, of two batches at most."""
        pairs = load_pairs(self.settings, layer)
        count = min(len(pairs), 2 * BATCH) if mixed else len(pairs)
        starts = range(0, count, BATCH if mixed else self.settings.examples)
        one = self._batch if mixed else self._component
        self.heat = torch.empty(0)
        meter = Meter(self.settings.device)
        with meter.clock:
            self.heat = torch.cat([one(layer, pairs, first) for first in starts])
        return meter.read(count)

    def _component(self, layer: str, pairs: Pairs, first: int) -> Tensor:
        rows = slice(first, first + self.settings.examples)
        return self.visualization._attribution_on_reference(
            self.images[pairs.image[rows]], int(pairs.channel[first]), layer, self.composite,
            rf=True, neuron_ids=pairs.position[rows].tolist(), batch_size=BATCH,
        )  # fmt: skip

    def _batch(self, layer: str, pairs: Pairs, first: int) -> Tensor:
        rows = slice(first, first + BATCH)
        starts = zip(pairs.channel[rows].tolist(), pairs.position[rows].tolist(), strict=True)
        return self.attribution(
            self.images[pairs.image[rows]].requires_grad_(),
            [{layer: {channel: position}} for channel, position in starts],
            self.composite,
            mask_map=ChannelConcept.mask_rf,
            start_layer=layer,
            exclude_parallel=False,
        ).heatmap

    def bound(self) -> dict[str, Any]:
        """Find the boxes of the heatmaps at hand."""
        meter = Meter(self.settings.device)
        with meter.clock:
            found = [_box(heat, self.settings.kernel) for heat in self.heat]
        self.boxes = torch.tensor(found)
        return meter.read(len(found))

    def save(self, path: str) -> dict[str, Any]:
        """Write the heatmaps and boxes at hand."""
        save_file({"heat": self.heat.cpu().contiguous(), "boxes": self.boxes}, path)
        return {}

    def classes(self, targets: list[int]) -> dict[str, Any]:
        """Relevance of the channels of four layers for one class per image."""
        meter = Meter(self.settings.device)
        inputs = self.images[: len(targets)].split(self.settings.batch)
        meant = torch.tensor(targets).split(self.settings.batch)
        with meter.clock:
            for batch, classes in zip(inputs, meant, strict=True):
                found = self.attribution(
                    batch.clone().requires_grad_(),
                    [{"y": [target]} for target in classes.tolist()],
                    self.composite,
                    record_layer=list(LAYERS),
                    exclude_parallel=False,
                ).relevances
                for layer in LAYERS:
                    found[layer].sum((2, 3))
        return meter.read(len(targets))


def _box(heat: Tensor, kernel: int) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom, the last two exclusive."""
    smooth = max_norm(gaussian_blur(heat[None], kernel)[0])
    top, bottom, left, right = (int(value) for value in get_crop_range(smooth, THRESHOLD))
    if bottom < 0:
        return 0, 0, heat.shape[1], heat.shape[0]
    return left, top, right + 1, bottom + 1


def main() -> None:
    """Answer."""
    settings = Inputs.read(sys.argv[1])
    start(settings)
    side = Reference(settings)
    serve({"load": side.load, "run": side.run, "bound": side.bound, "save": side.save,
           "classes": side.classes})  # fmt: skip


if __name__ == "__main__":
    main()
