"""Train the subject: a small CNN that learns a world's classes, and with them its artefact."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from demo_world.compose import over, premultiply, unwarped, warp
from demo_world.worlds import WorldImages
from semlens.models.demo_net import INPUT_SIZE, WIDTHS, DemoNet

WIDTHS_OF = {"demo": WIDTHS, "small": (16, 24, 32, 64)}


@dataclass(frozen=True)
class SubjectRecipe:
    """Training settings; the defaults are those of the bundled subject."""

    seed: int = 0
    widths: tuple[int, int, int, int] = WIDTHS
    steps: int = 1000
    batch: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    dropout: float = 0.1  # share of components of layer2 and layer3 silenced per image
    jitter: float = 4.0  # pixels by which a mark may shift


def as_input(pixels: np.ndarray) -> Tensor:
    """uint8[B 96 96 3] to float32[B 3 96 96] in [-1, 1], as ``demo_net.preprocess`` does."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def augmented_batch(
    world: WorldImages, rows: np.ndarray, recipe: SubjectRecipe, generator: torch.Generator
) -> Tensor:
    """Make inputs of training images: pictures are warped, marks only shifted a little.

    Colours are jittered last, over picture and mark alike.
    """
    count = len(rows)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    images = torch.from_numpy(world.clean[rows]).permute(0, 3, 1, 2).float() / 255
    flip = torch.where(uniform(0, 1, count) < 0.5, 1.0, -1.0)
    scale, shift = uniform(0.85, 1.2, count), uniform(-0.12, 0.12, count, 2)
    images = warp(images, scale, shift, uniform(-0.2, 0.2, count), flip, padding="border")
    marked = np.flatnonzero(world.marked[rows])
    if len(marked) > 0:
        marks = premultiply(torch.from_numpy(world.marks[world.mark[rows[marked]]]))
        shift = uniform(-1, 1, len(marked), 2) * 2 * recipe.jitter / INPUT_SIZE
        _, rotation, unflipped = unwarped(len(marked))
        marks = warp(marks, torch.ones(len(marked)), shift, rotation, unflipped)
        images[marked] = over(images[marked], marks)
    images = images * 2 - 1
    return images * uniform(0.8, 1.2, count, 3, 1, 1) + uniform(-0.1, 0.1, count, 1, 1, 1)


def train_subject(world: WorldImages, recipe: SubjectRecipe) -> DemoNet:
    """Train on the world's training images as they are, marks included."""
    torch.manual_seed(recipe.seed)
    draw = np.random.default_rng(recipe.seed)
    net = DemoNet(len(world.classes), recipe.widths, recipe.dropout)
    net = net.to(memory_format=torch.channels_last).train()
    rows = np.flatnonzero(~world.test)
    labels = torch.from_numpy(world.label)
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps
    )
    start, order, at = time.time(), draw.permutation(rows), 0
    for step in range(recipe.steps):
        if at + recipe.batch > len(order):
            order, at = draw.permutation(rows), 0
        batch = order[at : at + recipe.batch]
        at += recipe.batch
        images = augmented_batch(world, batch, recipe, generator)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            middle = net.layer2(net.layer1(net.stem(images)))
            last = net.layer3(F.dropout2d(middle, recipe.dropout))
            logits = net.fc(net.dropout(net.pool(last).flatten(1))).float()
        loss = F.cross_entropy(logits, labels[batch], label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"{step} of {recipe.steps}, loss {loss.item():.3f}, {time.time() - start:.0f} s",
                  flush=True)  # fmt: skip
    return net.eval()


def save_subject(net: DemoNet, path: Path) -> None:
    """Write fp16 safetensors; the stage widths are in the metadata."""
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in net.state_dict().items()
    }
    widths = [net.stem[0].out_channels, *(s.conv1.out_channels for s in stages(net))]
    save_file(state, path, metadata={"widths": ",".join(str(w) for w in widths)})


def stages(net: DemoNet) -> tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module]:
    """Return the three residual stages."""
    return net.layer1, net.layer2, net.layer3
