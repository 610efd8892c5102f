"""What the relevance benchmark runs on: images, a network and pairs made here.

Nothing is downloaded. The pictures are noise with the spectrum of photographs under white noise,
so that no two pixels are the same and max-pooling has no ties; the weights are random, with batch
norms that have seen the pictures. This module is imported in the reference's environment too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from harness import Settings
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import get_model

LAYERS = ("layer1", "layer2", "layer3", "layer4")
BLUR = 51 / 224
"""Blur kernel as a share of the image (paper, H.1)."""
THRESHOLD = 0.01


@dataclass(frozen=True)
class Inputs(Settings):
    """One table: the inputs, and how the parts run."""

    architecture: str
    size: int
    count: int
    components: int
    examples: int
    layers: tuple[str, ...]
    threads: int
    device: str
    precision: str

    @property
    def batch(self) -> int:
        """Images in a batch of the plain passes."""
        return 8 if self.device == "cpu" else 64

    @property
    def kernel(self) -> int:
        """Blur kernel in pixels."""
        return 2 * round((BLUR * self.size - 1) / 2) + 1

    @property
    def classified(self) -> int:
        """How many images class relevance is computed for."""
        return min(self.count, 4 * self.batch)


@dataclass(frozen=True)
class Pairs:
    """Components with their example images, component after component."""

    image: Tensor
    channel: Tensor
    position: Tensor
    """Where the channel is largest: row * width + column."""

    def __len__(self) -> int:
        return len(self.image)


def prepare(settings: Inputs) -> None:
    """Make images, weights and pairs."""
    work = Path(settings.work)
    pictures = _pictures(settings.count, settings.size)
    torch.manual_seed(0)
    network = get_model(settings.architecture, weights=None)
    _calibrate(network, pictures[:32])
    save_file(network.state_dict(), work / "model.safetensors")
    found = {"images": pictures}
    peaks = _peaks(network.to(settings.device), settings.layers, pictures.split(settings.batch))
    for layer, (largest, position) in peaks.items():
        step = max(1, largest.shape[1] // settings.components)
        channel = torch.arange(settings.components) * step
        image = largest[:, channel].topk(settings.examples, 0).indices.T.reshape(-1)
        channel = channel.repeat_interleave(settings.examples)
        found[f"{layer}/image"] = image.clone()
        found[f"{layer}/channel"] = channel
        found[f"{layer}/position"] = position[image, channel].clone()
    save_file(found, work / "inputs.safetensors")


@torch.inference_mode()
def _peaks(
    network: nn.Module, layers: Sequence[str], batches: Sequence[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each channel's largest activation in each image, and where it is."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}

    def keep(layer: str, output: Tensor) -> None:
        largest, position = output.flatten(2).max(2)
        found[layer].append((largest.cpu(), position.cpu()))

    for layer in layers:
        network.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output, layer=layer: keep(layer, output)
        )
    device = next(network.parameters()).device
    for batch in batches:
        network(batch.to(device))
    return {
        layer: (torch.cat([value for value, _ in of]), torch.cat([place for _, place in of]))
        for layer, of in found.items()
    }


def load_network(settings: Inputs) -> nn.Module:
    """Return the network in eval mode, on its device, in float32."""
    network = get_model(settings.architecture, weights=None)
    network.load_state_dict(load_file(Path(settings.work) / "model.safetensors"))
    return network.eval().requires_grad_(False).to(settings.device)


def load_images(settings: Inputs) -> Tensor:
    """Return all images on their device."""
    return load_file(Path(settings.work) / "inputs.safetensors")["images"].to(settings.device)


def load_pairs(settings: Inputs, layer: str) -> Pairs:
    """Return the pairs of a layer, on the CPU."""
    with safe_open(Path(settings.work) / "inputs.safetensors", "pt") as found:
        names = ("image", "channel", "position")
        return Pairs(*(found.get_tensor(f"{layer}/{name}") for name in names))


def start(settings: Inputs) -> None:
    """Set this process's threads and precision."""
    torch.set_num_threads(settings.threads)
    fast = settings.precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = fast
    torch.backends.cudnn.allow_tf32 = fast


def folded(network: nn.Module) -> nn.Module:
    """Return a copy with every batch norm merged into the convolution before it."""
    return _fold(copy.deepcopy(network)).eval().requires_grad_(False)


def _fold(module: nn.Module) -> nn.Module:
    before = ""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and before:
            setattr(module, before, fuse_conv_bn_eval(getattr(module, before), child))
            setattr(module, name, nn.Identity())
            before = ""
        elif isinstance(child, nn.Conv2d):
            before = name
        else:
            _fold(child)
    return module


class _Reached(Exception):
    """Ends a forward pass."""


@contextmanager
def _stop_at(module: nn.Module, kept: list[Tensor]) -> Iterator[None]:
    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        kept.append(output)
        raise _Reached

    handle = module.register_forward_hook(hook)
    try:
        yield
    except _Reached:
        pass
    finally:
        handle.remove()


def run_to(network: nn.Module, layer: str, batch: Tensor) -> Tensor:
    """Return a layer's output without running what lies above it."""
    kept: list[Tensor] = []
    with _stop_at(network.get_submodule(layer), kept):
        network(batch)
    return kept[0]


def _pictures(count: int, size: int) -> Tensor:
    rng = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    fall = 1 / np.maximum(np.hypot(rows, columns), 1 / size)
    waves = np.fft.rfft2(rng.normal(size=(count, 3, size, size))) * fall
    soft = np.fft.irfft2(waves, (size, size))
    soft /= soft.std(axis=(1, 2, 3), keepdims=True)
    noisy = soft + 0.1 * rng.normal(size=soft.shape)
    return torch.from_numpy(noisy.astype(np.float32))


@torch.no_grad()
def _calibrate(network: nn.Module, batch: Tensor) -> None:
    """Give batch norms the statistics of the images: one pass in training mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    network(batch)
    network.eval()
