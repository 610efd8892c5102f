"""Our side of the relevance benchmark, its bound, and plain gradients: each in its own process.

    python -m benchmarks.cases.relevance.parts ours|bound|gradient SETTINGS.json

answers the requests of ``harness.Worker``. The bound is the convolutions and matrix products that
ours computes, forwards and backwards, and nothing else. The gradient is PyTorch's, of one number
with respect to the input, without the forward pass, on the network with merged batch norms.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cases.relevance.inputs import (
    BLUR,
    THRESHOLD,
    Inputs,
    Pairs,
    configure_torch,
    fold_batch_norms,
    load_images,
    load_network,
    load_pairs,
    seeded_outputs,
)
from benchmarks.harness import Meter, serve


class Ours:
    """semlens."""

    def __init__(self, settings: Inputs) -> None:
        from semlens.relevance import heatmap_boxes
        from semlens.relevance.class_relevance import class_relevance
        from semlens.relevance.conditional_heatmaps import conditional_heatmaps
        from semlens.relevance.lrp_engine import LRPEngine

        self.settings = settings
        self.images = load_images(settings)
        self.network = load_network(settings)
        self._make, self._heatmap_boxes = LRPEngine, heatmap_boxes
        self._conditional, self._classes = conditional_heatmaps, class_relevance
        self.engines: dict[tuple[tuple[str, ...], str], Any] = {}
        self.heatmaps = self.found_boxes = torch.empty(0)

    def _precision(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "bf16":
            return torch.autocast(self.settings.device, torch.bfloat16)
        return nullcontext()

    def _engine(self, layers: tuple[str, ...], rules: str) -> Any:
        if (layers, rules) not in self.engines:
            self.engines[layers, rules] = self._make(
                self.network, self.images[:2], layers=list(layers), rules=rules
            )
        return self.engines[layers, rules]

    def load(self, layer: str) -> dict[str, Any]:
        """Capture the network and warm up on a few pairs."""
        self._heatmaps(layer, load_pairs(self.settings, layer), 8)
        return {}

    def _heatmaps(
        self, layer: str, pairs: Pairs, count: int | None = None, rules: str = "auto"
    ) -> Tensor:
        needed, image = pairs.image[:count].unique(return_inverse=True)
        channel = pairs.channel[:count]
        with self._precision():
            return self._conditional(
                self._engine((layer,), rules),
                self.images[needed],
                layer,
                image,
                channel,
                torch.ones_like(channel, dtype=torch.int8),
                position=pairs.position[:count],
            )

    def run(self, layer: str, rules: str = "auto") -> dict[str, Any]:
        """Compute the heatmaps of all pairs."""
        pairs = load_pairs(self.settings, layer)
        self._heatmaps(layer, pairs, 8, rules)
        self.heatmaps = torch.empty(0)
        meter = Meter(self.settings.device)
        with meter.clock:
            self.heatmaps = self._heatmaps(layer, pairs, rules=rules)
        return meter.read(len(pairs))

    def boxes(self) -> dict[str, Any]:
        """Compute the boxes of the current heatmaps."""
        size = self.settings.size
        meter = Meter(self.settings.device)
        with meter.clock:
            chunks = []
            for chunk in self.heatmaps.split(32):
                smooth = self._heatmap_boxes.upsample_and_blur(chunk, size, size, BLUR)
                chunks.append(self._heatmap_boxes.bounding_boxes(smooth, THRESHOLD))
            found_boxes = torch.cat(chunks)
        self.found_boxes = found_boxes
        return meter.read(len(found_boxes))

    def save(self, path: str) -> dict[str, Any]:
        """Write the current heatmaps and boxes."""
        save_file({"heat": self.heatmaps.cpu().contiguous(), "boxes": self.found_boxes.cpu()}, path)
        return {}

    def classes(self, targets: list[int]) -> dict[str, Any]:
        """Compute relevance of the channels of all layers for one class per image."""
        engine = self._engine(self.settings.layers, "auto")
        size = self.settings.batch
        inputs = self.images[: len(targets)].split(size)
        target_batches = torch.tensor(targets, device=self.images.device).split(size)
        meter = Meter(self.settings.device)
        with meter.clock, self._precision():
            for batch, classes in zip(inputs, target_batches, strict=True):
                self._classes(engine, batch, classes)
        return meter.read(len(targets))


Call = tuple[Callable[..., Tensor], list[Any]]
"""An operator, and its arguments with arrays as (shape, strides, dtype)."""

PRODUCTS = {
    torch.ops.aten.convolution.default,
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
}


class Products(TorchDispatchMode):
    """Records the convolutions and matrix products that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function in PRODUCTS:
            shapes = [(a.shape, a.stride(), a.dtype) if isinstance(a, Tensor) else a for a in args]
            self.calls.append((function, shapes))
        return function(*args, **(kwargs or {}))


