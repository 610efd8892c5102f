"""Adding images to a database: the bytes of a build over all of them, and every refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ColourEmbedder, LittleNet, to_tensor, write_pictures
from test_executors import contents

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.models.subject import SubjectModel
from semlens.run.plan import Execution

LAYERS = ["first", "second"]


def model_of(module=None):
    return SubjectModel(module or LittleNet(), to_tensor, "v", "python:little", list("abcd"))


def build(path, *folders, model=None, embedder=None, batch_size=4, **settings):
    sources = [ImageFolder(folder) for folder in folders]
    images = sources[0] if len(sources) == 1 else sl.JoinedImages(sources)
    settings = {
        "examples": 3, "reference": 20, "crop": "crp", "rules": "gradient", "extendable": True,
        "layers": LAYERS, **settings,
    }  # fmt: skip
    return sl.build(
        path, model or model_of(), images, embedder or ColourEmbedder(),
        execution=Execution(batch_size, 1), **settings,
    )  # fmt: skip


def extend(path, folder, model=None, embedder=None, **options):
    return sl.extend(
        path, ImageFolder(folder), model=model or model_of(),
        embedder=embedder or ColourEmbedder(), execution=Execution(workers=1), **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Two folders of images: the number of the first in the key."""
    base = tmp_path_factory.mktemp("data")
    counts = {"22": 22, "24": 24, "3": 3, "more": 9, "and more": 7}
    return {
        name: write_pictures(base / name.replace(" ", "-"), count, seed=seed)
        for seed, (name, count) in enumerate(counts.items())
    }


@pytest.mark.parametrize(
    ("first", "settings"),
    [
        ("22", {"relevance": True}),
        ("24", {"crop": "activation", "relevance": True}),
        ("22", {"crop": "none", "thumbnails": False, "reference": 0}),
        ("3", {"readout": "max"}),
    ],
)
def test_an_extended_database_has_the_bytes_of_a_full_build(tmp_path, folders, first, settings):
    build(tmp_path / "full", folders[first], folders["more"], folders["and more"], **settings)
    build(tmp_path / "db", folders[first], **settings)
    one = extend(tmp_path / "db", folders["more"])
    two = extend(tmp_path / "db", folders["and more"])
    print(one, two)
    assert contents(tmp_path / "db") == contents(tmp_path / "full")
    assert sl.verify(tmp_path / "db").sound
