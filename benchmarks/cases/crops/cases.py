"""Cases of the crop benchmark: planted worlds, the subjects trained on them, and crop settings.

The bundled world and CNN are part of the package. The other subjects are created by ``demo_world``
(see ``demo_world/README.md``) and read from its work folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import semlens as sl
from demo_world.decoded import open_world
from demo_world.nets import as_subject, layers_of, load_subject, subject_file
from semlens.demo.bundled_images import DemoWorld, MarkedWorld
from semlens.types import Readout

Kind = Literal["cnn", "vit"]

SubjectKey = tuple[str, str, int, Readout]
"""World, architecture, seed and readout of a subject."""

SUBJECTS: tuple[SubjectKey, ...] = (
    ("main", "vit", 0, "cls"),
    ("patch", "small", 0, "max"),
    ("patch", "vit", 0, "cls"),
)
"""The subjects that are not bundled.

With the mean over space none of their components is planted, and there would be no ground truth: a
ViT encodes the mark in its class token only, and the small CNN's best unit has AUROC 0.87.
"""


@dataclass(frozen=True)
class Artefact:
    """Search text and label concepts for a planted mark, fixed before any measurement.

    Parameters
    ----------
    query
        Text of the search.
    added_concepts
        Concepts added to the general set for labels.
    general_concepts
        Concepts of the general set that also name the mark.
    """

    query: str
    added_concepts: tuple[str, ...]
    general_concepts: tuple[str, ...] = ()


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


@dataclass(frozen=True)
class Case:
    """A world and a subject that was trained on it."""

    name: str
    subject: str
    kind: Kind
    world: MarkedWorld
    artefact: Artefact
    model: sl.SubjectModel
    layers: tuple[str, ...]
    readout: Readout = "mean"


def bundled() -> Case:
    """Return the world and the CNN of the package."""
    model = sl.load_model("semlens/demo")
    return Case("main", "demo", "cnn", DemoWorld(), ARTEFACTS["text"], model, ("layer2", "layer3"))


def cases(work: Path | None) -> Iterator[Case]:
    """Yield the bundled case, then the cases of a work folder.

    Raises
    ------
    FileNotFoundError
        If the work folder lacks a world or subject.
    """
    yield bundled()
    for key in SUBJECTS if work is not None else ():
        yield load_case(Path(work or ""), key)


def load_case(work: Path, key: SubjectKey) -> Case:
    """Read a world and a subject from a work folder.

    Raises
    ------
    FileNotFoundError
        If the work folder lacks one of them.
    """
    name, architecture, seed, readout = key
    folder = work / "worlds" / name
    path = subject_file(folder, architecture, seed)
    if not path.is_file():
        raise FileNotFoundError(
            f"'{path}' does not exist; demo_world/README.md shows how to create it."
        )
    world = open_world(folder)
    net = load_subject(path)
    model = as_subject(net, world.classes, f"python:{name}-{architecture}-{seed}")
    kind: Kind = "vit" if architecture == "vit" else "cnn"
    return Case(
        name, architecture, kind, world, ARTEFACTS[world.kind], model, layers_of(net), readout
    )


def variants(kind: Kind) -> dict[str, dict[str, Any]]:
    """Return the settings of ``semlens.build`` by crop method."""
    return {
        "none": {"crop": "none"},
        "activation": {"crop": "activation"},
        "crp": {"crop": "crp", "rules": "epsilon-plus-flat" if kind == "cnn" else "cp-lrp"},
        "attnlrp": {"crop": "crp", "rules": "attnlrp"},
    }
