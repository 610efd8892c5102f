"""Data that grows: folders of images, and databases of them."""

from __future__ import annotations

from pathlib import Path

from conftest import ColourEmbedder, LittleNet, to_tensor, write_pictures

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.models.subject import SubjectModel
from semlens.run.plan import Execution

LAYERS = ["first", "second"]


def model_of(module=None, classes="abcd"):
    return SubjectModel(module or LittleNet(), to_tensor, "v", "python:little", list(classes))


CLASSES = ("class0", "class1", "c", "d")
"""Classes that the folders have, so that relevance is for them."""


def images_of(*folders):
    sources = [ImageFolder(folder) for folder in folders]
    return sources[0] if len(sources) == 1 else sl.JoinedImages(sources)


def build(path, *folders, model=None, embedder=None, batch_size=4, **settings):
    settings = {
        "examples": 3, "reference": 20, "crop": "crp", "rules": "gradient", "extendable": True,
        "layers": LAYERS, **settings,
    }  # fmt: skip
    return sl.build(
        path, model or model_of(), images_of(*folders), embedder or ColourEmbedder(),
        execution=Execution(batch_size, 0), progress=lambda *step: None, **settings,
    )  # fmt: skip


def extend(path, *folders, model=None, embedder=None, **options):
    return sl.extend(
        path, images_of(*folders), model=model or model_of(),
        embedder=embedder or ColourEmbedder(), execution=Execution(workers=0),
        **{"progress": lambda *step: None, **options},
    )  # fmt: skip


def write_folders(base: Path) -> dict[str, Path]:
    """Write folders of images, by their number; one image in "23" and in "10" is unreadable."""
    folders = {
        str(count): write_pictures(base / str(count), count, seed=count)
        for count in (23, 24, 3, 10, 7)
    }
    for name in ("23", "10"):
        file = folders[name] / "class0" / "002.png"
        file.write_bytes(file.read_bytes()[:150])
    return folders
