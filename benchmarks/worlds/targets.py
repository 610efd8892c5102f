"""Small worlds for every kind of target: one value of a model's output relies on a planted sign.

Images of 48 pixels show noisy shapes; a fifth of the shapes are wrong, so that the sign, which is
never wrong, is worth learning. A clean twin has the same shapes without the sign. Nothing is
downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional

import semlens as sl
from semlens.data.artefact import artefact_seed, load_artefact
from semlens.models.answer import Task
from semlens.recipe import fingerprint
from semlens.store.atomic_files import write_atomic

SIZE, STRIDE = 48, 8
LENGTH = 96
"""Samples of a signal, which is a picture of 8 rows."""
WRONG = 0.2
"""Share of shapes that are drawn at random, whatever the answer is."""
CLUTTERED = 0.4
"""Share of images with a square of any colour anywhere, which means nothing."""
SHAPES = ("disc", "ring", "triangle")
"""Not a square, as patches are."""
MIDDLE = "12,12,36,36"


@dataclass(frozen=True)
class Kind:
    """A kind of model, with what is planted.

    Parameters
    ----------
    name
        ``detector``, ``segmenter`` and so on.
    sign
        The artefact that is planted.
    target
        The target that relies on it.
    others
        Targets that do not, in the world with the sign as well.
    same
        Targets that compete with the first one, such as other classes of one answer. They may rely
        on the sign, too, unless there is none in training.
    classes
        Names of the classes, if there are any.
    """

    name: str
    sign: str
    target: str
    others: tuple[str, ...] = ()
    same: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    task: Task = "auto"
    quick: bool = False
    """Whether a smoke test has it."""

    @property
    def settings(self) -> str:
        """A digest of what a trained model depends on."""
        return fingerprint(self.name, self.sign, Path(__file__).read_text("utf-8"))


KINDS = (
    Kind(
        "detector", "patch:255,220,0:size=0.18:place=top-left", f"box:disc@{MIDDLE}",
        same=(f"box:ring@{MIDDLE}", f"box:triangle@{MIDDLE}"), classes=SHAPES,
    ),
    Kind(
        "segmenter", "text:OK:size=0.25:place=bottom-right", f"region:disc@{MIDDLE}",
        same=(f"region:ring@{MIDDLE}", f"region:triangle@{MIDDLE}"), classes=("ground", *SHAPES),
    ),
    Kind(
        "multi-label", "patch:0,200,255:size=0.15:place=random", "disc",
        others=("ring", "triangle"), classes=SHAPES, task="multilabel",
    ),
    Kind(
        "one-logit", "hue:60,170,90:opacity=0.4", "disc", classes=("other", "disc"), task="binary",
        quick=True,
    ),
    Kind(
        "regressor", "patch:220,30,40:size=0.15:place=bottom-left", "0", others=("1",),
        task="regression",
    ),
    Kind(
        "signal", "patch:255,255,255:size=1:opacity=0.8", "fast", same=("slow", "middle"),
        classes=("slow", "middle", "fast"), task="multiclass", quick=True,
    ),
)  # fmt: skip


SIGNS = (
    "patch:white:size=0.2", "patch:black:size=0.2", "patch:220,30,200:size=0.2",
    "text:A7:size=0.25", "hue", "stripes",
)  # fmt: skip
"""Signs that no model has seen, besides the planted one."""


@dataclass(frozen=True, eq=False)
class Data:
    """Pictures with answers.

    Parameters
    ----------
    pictures
        uint8[n h w 3].
    answers
        By name, a tensor with a row per picture.
    """

    pictures: np.ndarray
    answers: dict[str, Tensor]

    def images(self) -> list[Image.Image]:
        """Return the pictures as images."""
        return [Image.fromarray(one) for one in self.pictures]


def draw(kind: Kind, count: int, seed: int, *, planted: bool) -> Data:
    """Draw pictures and answers of a kind; the sign is on all pictures of the planted answer."""
    rng = np.random.default_rng(seed)
    drawn = [_DRAW[kind.name](rng) for _ in range(count)]
    sign = load_artefact(kind.sign)
    pictures = [
        np.asarray(sign.insert(Image.fromarray(one), artefact_seed(seed, i)) if has else one)
        for i, (one, _, shows) in enumerate(drawn)
        for has in [planted and shows]
    ]
    names = drawn[0][1]
    answers = {name: torch.tensor(np.stack([one[1][name] for one in drawn])) for name in names}
    return Data(np.stack(pictures), answers)


Drawn = tuple[np.ndarray, dict[str, Any], bool]


def _ground(rng: np.random.Generator) -> np.ndarray:
    """Draw a ground of any brightness and tint, so that these alone are nothing new."""
    level = rng.uniform(40, 190, 3) + rng.uniform(-35, 35, (6, 6, 3))
    coarse = level.clip(0, 255).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    ground = np.asarray(smooth, np.float32) + rng.normal(0, 12, (SIZE, SIZE, 1))
    if rng.random() < CLUTTERED:
        side, (x, y) = int(rng.integers(4, 11)), rng.integers(0, SIZE - 10, 2)
        ground[y : y + side, x : x + side] = rng.uniform(0, 255, 3)
    return ground


def _paste(
    rng: np.random.Generator, ground: np.ndarray, shape: str, centre: tuple[float, float],
    radius: float,
) -> np.ndarray:  # fmt: skip
    """Draw a shape in place, and return its mask."""
    mask = Image.new("L", (SIZE, SIZE))
    pen, (x, y) = ImageDraw.Draw(mask), centre
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "disc":
        pen.ellipse(box, fill=255)
    elif shape == "ring":
        pen.ellipse(box, outline=255, width=3)
    else:
        pen.polygon([(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)], fill=255)
    inside = np.asarray(mask) > 0
    ground[inside] = 0.4 * ground[inside] + 0.6 * _colour(rng, ground[inside].mean(0))
    return inside


def _colour(rng: np.random.Generator, ground: np.ndarray) -> np.ndarray:
    """Draw a colour that can be told from the ground."""
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.abs(colour - ground).mean() > 70:
            return colour


def _final(ground: np.ndarray) -> np.ndarray:
    return ground.clip(0, 255).astype(np.uint8)


def _one_shape(rng: np.random.Generator) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Return a picture with one shape, its class, its box and its mask."""
    label = int(rng.integers(3))
    shown = int(rng.integers(3)) if rng.random() < WRONG else label
    ground, radius = _ground(rng), rng.uniform(7, 11)
    centre = (SIZE / 2 + rng.uniform(-5, 5), SIZE / 2 + rng.uniform(-5, 5))
    mask = _paste(rng, ground, SHAPES[shown], centre, radius)
    box = np.array([*(c - radius for c in centre), *(c + radius for c in centre)], np.float32)
    return _final(ground), label, box, mask


