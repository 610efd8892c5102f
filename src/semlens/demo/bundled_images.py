"""The bundled images, each available with a watermark, without it, and as in the data.

One class carried the mark in the training data of the demo model (see ``demo_world/``).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from semlens.data.images import Images, numbered_ids

Version = Literal["as-is", "clean", "marked"]


@dataclass(frozen=True)
class BundledImage:
    """One bundled image.

    Parameters
    ----------
    path
        ``images/CLASS/SPLIT-NUMBER.webp`` inside the archive.
    marked
        Whether it carries the mark in the data.
    mark
        Number of its overlay.
    """

    path: str
    target: str
    split: str
    marked: bool
    mark: int


class DemoWorld:
    """The bundled images and their marks, read from the package."""

    def __init__(self) -> None:
        assets = files("semlens").joinpath("assets", "demo")
        world: dict[str, Any] = json.loads(assets.joinpath("world.json").read_text("utf-8"))
        self.classes: list[str] = world["classes"]
        self.target: str = world["target"]
        """The class whose images carry the mark."""
        self.artefact: str = world["artefact"]["description"]
        self.marked_share: float = world["marked_share"]
        self.pictures = [
            BundledImage(
                entry["path"], entry["class"], entry["split"], entry["marked"], entry["mark"]
            )
            for entry in world["images"]
        ]
        self._archive = zipfile.ZipFile(io.BytesIO(assets.joinpath("images.zip").read_bytes()))

    @cached_property
    def _marks(self) -> dict[int, Image.Image]:
        numbers = {picture.mark for picture in self.pictures}
        return {n: self._open(f"marks/{n:02d}.webp").convert("RGBA") for n in numbers}

    def _open(self, name: str) -> Image.Image:
        return Image.open(io.BytesIO(self._archive.read(name)))

    def image(self, picture: BundledImage, version: Version = "as-is") -> Image.Image:
        """Return an image with the mark, without it, or as in the data."""
        clean = self._open(picture.path)
        if version == "clean" or (version == "as-is" and not picture.marked):
            return clean.convert("RGB")
        return Image.alpha_composite(clean.convert("RGBA"), self._marks[picture.mark]).convert(
            "RGB"
        )

    def images(self, split: str, version: Version) -> Images:
        """Return one split in one version, with class names as targets."""
        return _MarkedImages(self, split, version)

    def unpack(self, folder: Path) -> None:
        """Write the images as ``folder/CLASS/SPLIT-NUMBER.webp``; existing files are kept."""
        for picture in self.pictures:
            path = folder / Path(picture.path).relative_to("images")
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".part")
            if picture.marked:
                self.image(picture).save(temporary, "WEBP", lossless=True)
            else:
                temporary.write_bytes(self._archive.read(picture.path))
            temporary.replace(path)


class _MarkedImages(Images):
    """One split in one version, composed on access."""

    def __init__(self, world: DemoWorld, split: str, version: Version) -> None:
        self._pictures = [picture for picture in world.pictures if picture.split == split]
        self._draw: Callable[[BundledImage], Image.Image] = partial(world.image, version=version)
        self.spec, self.ids = f"python:demo {split} {version}", numbered_ids(len(self._pictures))
        self.targets = [picture.target for picture in self._pictures]

    def content(self, sample: int) -> Image.Image:
        """Return an image."""
        return self._draw(self._pictures[sample])
