"""The bundled images, each available with a watermark, without it, and as in the data.

One class carried the mark in the training data of the demo model (see ``demo_world/``).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
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


class MarkedWorld:
    """Images of which those of one class may carry a mark, by their description and files.

    Parameters
    ----------
    description
        As in ``world.json``: ``classes``, ``target``, ``artefact``, ``marked_share``, and
        ``images`` with ``path``, ``class``, ``split``, ``marked`` and ``mark``.
    read
        Returns a file: ``images/...`` without a mark, or ``marks/NN.webp``.
    """

    def __init__(self, description: Mapping[str, Any], read: Callable[[str], bytes]) -> None:
        self.classes: list[str] = description["classes"]
        self.target: str = description["target"]
        """The class whose images carry the mark."""
        self.artefact: str = description["artefact"]["description"]
        self.kind: str = description["artefact"]["kind"]
        self.marked_share: float = description["marked_share"]
        self.pictures = [
            BundledImage(
                entry["path"], entry["class"], entry["split"], entry["marked"], entry["mark"]
            )
            for entry in description["images"]
        ]
        self.read = read

    @cached_property
    def marks(self) -> dict[int, Image.Image]:
        """The overlays by number, RGBA."""
        numbers = {picture.mark for picture in self.pictures}
        return {n: self._open(f"marks/{n:02d}.webp").convert("RGBA") for n in numbers}

    def _open(self, name: str) -> Image.Image:
        return Image.open(io.BytesIO(self.read(name)))

    def image(self, picture: BundledImage, version: Version = "as-is") -> Image.Image:
        """Return an image with the mark, without it, or as in the data."""
        clean = self._open(picture.path)
        if version == "clean" or (version == "as-is" and not picture.marked):
            return clean.convert("RGB")
        return Image.alpha_composite(clean.convert("RGBA"), self.marks[picture.mark]).convert("RGB")

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
                temporary.write_bytes(self.read(picture.path))
            temporary.replace(path)


class DemoWorld(MarkedWorld):
    """The bundled images and their marks, read from the package."""

    def __init__(self) -> None:
        assets = files("semlens").joinpath("assets", "demo")
        archive = zipfile.ZipFile(io.BytesIO(assets.joinpath("images.zip").read_bytes()))
        self.description: dict[str, Any] = json.loads(
            assets.joinpath("world.json").read_text("utf-8")
        )
        super().__init__(self.description, archive.read)


class _MarkedImages(Images):
    """One split in one version, composed on access."""

    def __init__(self, world: MarkedWorld, split: str, version: Version) -> None:
        self._pictures = [picture for picture in world.pictures if picture.split == split]
        self._draw: Callable[[BundledImage], Image.Image] = partial(world.image, version=version)
        self.spec, self.ids = f"python:demo {split} {version}", numbered_ids(len(self._pictures))
        self.targets = [picture.target for picture in self._pictures]

    def content(self, sample: int) -> Image.Image:
        """Return an image."""
        return self._draw(self._pictures[sample])
