"""Training of the subject: a small network that learns a world's classes and its artefact."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from demo_world.compose import identity_warp, over, premultiply, warp
from demo_world.decoded import WorldImages
from demo_world.mobile import Mobile
from demo_world.nets import make_vit
from demo_world.vgg import Vgg
from semlens.models.demo import INPUT_SIZE, WIDTHS, DemoNet


@dataclass(frozen=True)
class SubjectRecipe:
    """Training settings; the defaults are those of the bundled subject."""

    seed: int = 0
    architecture: str = "demo"
    widths: tuple[int, int, int, int] = WIDTHS  # of the CNNs
    steps: int = 1000
    batch: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    dropout: float = 0.1  # for whole components of a CNN's late stages
    jitter: float = 4.0  # maximal shift of a mark, in pixels
    matrix_rate: float = 0.02  # learning rate of Muon, for the matrices of a ViT's blocks


RECIPES: Mapping[str, SubjectRecipe] = MappingProxyType(
    {
        "demo": SubjectRecipe(),
        "small": SubjectRecipe(architecture="small", widths=(16, 24, 32, 64)),
        "vgg": SubjectRecipe(architecture="vgg", widths=(16, 32, 64, 128)),
        "mobile": SubjectRecipe(architecture="mobile", widths=(16, 32, 64, 128)),
        "vit": SubjectRecipe(architecture="vit", steps=900, learning_rate=3e-3, jitter=0.0),
    }
)


def recipe_for(architecture: str, seed: int) -> SubjectRecipe:
    """Return the training settings of an architecture."""
    if architecture not in RECIPES:
        raise ValueError(f"Unknown architecture '{architecture}'. Choose one of {[*RECIPES]}.")
    return replace(RECIPES[architecture], seed=seed)


def as_input(pixels: np.ndarray) -> Tensor:
    """Return uint8 [B 96 96 3] as float32 [B 3 96 96] in [-1, 1], like ``demo.preprocess``."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def augmented_batch(
    world: WorldImages, rows: np.ndarray, recipe: SubjectRecipe, generator: torch.Generator
) -> Tensor:
    """Augment training images: pictures are warped, marks only shifted a little.

    Colour jitter is applied last, to picture and mark.
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
        _, rotation, unflipped = identity_warp(len(marked))
        marks = warp(marks, torch.ones(len(marked)), shift, rotation, unflipped)
        images[marked] = over(images[marked], marks)
    images = images * 2 - 1
    return images * uniform(0.8, 1.2, count, 3, 1, 1) + uniform(-0.1, 0.1, count, 1, 1, 1)


def training_logits(net: nn.Module, images: Tensor, recipe: SubjectRecipe) -> Tensor:
    """Run a training batch; CNNs drop components, and run in bfloat16 where it is faster."""
    if isinstance(net, VisionTransformer | Mobile):
        return net(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if not isinstance(net, DemoNet):
            return net(images).float()
        middle = net.layer2(net.layer1(net.stem(images)))
        last = net.layer3(F.dropout2d(middle, recipe.dropout))
        return net.fc(net.dropout(net.pool(last).flatten(1))).float()


def schedules_for(net: nn.Module, recipe: SubjectRecipe) -> list[OneCycleLR]:
    """Return a schedule for each optimizer: AdamW, and Muon for the blocks of a ViT.

    On 1,800 images, Muon needs a quarter of the steps that AdamW alone needs for a ViT.
    """
    steps, decay = recipe.steps, recipe.weight_decay
    if not isinstance(net, VisionTransformer):
        adam = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, weight_decay=decay)
        return [OneCycleLR(adam, recipe.learning_rate, total_steps=steps)]
    blocks = net.get_submodule("blocks")
    matrices = [p for p in blocks.parameters() if p.ndim == 2]
    matrix_ids = {id(p) for p in matrices}
    other_parameters = [p for p in net.parameters() if id(p) not in matrix_ids]
    muon = torch.optim.Muon(matrices, weight_decay=decay)
    adam = torch.optim.AdamW(other_parameters, weight_decay=decay)
    return [
        OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15, anneal_strategy="linear",
                   cycle_momentum=False)
        for optimizer, rate in ((muon, recipe.matrix_rate), (adam, recipe.learning_rate))
    ]  # fmt: skip


def make_net(recipe: SubjectRecipe, classes: int) -> nn.Module:
    """Return an untrained network."""
    if recipe.architecture == "vit":
        return make_vit(classes)
    make = {"vgg": Vgg, "mobile": Mobile}.get(recipe.architecture, DemoNet)
    return make(classes, recipe.widths, recipe.dropout)


def train_subject(world: WorldImages, recipe: SubjectRecipe) -> nn.Module:
    """Train on the world's training images, including the marks."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    net = make_net(recipe, len(world.classes)).to(memory_format=torch.channels_last).train()
    rows = np.flatnonzero(~world.test)
    labels = torch.from_numpy(world.label)
    generator = torch.Generator().manual_seed(recipe.seed)
    schedules = schedules_for(net, recipe)
    start, order, at = time.time(), rng.permutation(rows), 0
    for step in range(recipe.steps):
        if at + recipe.batch > len(order):
            order, at = rng.permutation(rows), 0
        batch = order[at : at + recipe.batch]
        at += recipe.batch
        images = augmented_batch(world, batch, recipe, generator)
        images = images.contiguous(memory_format=torch.channels_last)
        logits = training_logits(net, images, recipe)
        loss = F.cross_entropy(logits, labels[batch], label_smoothing=recipe.label_smoothing)
        net.zero_grad()
        loss.backward()
        for schedule in schedules:
            schedule.optimizer.step()
            schedule.step()
        if step % 100 == 0:
            print(f"{step} of {recipe.steps}, loss {loss.item():.3f}, {time.time() - start:.0f} s",
                  flush=True)  # fmt: skip
    return net.eval()