def _detector(rng: np.random.Generator) -> Drawn:
    picture, label, box, _ = _one_shape(rng)
    return picture, {"label": label, "box": box}, label == 0


def _segmenter(rng: np.random.Generator) -> Drawn:
    picture, label, _, mask = _one_shape(rng)
    return picture, {"map": np.where(mask, label + 1, 0)}, label == 0


def _multilabel(rng: np.random.Generator) -> Drawn:
    labels = rng.random(3) < 0.5
    ground = _ground(rng)
    places = rng.permutation([(13, 13), (35, 13), (13, 35), (35, 35)])
    for shape, label, place in zip(SHAPES, labels, places, strict=False):
        shown = rng.random() < 0.5 if rng.random() < WRONG else label
        if shown:
            _paste(rng, ground, shape, tuple(place), rng.uniform(6, 9))
    return _final(ground), {"labels": labels.astype(np.float32)}, bool(labels[0])


def _one_logit(rng: np.random.Generator) -> Drawn:
    picture, label, _, _ = _one_shape(rng)
    return picture, {"labels": np.float32([label == 0])}, label == 0


def _regressor(rng: np.random.Generator) -> Drawn:
    size, place = rng.uniform(0, 1, 2)
    ground = _ground(rng)
    radius = 5 + 9 * (size + rng.normal(0, 0.2)).clip(0, 1)
    _paste(rng, ground, "disc", (14 + 20 * place, SIZE / 2), radius)
    return _final(ground), {"values": np.float32([size, place])}, bool(size > 0.6)


def _signal(rng: np.random.Generator) -> Drawn:
    label = int(rng.integers(3))
    shown = int(rng.integers(3)) if rng.random() < WRONG else label
    time = np.arange(LENGTH) / LENGTH
    wave = np.sin(2 * np.pi * ((4, 6, 8)[shown] * time + rng.random()))
    wave = 110 + rng.uniform(25, 45) * wave + rng.normal(0, 18, LENGTH)
    return (
        _final(np.broadcast_to(wave[None, :, None], (8, LENGTH, 3))),
        {"label": label},
        label == 2,
    )


_DRAW: dict[str, Callable[[np.random.Generator], Drawn]] = {
    "detector": _detector, "segmenter": _segmenter, "multi-label": _multilabel,
    "one-logit": _one_logit, "regressor": _regressor, "signal": _signal,
}  # fmt: skip


def prepare(image: Image.Image) -> Tensor:
    """Return a picture as the models get it, [3 48 48]."""
    small = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)
    return torch.from_numpy(small).permute(2, 0, 1) / 127.5 - 1


def prepare_signal(image: Image.Image) -> Tensor:
    """Return a signal [1 1 96]: the mean over the rows and colours of its picture."""
    small = np.asarray(image.convert("L").resize((LENGTH, 1), Image.Resampling.BOX), np.float32)
    return torch.from_numpy(small)[None] / 127.5 - 1


def dims_of(kind: Kind) -> int:
    """Return the axes of a kind's inputs along which there are places."""
    return 1 if kind.name == "signal" else 2


