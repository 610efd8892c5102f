"""lxt 2.1 on the same pairs of a vision transformer, run in its own environment.

    lxt-env/bin/python -m benchmarks.cases.relevance.lxt SETTINGS.json

answers the requests of ``harness.Worker``. The network is patched as in lxt's example for vision
transformers: CP-LRP inside attention, zennit's gamma rule for convolutions and dense layers. Its
in-projections of attention get no gamma, ours do.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from lxt.efficient import monkey_patch, monkey_patch_zennit
from torch import nn
from torchvision.models import vision_transformer
from zennit.composites import LayerMapComposite
from zennit.rules import Gamma

from benchmarks.cases.relevance.inputs import (
    Inputs,
    configure_torch,
    load_images,
    load_network,
    load_pairs,
    seeded_outputs,
)
from benchmarks.harness import Meter, serve


class Lxt:
    """lxt."""

    def __init__(self, settings: Inputs) -> None:
        monkey_patch(vision_transformer)
        monkey_patch_zennit()
        self.settings = settings
        self.images = load_images(settings)
        self.network = load_network(settings)
        rules = [(nn.Conv2d, Gamma(0.25)), (nn.Linear, Gamma(0.05))]
        LayerMapComposite(rules).register(self.network)

    def load(self, layer: str) -> dict[str, Any]:
        """Warm up on a batch."""
        self._heatmaps(layer, 1)
        return {}

    def run(self, layer: str) -> dict[str, Any]:
        """Compute the heatmaps of all pairs."""
        meter = Meter(self.settings.device)
        with meter.clock:
            self._heatmaps(layer)
        return meter.read(len(load_pairs(self.settings, layer)))

    def _heatmaps(self, layer: str, batches: int | None = None) -> None:
        outputs = seeded_outputs(self.settings, self.network, self.images, layer, batches)
        for pixels, output, seed in outputs:
            (gradient,) = torch.autograd.grad(output, pixels, seed)
            (pixels * gradient).sum(1)


if __name__ == "__main__":
    inputs = Inputs.read(sys.argv[1])
    configure_torch(inputs)
    lxt = Lxt(inputs)
    serve({"load": lxt.load, "run": lxt.run})