class Bound:
    """The products of ours alone, on random arrays of the same shapes, strides and types."""

    def __init__(self, settings: Inputs) -> None:
        self.settings, self.ours = settings, Ours(settings)
        self.calls: list[tuple[Callable[..., Tensor], list[Any]]] = []

    def load(self, layer: str) -> dict[str, Any]:
        """Record the products of a layer."""
        self.ours.load(layer)
        with Products() as products:
            self.ours._heatmaps(layer, load_pairs(self.settings, layer))
        arrays: dict[Any, Tensor] = {}

        def array(position: int, shape: Any) -> Any:
            if not (isinstance(shape, tuple) and isinstance(shape[-1], torch.dtype)):
                return shape
            if (position, shape) not in arrays:
                size, stride, dtype = shape
                extent = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
                values = torch.rand(extent, dtype=dtype, device=self.settings.device)
                arrays[position, shape] = values.as_strided(size, stride)
            return arrays[position, shape]

        self.calls = [
            (function, [array(position, shape) for position, shape in enumerate(shapes)])
            for function, shapes in products.calls
        ]
        return {}

    @torch.no_grad()
    def run(self, layer: str) -> dict[str, Any]:
        """Compute the products of all pairs of the layer that was loaded last."""
        meter = Meter(self.settings.device)
        with meter.clock:
            for function, arguments in self.calls:
                function(*arguments)
        return meter.read(len(load_pairs(self.settings, layer)))


class Gradient:
    """Plain gradients."""

    def __init__(self, settings: Inputs) -> None:
        self.settings = settings
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self.network = fold_batch_norms(load_network(settings)).to(dtype)
        self.images = load_images(settings).to(dtype)

    def load(self, layer: str) -> dict[str, Any]:
        """Warm up on one batch."""
        self._gradients(layer, Meter(self.settings.device), 1)
        return {}

    def run(self, layer: str) -> dict[str, Any]:
        """Compute one gradient per pair; forward passes are not timed."""
        meter = Meter(self.settings.device)
        self._gradients(layer, meter)
        return meter.read(len(load_pairs(self.settings, layer)))

    def _gradients(self, layer: str, meter: Meter, batches: int | None = None) -> None:
        outputs = seeded_outputs(self.settings, self.network, self.images, layer, batches)
        for pixels, output, seed in outputs:
            with meter.clock:
                torch.autograd.grad(output, pixels, seed)

    def targets(self) -> dict[str, Any]:
        """Return the predicted class of each image."""
        with torch.inference_mode():
            batches = self.images[: self.settings.classified].split(self.settings.batch)
            return {"targets": [int(c) for batch in batches for c in self.network(batch).argmax(1)]}

    def classes(self, targets: list[int]) -> dict[str, Any]:
        """Run forward passes and compute the gradient of one logit per image."""
        size = self.settings.batch
        meter = Meter(self.settings.device)
        target_batches = torch.tensor(targets, device=self.images.device).split(size)
        with meter.clock:
            for batch, classes in zip(
                self.images[: len(targets)].split(size), target_batches, strict=True
            ):
                pixels = batch.clone().requires_grad_()
                logits = self.network(pixels)
                torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), pixels)
        return meter.read(len(targets))


def main() -> None:
    """Answer requests until the worker is closed."""
    settings = Inputs.read(sys.argv[2])
    configure_torch(settings)
    side = {"ours": Ours, "bound": Bound, "gradient": Gradient}[sys.argv[1]](settings)
    requests = ("load", "run", "boxes", "save", "targets", "classes")
    serve({name: getattr(side, name) for name in requests if hasattr(side, name)})


if __name__ == "__main__":
    main()
