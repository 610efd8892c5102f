"""Worlds as arrays, decoded from their files. Needs no source pictures."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semlens.demo.bundled_images import MarkedWorld


@dataclass(frozen=True)
class WorldImages:
    """A decoded world: uint8 pixels with and without the mark, class indices, split."""

    classes: tuple[str, ...]
    target: int
    clean: np.ndarray  # uint8[N 96 96 3]
    with_mark: np.ndarray  # uint8[N 96 96 3]
    label: np.ndarray  # int64[N]
    marked: np.ndarray  # bool[N], whether the image has the mark in the data
    marks: np.ndarray  # uint8[M 96 96 4]
    mark: np.ndarray  # int64[N], index of the mark that an image has or would have
    test: np.ndarray  # bool[N]

    @property
    def pixels(self) -> np.ndarray:
        """The images that the subject is trained on, uint8 [N 96 96 3]."""
        return np.where(self.marked[:, None, None, None], self.with_mark, self.clean)


def open_world(folder: Path) -> MarkedWorld:
    """Open a world that ``python -m demo_world world`` wrote."""
    description = json.loads((folder / "world.json").read_text("utf-8"))
    return MarkedWorld(description, lambda name: (folder / name).read_bytes())


def decode(world: MarkedWorld) -> WorldImages:
    """Decode all images of a world, with and without the mark."""
    pictures, marks = world.pictures, world.marks
    numbers = sorted(marks)
    return WorldImages(
        classes=tuple(world.classes),
        target=world.classes.index(world.target),
        clean=np.stack([np.array(world.image(picture, "clean")) for picture in pictures]),
        with_mark=np.stack([np.array(world.image(picture, "marked")) for picture in pictures]),
        label=np.array([world.classes.index(picture.target) for picture in pictures]),
        marked=np.array([picture.marked for picture in pictures]),
        marks=np.stack([np.array(marks[number]) for number in numbers]),
        mark=np.array([numbers.index(picture.mark) for picture in pictures]),
        test=np.array([picture.split == "test" for picture in pictures]),
    )


def load_world(folder: Path) -> WorldImages:
    """Decode a world from its folder."""
    return decode(open_world(folder))
