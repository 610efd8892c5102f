"""The smallest model and images of which the command line builds a database in a second."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ape", "bee", "cat", "dog")
LAYERS = ("first", "second")
IMAGES, SHARD, BATCH = 8, 4, 4
MODEL = '''\
"""Small networks with fixed random weights; FAULT=PLACE:CALL:ERROR makes them fail."""

import builtins
import os
from collections import Counter

import numpy as np
import torch
from PIL import Image
from torch import nn

calls = Counter()


def maybe_fail(place):
    calls[place] += 1
    wanted, call, error = os.environ.get("FAULT", "nothing:0:Exception").split(":")
    if wanted == place and calls[place] >= int(call):
        raise getattr(builtins, error)("injected")


class SmallNet(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 10, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        maybe_fail("model")
        return self.head(self.second(self.first(x)).mean((2, 3)))


def prepare(image):
    maybe_fail("preprocessing")
    small = image.resize((32, 32), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(small, np.float32)).permute(2, 0, 1) / 127.5 - 1


class ResidualNet(SmallNet):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(10, 10, 3, 1, 1, bias=False), nn.BatchNorm2d(10), nn.ReLU(),
            nn.Conv2d(10, 10, 3, 1, 1, bias=False), nn.BatchNorm2d(10),
        )

    def forward(self, x):
        x = self.second(self.first(x))
        return self.head(torch.relu(x + self.block(x)).mean((2, 3)))


def make():
    return SmallNet(), prepare, ["ape", "bee", "cat", "dog"]


def make_residual():
    return ResidualNet(), prepare, ["ape", "bee", "cat", "dog"]
'''
CONCEPTS = """\
target = "ape"
concepts = ["red", "green", "blue", "stripes", "dots"]
valid = ["red"]
spurious = ["blue"]
"""


class Inputs:
    """Model, images and concepts in a folder, and the commands that use them.

    With ``lrp``, the model is a residual network and relevance that of LRP; otherwise relevance is
    gradient times input, since capturing a model for LRP takes longer than the rest of a build.
    """

    def __init__(self, folder: Path, *, lrp: bool = False) -> None:
        self.images, self.concepts = folder / "images", folder / "concepts.toml"
        self.model, self.rules = folder / "small_model.py", "gradient"
        self.spec = f"{self.model}:make"
        if lrp:
            self.spec, self.rules = f"{self.model}:make_residual", "epsilon-plus-flat"
        draw = np.random.default_rng(0)
        for number in range(IMAGES):
            pixels = np.kron(draw.integers(0, 256, (8, 8, 3)), np.ones((5, 5, 1)))
            path = self.images / CLASSES[number % len(CLASSES)] / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
        self.model.write_text(MODEL, "utf-8")
        self.concepts.write_text(CONCEPTS, "utf-8")

    def build(
        self,
        database: Path,
        layers: Sequence[str] = LAYERS,
        *,
        relevance: bool = True,
        images: Path | None = None,
    ) -> list[str | Path]:
        """Return the arguments of a build."""
        return [
            "build", database, "--model", self.spec, "--data", images or self.images,
            "--embedder", "semlens/demo", "--layers", ",".join(layers), "--examples", "2",
            "--reference", "4",
            "--batch-size", str(BATCH), "--workers", "2", "--device", "cpu",
            "--crop", "crp", "--rules", self.rules,
            *(["--relevance"] if relevance else []),
        ]  # fmt: skip

    def questions(self, database: Path, picture: Path) -> dict[str, list[str | Path]]:
        """Return commands that together read every file of a database, by name."""
        concepts = ["--concepts", self.concepts]
        top = [f"{layer}:{index}" for layer in LAYERS for index in range(6)]
        return {
            "status": ["status", database, "--json"],
            "search": ["search", database, "red", "--json"],
            "label": ["label", database, *concepts, "--rows", "0", "--json"],
            "show": ["show", database, *top, "--save", picture, "--json"],
            "relevance": [
                "class-relevance",
                database,
                "--target",
                "bee",
                "--concepts",
                "none",
                "--json",
            ],
            "audit": ["audit", database, "--target", "ape", *concepts, "--json"],
        }

    def keeping_questions(self, database: Path, folder: Path) -> dict[str, list[str | Path]]:
        """Return commands that keep results in a database, or read those, by name."""
        concepts = ["--concepts", self.concepts]
        image = next(self.images.rglob("*.png"))
        model = ["--model", self.spec]
        commands: dict[str, list[str | Path]] = {
            "verify": ["db", "verify", database],
            "scores": ["scores", database],
            "map": ["map", database, "--query", "red", *concepts, "--save", folder / "map.png"],
            "dissect": ["concepts", "dissect", database, *concepts],
            "senses": ["labels", "senses", database, "--layer", "first", *concepts],
            "label-stability": ["labels", "stability", database, *concepts],
            "unexpected": ["classes", "unexpected", database, "--target", "ape", *concepts],
            "audit --all": ["audit", database, "--all", *concepts],
            "compare": ["compare", database, "--by-layer", *concepts],
            "explain": ["explain", database, image, *concepts, *model],
            "graph": ["graph", database, "--target", "ape", *concepts, *model],
            "effect": ["effect", database, "--target", "ape", *concepts, *model],
            "affected": ["correct", "affected", database, "first:1"],
            "report": ["report", database, "--target", "ape", *concepts, *model, "--save",
                       folder / "report.html"],
        }  # fmt: skip
        return {name: [*command, "--json"] for name, command in commands.items()}


def small_shards() -> None:
    """Divide the next build into shards of four images, which the command line does not offer."""
    from semlens.run import plan

    plan.Execution = partial(plan.Execution, shard=SHARD)  # type: ignore[misc]


def contents(path: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a database, by relative path."""
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }
