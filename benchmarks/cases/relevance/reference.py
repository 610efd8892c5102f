"""zennit-crp 0.6 on the same pairs, run in its own environment.

    crp-env/bin/python -m benchmarks.cases.relevance.reference SETTINGS.json

answers the requests of ``harness.Worker``. Heatmaps are computed by FeatureVisualization, as
``get_max_reference(mode="activation", rf=True)`` calls it after reading the images: one component
after the other, in batches of the component's examples, at most 32. ``mixed`` runs the same pairs
in batches of 32 across components, which is the cost of a component with 32 examples. Boxes are
computed as in its ``vis_opaque_img``.
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
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur
from zennit.composites import EpsilonPlusFlat
from zennit.torchvision import ResNetCanonizer

from benchmarks.cases.relevance.inputs import (
    LAYERS,
    THRESHOLD,
    Inputs,
    Pairs,
    configure_torch,
    load_images,
    load_network,
    load_pairs,
)
from benchmarks.harness import Meter, serve

BATCH = 32
"""FeatureVisualization's default."""


class Reference:
    """zennit-crp."""

    def __init__(self, settings: Inputs) -> None:
        self.settings = settings
        self.images = load_images(settings)
        self.attribution = CondAttribution(load_network(settings))
        self.composite = EpsilonPlusFlat([ResNetCanonizer()])
        self.visualization = FeatureVisualization(
            self.attribution, None, dict.fromkeys(settings.layers, ChannelConcept()),
            max_target="max", path=str(Path(settings.work) / "crp"),
        )  # fmt: skip
        self.heatmaps = torch.empty(0)
        self.found_boxes = torch.empty(0)

    def load(self, layer: str) -> dict[str, Any]:
        """Warm up on one component."""
        pairs = load_pairs(self.settings, layer)
        self._component(layer, pairs, 0)
        return {}

    def run(self, layer: str, mixed: bool = False) -> dict[str, Any]:
        """Compute the heatmaps of all pairs; with ``mixed``, of at most two batches."""
        pairs = load_pairs(self.settings, layer)
        count = min(len(pairs), 2 * BATCH) if mixed else len(pairs)
        offsets = range(0, count, BATCH if mixed else self.settings.examples)
        compute = self._batch if mixed else self._component
        self.heatmaps = torch.empty(0)
        meter = Meter(self.settings.device)
        with meter.clock:
            self.heatmaps = torch.cat([compute(layer, pairs, first) for first in offsets])
        return meter.read(count)

    def _component(self, layer: str, pairs: Pairs, first: int) -> Tensor:
        rows = slice(first, first + self.settings.examples)
        return self.visualization._attribution_on_reference(
            self.images[pairs.image[rows]], int(pairs.channel[first]), layer, self.composite,
            rf=True, neuron_ids=pairs.position[rows].tolist(), batch_size=BATCH,
        )  # fmt: skip

    def _batch(self, layer: str, pairs: Pairs, first: int) -> Tensor:
        rows = slice(first, first + BATCH)
        peaks = zip(pairs.channel[rows].tolist(), pairs.position[rows].tolist(), strict=True)
        return self.attribution(
            self.images[pairs.image[rows]].requires_grad_(),
            [{layer: {channel: position}} for channel, position in peaks],
            self.composite,
            mask_map=ChannelConcept.mask_rf,
            start_layer=layer,
            exclude_parallel=False,
        ).heatmap

    def boxes(self) -> dict[str, Any]:
        """Compute the boxes of the current heatmaps."""
        meter = Meter(self.settings.device)
        with meter.clock:
            boxes = [_box(heatmap, self.settings.kernel) for heatmap in self.heatmaps]
        self.found_boxes = torch.tensor(boxes)
        return meter.read(len(boxes))

    def save(self, path: str) -> dict[str, Any]:
        """Write the current heatmaps and boxes."""
        save_file({"heat": self.heatmaps.cpu().contiguous(), "boxes": self.found_boxes}, path)
        return {}

    def classes(self, targets: list[int]) -> dict[str, Any]:
        """Compute relevance of the channels of four layers for one class per image."""
        meter = Meter(self.settings.device)
        inputs = self.images[: len(targets)].split(self.settings.batch)
        target_batches = torch.tensor(targets).split(self.settings.batch)
        with meter.clock:
            for batch, classes in zip(inputs, target_batches, strict=True):
                relevances = self.attribution(
                    batch.clone().requires_grad_(),
                    [{"y": [target]} for target in classes.tolist()],
                    self.composite,
                    record_layer=list(LAYERS),
                    exclude_parallel=False,
                ).relevances
                for layer in LAYERS:
                    relevances[layer].sum((2, 3))
        return meter.read(len(targets))


def _box(heatmap: Tensor, kernel: int) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom, the last two exclusive."""
    smooth = max_norm(gaussian_blur(heatmap[None], kernel)[0])
    top, bottom, left, right = (int(value) for value in get_crop_range(smooth, THRESHOLD))
    if bottom < 0:
        return 0, 0, heatmap.shape[1], heatmap.shape[0]
    return left, top, right + 1, bottom + 1


def main() -> None:
    """Answer requests until the worker is closed."""
    settings = Inputs.read(sys.argv[1])
    configure_torch(settings)
    reference = Reference(settings)
    requests = ("load", "run", "boxes", "save", "classes")
    serve({name: getattr(reference, name) for name in requests})


if __name__ == "__main__":
    main()
