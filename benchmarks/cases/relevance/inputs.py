"""Generated inputs of the relevance benchmark: images, a network, and pairs.

Nothing is downloaded. The images are noise with the spectrum of photographs plus white noise, so
that no two pixels are equal and max-pooling has no ties. The weights are random, with batch norms
calibrated on the images. This module is also imported in the reference's environment.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import VisionTransformer, get_model

from benchmarks.harness import Settings

LAYERS = ("layer1", "layer2", "layer3", "layer4")
VIT_LAYER = "encoder.layers.encoder_layer_10"
BLUR = 51 / 224
"""Blur kernel as a fraction of the image (paper, H.1)."""
THRESHOLD = 0.01


@dataclass(frozen=True)
class Inputs(Settings):
    """Inputs of one table, and how its parts run."""

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
        """Batch size of the plain passes."""
        return 8 if self.device == "cpu" else 64

    @property
    def kernel(self) -> int:
        """Blur kernel in pixels."""
        return 2 * round((BLUR * self.size - 1) / 2) + 1

    @property
    def classified(self) -> int:
        """Number of images for class relevance."""
        return min(self.count, 4 * self.batch)


@dataclass(frozen=True)
class Pairs:
    """Components with their example images, grouped by component."""

    image: Tensor
    channel: Tensor
    position: Tensor
    """Position of the channel's maximum: row * width + column."""

    def __len__(self) -> int:
        return len(self.image)


def prepare(settings: Inputs) -> None:
    """Generate images, weights and pairs."""
    work = Path(settings.work)
    images = _noise_images(settings.count, settings.size)
    torch.manual_seed(0)
    network = _make_network(settings)
    _calibrate(network, images[:32])
    save_file(network.state_dict(), work / "model.safetensors")
    tensors = {"images": images}
    peaks = _peaks(network.to(settings.device), settings.layers, images.split(settings.batch))
    for layer, (largest, position) in peaks.items():
        step = max(1, largest.shape[1] // settings.components)
        channel = torch.arange(settings.components) * step
        image = largest[:, channel].topk(settings.examples, 0).indices.T.reshape(-1)
        channel = channel.repeat_interleave(settings.examples)
        tensors[f"{layer}/image"] = image.clone()
        tensors[f"{layer}/channel"] = channel
        tensors[f"{layer}/position"] = position[image, channel].clone()
    save_file(tensors, work / "inputs.safetensors")


def _make_network(settings: Inputs) -> nn.Module:
    """Return an untrained network of torchvision, or a ViT-Tiny."""
    if settings.architecture != "vit_tiny":
        return get_model(settings.architecture, weights=None)
    network = VisionTransformer(
        image_size=settings.size, patch_size=16, num_layers=12, num_heads=3, hidden_dim=192,
        mlp_dim=768,
    )  # fmt: skip
    for parameter in network.heads.parameters():  # zeros, as torchvision makes them
        nn.init.normal_(parameter, std=0.02)
    return network


def components_first(output: Tensor) -> Tensor:
    """Return a view [b c p] of a map [b c h w] or of tokens [b p c]."""
    return output.flatten(2) if output.ndim == 4 else output.transpose(1, 2)


@torch.inference_mode()
def _peaks(
    network: nn.Module, layers: Sequence[str], batches: Sequence[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the maximal activation chunks each channel in each image, and its position."""
    peaks: dict[str, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}

    def append_peaks(layer: str, output: Tensor) -> None:
        largest, position = components_first(output).max(2)
        peaks[layer].append((largest.cpu(), position.cpu()))

    for layer in layers:
        network.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output, layer=layer: append_peaks(layer, output)
        )
    device = next(network.parameters()).device
    for batch in batches:
        network(batch.to(device))
    return {
        layer: (
            torch.cat([value for value, _ in chunks]),
            torch.cat([position for _, position in chunks]),
        )
        for layer, chunks in peaks.items()
    }


def load_network(settings: Inputs) -> nn.Module:
    """Return the network in eval mode, on its device, in float32."""
    network = _make_network(settings)
    network.load_state_dict(load_file(Path(settings.work) / "model.safetensors"))
    return network.eval().requires_grad_(False).to(settings.device)


def load_images(settings: Inputs) -> Tensor:
    """Return all images on their device."""
    return load_file(Path(settings.work) / "inputs.safetensors")["images"].to(settings.device)


def load_pairs(settings: Inputs, layer: str) -> Pairs:
    """Return the pairs of a layer, on the CPU."""
    with safe_open(Path(settings.work) / "inputs.safetensors", "pt") as file:
        names = ("image", "channel", "position")
        return Pairs(*(file.get_tensor(f"{layer}/{name}") for name in names))


def configure_torch(settings: Inputs) -> None:
    """Set the threads and precision of this process."""
    torch.set_num_threads(settings.threads)
    fast = settings.precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = fast
    torch.backends.cudnn.allow_tf32 = fast


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Return a copy with every batch norm merged into the preceding convolution."""
    return _fold_children(copy.deepcopy(network)).eval().requires_grad_(False)


def _fold_children(module: nn.Module) -> nn.Module:
    conv = ""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and conv:
            setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), child))
            setattr(module, name, nn.Identity())
            conv = ""
        elif isinstance(child, nn.Conv2d):
            conv = name
        else:
            _fold_children(child)
    return module


class _StopForward(Exception):
    """Ends a forward pass."""


@contextmanager
def _stop_after(module: nn.Module, outputs: list[Tensor]) -> Iterator[None]:
    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        outputs.append(output)
        raise _StopForward

    handle = module.register_forward_hook(hook)
    try:
        yield
    except _StopForward:
        pass
    finally:
        handle.remove()


def run_to(network: nn.Module, layer: str, batch: Tensor) -> Tensor:
    """Return a layer's output without running the layers above it."""
    outputs: list[Tensor] = []
    with _stop_after(network.get_submodule(layer), outputs):
        network(batch)
    return outputs[0]


def seeded_outputs(
    settings: Inputs, network: nn.Module, images: Tensor, layer: str, batches: int | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield input, output, and the output's gradient, which selects each pair's component.

    Parameters
    ----------
    batches
        Number of batches; by default those of all pairs.
    """
    pairs = load_pairs(settings, layer)
    columns = (pairs.image, pairs.channel, pairs.position)
    batched = [column.split(settings.batch)[:batches] for column in columns]
    for image, channel, position in zip(*batched, strict=True):
        pixels = images[image].requires_grad_()
        output = run_to(network, layer, pixels)
        seed = torch.zeros_like(output)
        components_first(seed)[torch.arange(len(image)), channel, position] = 1
        yield pixels, output, seed


def _noise_images(count: int, size: int) -> Tensor:
    rng = np.random.default_rng(0)
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    amplitude = 1 / np.maximum(np.hypot(rows, columns), 1 / size)
    waves = np.fft.rfft2(rng.normal(size=(count, 3, size, size))) * amplitude
    soft = np.fft.irfft2(waves, (size, size))
    soft /= soft.std(axis=(1, 2, 3), keepdims=True)
    noisy = soft + 0.1 * rng.normal(size=soft.shape)
    return torch.from_numpy(noisy.astype(np.float32))


@torch.no_grad()
def _calibrate(network: nn.Module, batch: Tensor) -> None:
    """Set the statistics of batch norms with one pass in training mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    network(batch)
    network.eval()
