"""What the crop benchmark runs on: planted worlds, the subjects trained on them, the crops.

The bundled world and CNN need nothing. The other subjects are made by ``demo_world``
(``demo_world/README.md`` has the commands) and read from its work folder.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

import semlens as sl
from semlens.demo.bundled_images import BundledImage, DemoWorld
from semlens.types import Crop, Readout

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo_world.nets import (  # noqa: E402
    as_subject,
    layers_of,
    load_subject,
    subject_file,
)

Kind = Literal["cnn", "vit"]

Named = tuple[str, str, int, Readout]
"""World, architecture, seed and readout of a subject."""

SUBJECTS: tuple[Named, ...] = (
    ("main", "vit", 0, "cls"),
    ("patch", "small", 0, "max"),
    ("patch", "vit", 0, "cls"),
)
"""The subjects that are not bundled.

With the mean over space none of their components is planted, so the truth would be empty: a ViT
writes the mark into its class token only, and the small CNN's best unit is at AUROC 0.87.
"""


@dataclass(frozen=True)
class Artefact:
    """How people would ask for a planted mark, fixed before anything was measured.

    Parameters
    ----------
    query
        What is searched for.
    added
        Concepts that are added to the general set when components are labelled.
    known
        Concepts of the general set that name the mark as well.
    """

    query: str
    added: tuple[str, ...]
    known: tuple[str, ...] = ()


ARTEFACTS = {
    "text": Artefact(
        "watermark",
        ("watermark", "watermark text", "text", "letters", "copyright", "logo"),
        ("text texture", "font texture", "lettering texture", "letter"),
    ),
    "patch": Artefact("red square", ("red square", "square", "sticker", "red sticker")),
    "texture": Artefact("stripes", ("stripes", "striped background", "diagonal lines")),
    "rain": Artefact("rain", ("rain", "drops", "water drops")),
}


class FolderWorld(DemoWorld):
    """A world that ``python -m demo_world world`` wrote, read from its folder."""

    def __init__(self, folder: Path) -> None:
        described: dict[str, Any] = json.loads((folder / "world.json").read_text("utf-8"))
        self.classes = described["classes"]
        self.target = described["target"]
        self.artefact = described["artefact"]["description"]
        self.kind: str = described["artefact"]["kind"]
        self.marked_share = described["marked_share"]
        self.pictures = [
            BundledImage(
                entry["path"], entry["class"], entry["split"], entry["marked"], entry["mark"]
            )
            for entry in described["images"]
        ]
        self._folder = folder

    def _open(self, name: str) -> Image.Image:
        return Image.open(self._folder / name)

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
                shutil.copyfile(self._folder / picture.path, part)
            part.replace(path)


@dataclass(frozen=True)
class Case:
    """A world and a subject that was trained on it."""

    name: str
    subject: str
    kind: Kind
    world: DemoWorld
    artefact: Artefact
    model: sl.SubjectModel
    layers: tuple[str, ...]
    readout: Readout = "mean"


def bundled() -> Case:
    """Return the world and the CNN that come with the package."""
    model = sl.load_model("semlens/demo")
    return Case("main", "demo", "cnn", DemoWorld(), ARTEFACTS["text"], model, ("layer2", "layer3"))


def cases(work: Path | None) -> Iterator[Case]:
    """Yield the bundled case, then those whose world and subject lie in a work folder.

    Raises
    ------
    FileNotFoundError
        If the work folder lacks one of them.
    """
    yield bundled()
    for named in SUBJECTS if work is not None else ():
        yield load_case(Path(work or ""), named)


def load_case(work: Path, named: Named) -> Case:
    """Read a world and a subject from a work folder.

    Raises
    ------
    FileNotFoundError
        If it lacks one of them.
    """
    name, architecture, seed, readout = named
    folder = work / "worlds" / name
    path = subject_file(folder, architecture, seed)
    if not path.is_file():
        raise FileNotFoundError(f"No '{path}'; demo_world/README.md says how to make it.")
    world = FolderWorld(folder)
    net = load_subject(path)
    model = as_subject(net, world.classes, f"python:{name}-{architecture}-{seed}")
    kind: Kind = "vit" if architecture == "vit" else "cnn"
    return Case(
        name, architecture, kind, world, ARTEFACTS[world.kind], model, layers_of(net), readout
    )


def variants(kind: Kind) -> dict[str, dict[str, Any]]:
    """Return the settings of ``semlens.build`` per way to crop, for those that are there."""
    found: dict[str, dict[str, Any]] = {
        "none": {"crop": "none"},
        "activation": {"crop": "activation"},
    }
    if "crp" in get_args(Crop):
        rules = "epsilon-plus-flat" if kind == "cnn" else "cp-lrp"
        found["crp"] = {"crop": "crp", "rules": rules}
        found["attnlrp"] = {"crop": "crp", "rules": "attnlrp"}
    return found
