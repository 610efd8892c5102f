"""Make the golden files: relevance as zennit 1.0 computes it, in float64.

    python3 -m venv ENV
    ENV/bin/python -m pip install 'zennit==1.0.0' torchvision safetensors
    ENV/bin/python tests/golden/zennit/make.py

zennit 1.0.0 asks for Python 3.11.11 or newer; on an older 3.11 `pip install
--ignore-requires-python` works. Zennit (LGPL) is nowhere a dependency of this project: this script
alone imports it, and the files hold numbers only. It is right on torchvision's ResNet and VGG
under its own canonizers, and on these alone it is asked.

A file NAME.safetensors is about ``subjects.subject(NAME)``, under EpsilonPlusFlat (epsilon 1e-6
and stabilizer 1e-6, zennit's defaults):

- ``logits`` float64[2 10]: whether the network made elsewhere is the same one;
- ``class/target`` int64[2]: the class started from (the largest logit; R is the logit);
- ``class/heatmap`` float32[2 64 64]: relevance of the pixels, summed over colours;
- ``class/LAYER`` float32[2 c]: relevance of the layer's channels, summed over space;
- ``start/LAYER/channel`` int64[2 3], ``position`` int64[2 3] (row * width + column),
  ``activation`` float64[2 3]: three channels of each image and their largest activation,
  which is R there;
- ``start/LAYER/heatmap`` float32[2 3 64 64]: the pixels' relevance from that one start.

``made_with`` in a file's metadata holds the versions it was made with, as JSON.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file
from subjects import RECIPES, Recipe, subject
from torch import Tensor, nn
from zennit.composites import EpsilonPlusFlat
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

HERE = Path(__file__).parent
CHANNELS = 3
CLEAR = 1e-3
"""By how much of its value a peak must exceed the channel's next value."""


@contextmanager
def outputs_of(network: nn.Module, names: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of layers."""
    found: dict[str, Tensor] = {}
    modules = dict(network.named_modules())

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        return modules[name].register_forward_hook(
            lambda _module, _inputs, output: found.__setitem__(name, output)
        )

    handles = [keep(name) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def class_relevance(
    network: nn.Module, inputs: Tensor, layers: tuple[str, ...]
) -> dict[str, Tensor]:
    """Start at each image's largest logit."""
    pixels = inputs.clone().requires_grad_()
    with outputs_of(network, layers) as kept:
        logits = network(pixels)
    target = logits.argmax(1)
    start = torch.zeros_like(logits).scatter(1, target[:, None], 1) * logits.detach()
    found = torch.autograd.grad(logits, [*(kept[name] for name in layers), pixels], start)
    shares = {
        f"class/{name}": relevance.sum((2, 3))
        for name, relevance in zip(layers, found, strict=False)
    }
    return {"class/target": target, "class/heatmap": found[-1].sum(1), **shares}


def starts(activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Choose channels with a clear, positive peak: the strongest, and ones of middling strength."""
    flat = activations.detach().flatten(2)
    first, second = flat.topk(2, dim=2).values.unbind(2)
    channels = []
    for image in range(len(flat)):
        clear = (first[image] - second[image]) > CLEAR * first[image]
        usable = (clear & (first[image] > 0)).nonzero()[:, 0]
        ranked = usable[first[image, usable].argsort(descending=True)]
        channels.append(ranked[[0, len(ranked) // 3, 2 * len(ranked) // 3]])
    channel = torch.stack(channels)
    chosen = flat[torch.arange(len(flat))[:, None], channel]
    activation, position = chosen.max(2)
    return channel, position, activation


def conditional(network: nn.Module, inputs: Tensor, layer: str) -> dict[str, Tensor]:
    """Start at one place of one channel of a layer."""
    pixels = inputs.clone().requires_grad_()
    with outputs_of(network, (layer,)) as kept:
        network(pixels)
    output = kept[layer]
    channel, position, activation = starts(output)
    maps = []
    for number in range(CHANNELS):
        start = torch.zeros_like(output).flatten(2)
        start[torch.arange(len(start)), channel[:, number], position[:, number]] = activation[
            :, number
        ]
        (relevance,) = torch.autograd.grad(
            output, pixels, start.reshape(output.shape), retain_graph=True
        )
        maps.append(relevance.sum(1))
    named = {
        "channel": channel, "position": position, "activation": activation,
        "heatmap": torch.stack(maps, 1),
    }  # fmt: skip
    return {f"start/{layer}/{key}": value for key, value in named.items()}


def golden(name: str, recipe: Recipe) -> dict[str, Tensor]:
    """Compute everything about one network."""
    network, inputs = subject(name)
    logits = network(inputs)
    canonizer = VGGCanonizer() if name.startswith("vgg") else ResNetCanonizer()
    with EpsilonPlusFlat(canonizers=[canonizer]).context(network) as hooked:
        found = class_relevance(hooked, inputs, recipe.layers)
        for layer in recipe.starts:
            found |= conditional(hooked, inputs, layer)
    exact = ("activation",)
    small = {
        key: value.float() if value.is_floating_point() and not key.endswith(exact) else value
        for key, value in found.items()
    }
    return {"logits": logits, **small}


def main() -> None:
    """Write the files beside this one, or into the folder given."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    versions = {
        "zennit": version("zennit"),
        "torch": version("torch"),
        "torchvision": version("torchvision"),
        "numpy": version("numpy"),
        "python": platform.python_version(),
    }
    for name, recipe in RECIPES.items():
        tensors = {key: value.detach().contiguous() for key, value in golden(name, recipe).items()}
        path = folder / f"{name}.safetensors"
        save_file(tensors, path, {"made_with": json.dumps(versions)})
        path.chmod(0o644)
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
