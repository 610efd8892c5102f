"""The bundled world: images, and a mark that can be put on each of them or taken off.

One class carried the mark in the subject's training data (``demo_world/`` says how).
Every image can be had with the mark, without it, and as it was in the data.
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

from semlens.data.images import Images, numbered

Version = Literal["as-is", "clean", "marked"]


@dataclass(frozen=True)
class BundledImage:
    """One image of the world.

    Parameters
    ----------
    path
        ``images/CLASS/SPLIT-NUMBER.webp`` inside the archive.
    marked
        Whether it carries the mark in the data.
    mark
        Number of the overlay that is its mark.
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
        described: dict[str, Any] = json.loads(assets.joinpath("world.json").read_text("utf-8"))
        self.classes: list[str] = described["classes"]
        self.target: str = described["target"]
        """The class that carries the mark."""
        self.artefact: str = described["artefact"]["description"]
        self.marked_share: float = described["marked_share"]
        self.pictures = [
            BundledImage(
                entry["path"], entry["class"], entry["split"], entry["marked"], entry["mark"]
            )
            for entry in described["images"]
        ]
        self._archive = zipfile.ZipFile(io.BytesIO(assets.joinpath("images.zip").read_bytes()))

    @cached_property
    def _marks(self) -> dict[int, Image.Image]:
        numbers = {picture.mark for picture in self.pictures}
        return {n: self._open(f"marks/{n:02d}.webp").convert("RGBA") for n in numbers}

    def _open(self, name: str) -> Image.Image:
        return Image.open(io.BytesIO(self._archive.read(name)))

    def image(self, picture: BundledImage, version: Version = "as-is") -> Image.Image:
        """Return an image with the mark, without it, or as it is in the data."""
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
        """Write the data as it is: ``folder/CLASS/SPLIT-NUMBER.webp``; what is there stays."""
        for picture in self.pictures:
            path = folder / Path(picture.path).relative_to("images")
            if path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            if picture.marked:
                self.image(picture).save(part, "WEBP", lossless=True)
            else:
                part.write_bytes(self._archive.read(picture.path))
            part.replace(path)


class _MarkedImages(Images):
    """One split in one version, drawn when it is asked for."""

    def __init__(self, world: DemoWorld, split: str, version: Version) -> None:
        self._pictures = [picture for picture in world.pictures if picture.split == split]
        self._draw: Callable[[BundledImage], Image.Image] = partial(world.image, version=version)
        self.spec, self.ids = f"python:demo {split} {version}", numbered(len(self._pictures))
        self.targets = [picture.target for picture in self._pictures]

    def content(self, sample: int) -> Image.Image:
        """Return the picture."""
        return self._draw(self._pictures[sample])