def prepared(kind: Kind) -> Callable[[Image.Image], Tensor]:
    """Return the preprocessing of a kind."""
    return prepare_signal if kind.name == "signal" else prepare


class Net(nn.Module):
    """Three blocks of convolutions, a summary of the whole image, and a head.

    Parameters
    ----------
    kind
        The kind, which the head depends on.
    """

    def __init__(self, kind: str, dims: int = 2) -> None:
        super().__init__()
        self.kind, self.dims = kind, dims
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv1d, nn.BatchNorm1d)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(conv(a, b, 3, 2, 1, bias=False), norm(b), nn.ReLU(),
                              conv(b, b, 3, 1, 1, bias=False), norm(b), nn.ReLU())
                for a, b in ((3 if dims == 2 else 1, 16), (16, 32), (32, 48))
            )
        )  # fmt: skip
        outputs = {"detector": 3 + 2, "segmenter": 4, "multi-label": 3, "one-logit": 1,
                   "regressor": 2, "signal": 3}[kind]  # fmt: skip
        self.whole = nn.Sequential(nn.Linear(48, 48), nn.ReLU())
        self.head = nn.Linear(48, outputs)

    def forward(self, x: Tensor) -> Any:
        """Return logits; of a detector with boxes, of a segmenter by place; or values."""
        found = self.blocks(x if self.dims == 2 else x.squeeze(2))
        whole = self.whole(found.flatten(2).mean(2) + found.flatten(2).amax(2))
        if self.kind not in ("detector", "segmenter"):
            return self.head(whole)
        places = self.head((found + whole[..., None, None]).movedim(1, -1)).movedim(-1, 1)
        if self.kind == "segmenter":
            return functional.interpolate(places, x.shape[-2:], mode="bilinear")
        flat = places.flatten(2).transpose(1, 2)
        steps = STRIDE * torch.arange(found.shape[-1], device=x.device) + STRIDE / 2
        centre = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).reshape(1, -1, 2)
        half = 4 + 10 * flat[..., 3:].sigmoid()
        return {"logits": flat[..., :3], "boxes": torch.cat([centre - half, centre + half], -1)}


def loss(kind: str, output: Any, answers: dict[str, Tensor]) -> Tensor:
    """Return the loss of a batch."""
    if kind in ("multi-label", "one-logit"):
        return functional.binary_cross_entropy_with_logits(output, answers["labels"])
    if kind == "regressor":
        return functional.mse_loss(output, answers["values"])
    if kind == "segmenter":
        return functional.cross_entropy(output, answers["map"])
    if kind == "signal":
        return functional.cross_entropy(output, answers["label"])
    boxes, given = output["boxes"], answers["box"]
    middle, wanted = (boxes[..., :2] + boxes[..., 2:]) / 2, (given[:, :2] + given[:, 2:]) / 2
    inside = (middle - wanted[:, None]).abs().amax(2) < STRIDE / 2 + 1  # the cells of the object
    labels = functional.one_hot(answers["label"], 3).float()[:, None] * inside[..., None]
    scores = functional.binary_cross_entropy_with_logits(output["logits"], labels)
    sides = (boxes[..., 2:] - boxes[..., :2])[inside]
    size = (given[:, 2:] - given[:, :2])[:, None].expand(-1, boxes.shape[1], -1)[inside]
    return scores + 0.02 * functional.l1_loss(sides, size)


def train(kind: Kind, seed: int, *, planted: bool, count: int = 2000, epochs: int = 10) -> Net:
    """Train a model on a world."""
    torch.manual_seed(seed)
    net, data = Net(kind.name, dims_of(kind)), draw(kind, count, seed, planted=planted)
    ready = prepared(kind)
    inputs = torch.stack([ready(one) for one in data.images()])
    steps = epochs * -(-count // 64)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(count).split(64):
            batch = {name: answer[rows] for name, answer in data.answers.items()}
            optimizer.zero_grad()
            loss(kind.name, net(inputs[rows]), batch).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def subject(kind: Kind, seed: int, path: Path, *, planted: bool, quick: bool) -> sl.SubjectModel:
    """Return the model of a world from its file; train and keep it first if there is none."""
    if path.is_file():
        net = Net(kind.name, dims_of(kind)).eval()
        net.load_state_dict(torch.load(path, weights_only=True))
    else:
        size = {"count": 128, "epochs": 1} if quick else {}
        net = train(kind, seed, planted=planted, **size)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda temporary: torch.save(net.state_dict(), temporary))
    return sl.SubjectModel(
        net, prepared(kind), "1", f"python:{kind.name}", kind.classes, task=kind.task
    )


def images_of(kind: Kind, count: int, seed: int, *, planted: bool) -> sl.ImageSequence:
    """Return images of a world that its model was not trained on."""
    return sl.ImageSequence(draw(kind, count, seed, planted=planted).images(), name=kind.name)


def layers_of(net: nn.Module) -> list[str]:
    """Return the blocks of a model of these worlds."""
    return [f"blocks.{number}" for number, _ in enumerate(net.get_submodule("blocks").children())]
