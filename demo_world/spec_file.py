"""Subjects as models for semlens: ``demo_world/spec_file.py:WORLD_ARCHITECTURE_SEED``.

The environment variable DEMO_WORLD names the work folder: ``DEMO_WORLD=W semlens build --model
demo_world/spec_file.py:texture_vgg_0 ...``.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo_world.nets import load_subject, subject_file  # noqa: E402
from demo_world.workspace import Workspace  # noqa: E402
from semlens.models.demo import preprocess  # noqa: E402

ModelParts = tuple[nn.Module, Callable[[Image.Image], Tensor], Sequence[str]]


def make(world: str, architecture: str, seed: int) -> ModelParts:
    """Return a subject's network, preprocessing and classes."""
    folder = Workspace(Path(os.environ["DEMO_WORLD"])).world(world)
    classes = json.loads((folder / "world.json").read_text())["classes"]
    return load_subject(subject_file(folder, architecture, seed)), preprocess, classes


def __getattr__(name: str) -> Callable[[], ModelParts]:
    """Return ``make`` for a name such as ``texture_vgg_0`` or ``held-out_demo_0``."""
    match = re.fullmatch(r"(.+)_([a-z]+)_(\d+)", name)
    if match is None:
        raise AttributeError(f"'{name}' is not of the form WORLD_ARCHITECTURE_SEED.")
    world, architecture, seed = match.groups()
    return partial(make, world, architecture, int(seed))
