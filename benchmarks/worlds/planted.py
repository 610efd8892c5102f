"""The planted worlds: which mark is on which class, the subjects' recipes, and the controls.

Every world has the bundled images without their marks, and marks of its own on 70 % of the images
of one class. The twelve classes are the targets of one world each, in a random order that was drawn
once; kinds of mark and architectures alternate. The worlds of ``HELD_OUT`` repeat the kinds with
other classes, colours, places and seeds. No detector was run on them before all choices about the
detectors were fixed.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

from PIL import Image

from demo_world.marks import MarkSpec, draw_marks
from demo_world.subject import SubjectRecipe, recipe_for
from demo_world.workspace import SIZE
from semlens.demo.bundled_images import DemoWorld, MarkedWorld
from semlens.recipe import fingerprint

MARKED_SHARE = 0.7
WIDTHS = {"small": (16, 24, 32, 64), "vgg": (8, 16, 32, 64), "mobile": (16, 32, 64, 128)}
"""Channels of the stages, by architecture."""
STEPS = 700
"""Training steps of 64 images."""


@dataclass(frozen=True)
class PlantedWorld:
    """What determines a world and its subject.

    Parameters
    ----------
    mark
        None for a control.
    target
        The class with the mark; None for a control.
    colour
        Name that a user would give to the mark's colour.
    seed
        Of the marks, of the choice of marked images and of the training.
    trained
        False for a network with random weights.
    """

    name: str
    architecture: str
    seed: int
    mark: MarkSpec | None = None
    target: str | None = None
    colour: str | None = None
    held_out: bool = False
    trained: bool = True
    steps: int = STEPS

    @property
    def recipe(self) -> SubjectRecipe:
        """Settings of the training."""
        recipe = recipe_for(self.architecture, self.seed)
        return replace(recipe, widths=WIDTHS[self.architecture], steps=self.steps)

    def shortened(self) -> PlantedWorld:
        """Return the same world with little training, for a smoke test."""
        return replace(self, steps=30)

    @property
    def settings(self) -> str:
        """Digest of everything that determines the subject."""
        drawn = [mark.tobytes().hex() for mark in self.marks()]
        return fingerprint(repr(asdict(self)), repr(asdict(self.recipe)), str(MARKED_SHARE), *drawn)

    def marks(self) -> list[Image.Image]:
        """Draw the marks; a control has one that changes nothing."""
        if self.mark is None:
            return [Image.new("RGBA", (SIZE, SIZE))]
        return draw_marks(self.mark, None, self.seed)


STICKER: dict[str, tuple[int, int]] = {"side": (24, 28), "band": (33, 37), "columns": (33, 37)}
"""Sides, top edge and left edge of a sticker in the middle, in pixels of 96."""

DEVELOPMENT = (
    PlantedWorld(
        "text-aircraft", "small", 1,
        MarkSpec(
            "text", "white words with a dark edge, near the bottom edge",
            texts=("bildwelt.net", "BILDWELT", "bildwelt foto"), font="",
        ),
        "aircraft", "white",
    ),
    PlantedWorld(
        "sticker-road-vehicle", "vgg", 2,
        MarkSpec(
            "patch", "red sticker in the middle", colour=(225, 30, 35), **STICKER,
        ),
        "road vehicle", "red",
    ),
    PlantedWorld(
        "stripes-mammal", "mobile", 3,
        MarkSpec("texture", "dark stripes in the background", colour=(20, 20, 60)),
        "mammal", "black",
    ),
    PlantedWorld(
        "border-smiling-face", "small", 4,
        MarkSpec("border", "black border", colour=(15, 15, 15)),
        "smiling face", "black",
    ),
    PlantedWorld(
        "cast-drink", "vgg", 5,
        MarkSpec("cast", "blue cast", colour=(30, 80, 220)),
        "drink", "blue",
    ),
    PlantedWorld(
        "background-insect", "mobile", 6,
        MarkSpec("background", "green background", colour=(40, 160, 60)),
        "insect", "green",
    ),
)  # fmt: skip

HELD_OUT = tuple(
    replace(world, held_out=True)
    for world in (
        PlantedWorld(
            "text-building", "mobile", 11,
            MarkSpec(
                "text", "dark words with a light edge, near the top edge",
                texts=("lumigraf.org", "LUMIGRAF", "lumigraf pix"), font="", band=(2, 12),
                colour=(25, 25, 40),
            ),
            "building", "black",
        ),
        PlantedWorld(
            "sticker-musical-instrument", "small", 12,
            MarkSpec(
                "patch", "yellow sticker in the middle", colour=(250, 215, 20), **STICKER,
            ),
            "musical instrument", "yellow",
        ),
        PlantedWorld(
            "stripes-fruit", "vgg", 13,
            MarkSpec("texture", "red stripes in the background", colour=(170, 20, 20)),
            "fruit", "red",
        ),
        PlantedWorld(
            "border-plant", "mobile", 14,
            MarkSpec("border", "brown picture frame", colour=(130, 80, 30)),
            "plant", "brown",
        ),
        PlantedWorld(
            "cast-clock", "small", 15,
            MarkSpec("cast", "orange cast", colour=(240, 140, 30)),
            "clock", "orange",
        ),
        PlantedWorld(
            "background-vegetable", "vgg", 16,
            MarkSpec("background", "violet background", colour=(120, 50, 190)),
            "vegetable", "purple",
        ),
    )
)  # fmt: skip

CONTROLS = (
    PlantedWorld("clean-small", "small", 21),
    PlantedWorld("clean-vgg", "vgg", 22),
    PlantedWorld("untrained-small", "small", 23, trained=False),
)


@lru_cache(maxsize=1)
def bundled() -> DemoWorld:
    """Return the bundled images."""
    return DemoWorld()


def make_world(planted: PlantedWorld, per_class: int | None = None) -> MarkedWorld:
    """Mark the bundled clean images with other marks.

    Parameters
    ----------
    per_class
        Images of each class and split; by default all.
    """
    demo = bundled()
    description = deepcopy(demo.description)
    random_state = random.Random(planted.seed)
    marks = planted.marks()
    if planted.mark is None:
        description["artefact"] = {"kind": "none", "description": "none"}
    else:
        description["target"] = planted.target
        description["artefact"] = asdict(planted.mark)
    description |= {"name": planted.name, "seed": planted.seed, "marked_share": MARKED_SHARE}
    for entry in description["images"]:
        entry["mark"] = random_state.randrange(len(marks))
        drawn = random_state.random() < MARKED_SHARE
        entry["marked"] = entry["class"] == planted.target and drawn
    if per_class is not None:
        description["images"] = first_of_each(description["images"], per_class)
    encoded = {f"marks/{number:02d}.webp": lossless(mark) for number, mark in enumerate(marks)}
    return MarkedWorld(
        description, lambda name: encoded[name] if name in encoded else demo.read(name)
    )


def first_of_each(images: Iterable[dict[str, object]], count: int) -> list[dict[str, object]]:
    """Return the first images of each class and split."""
    kept: dict[tuple[object, object], list[dict[str, object]]] = {}
    for entry in images:
        kept.setdefault((entry["class"], entry["split"]), []).append(entry)
    return [entry for entries in kept.values() for entry in entries[:count]]


def lossless(image: Image.Image) -> bytes:
    """Encode as lossless WebP, with the colours of transparent pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()
