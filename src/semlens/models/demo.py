"""The bundled subject model with its planted shortcut, as a :class:`SubjectModel`."""

from __future__ import annotations

import json
from importlib.resources import files

from semlens.models.demo_net import PREPROCESS, load_demo_net, preprocess
from semlens.models.subject import SubjectModel
from semlens.recipe import fingerprint


def demo_model() -> SubjectModel:
    """Load ``semlens/demo``; its classes are those of the bundled world."""
    world = json.loads(files("semlens").joinpath("assets", "demo", "world.json").read_text("utf-8"))
    return SubjectModel(
        load_demo_net(),
        preprocess,
        fingerprint(dict(PREPROCESS)),
        "semlens/demo",
        tuple(world["classes"]),
    )
