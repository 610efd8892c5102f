"""Embedders and models of installed packages, found by their entry points."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import assert_says
from PIL import Image

import semlens as sl
from semlens.embedders.load import embeds_texts, load_embedder
from semlens.errors import EmbedderError, ModelError
from semlens.models.load import load_model

EXAMPLE = Path(__file__).resolve().parents[1] / "examples/plugin"

CODE = """
import torch
from torch import nn
import semlens as sl


class Words(sl.Embedder):
    has_text = True

    def __init__(self, name, device):
        if name == "broken":
            raise OSError("no weights")
        self.spec = "other/1" if name == "misnamed" else f"words/{name}"
        self.dim, self.fingerprint = int(name) if name.isdigit() else 3, f"words {name}"

    def preprocess(self, image):
        return torch.zeros(3, 1, 1)

    def _images(self, batch):
        return torch.ones(len(batch), self.dim)

    def _texts(self, texts):
        return torch.ones(len(texts), self.dim)


def net(name):
    if name == "wrong":
        return nn.Linear(2, 2)
    module = nn.Sequential(nn.Conv2d(3, int(name), 3), nn.Flatten())
    return module, lambda image: torch.zeros(3, 3, 3), ["a"] * int(name)
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package of that code: a module and its metadata, as pip writes them."""
    (tmp_path / "some_plug_in.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(package: str, group: str, points: str, version: str = "1.2") -> None:
        folder = tmp_path / f"{package}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {package}\nVersion: {version}\n")
        (folder / "entry_points.txt").write_text(f"[{group}]\n{points}\n")

    yield add
    sys.modules.pop("some_plug_in", None)


def test_an_embedder_is_found_by_its_name(install):
    with pytest.raises(EmbedderError, match="Unknown embedder 'words/5'"):
        load_embedder("words/5")
    install("some", "semlens.embedders", "words = some_plug_in:Words")
    embedder = load_embedder("words/5")
    assert (embedder.spec, embedder.dim, embeds_texts("words/5")) == ("words/5", 5, True)
    assert not embeds_texts("others/5")
    for name, parts in (
        ("broken", ["'some'", "OSError: no weights", "Update, repair"]),
        ("misnamed", ["'some'", "other/1", "words/misnamed"]),
    ):
        with pytest.raises(EmbedderError) as caught:
            load_embedder(f"words/{name}")
        assert_says(caught.value, *parts)
    install("another", "semlens.embedders", "words = some_plug_in:Words")
    with pytest.raises(EmbedderError) as caught:
        load_embedder("words/5")
    assert_says(caught.value, "another, some", "one provider")


def test_a_model_is_found_by_its_name_and_known_by_its_version(install):
    with pytest.raises(ModelError, match="not a model SPEC"):
        load_model("nets/4")
    install("some", "semlens.models", "nets = some_plug_in:net")
    torch.manual_seed(0)
    model = load_model("nets/4")
    assert (model.spec, model.version, list(model.classes or ())) == (
        "nets/4",
        "some 1.2",
        ["a"] * 4,
    )
    with pytest.raises(ModelError) as caught:
        load_model("nets/wrong")
    assert_says(caught.value, "'some' returned Linear", "(module, preprocess[, classes])")
    with pytest.raises(ModelError) as caught:
        load_model("nets/many")
    assert_says(caught.value, "'some' fails", "ValueError")


@pytest.mark.slow
def test_the_example_is_installed_and_builds_a_database(tmp_path, pictures):
    """As a user would: pip installs it, the command finds it, and the database finds it again."""
    target = tmp_path / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--target", str(target), str(EXAMPLE)], check=True,
    )  # fmt: skip
    paths = os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}

    def semlens(*words: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-c", "from semlens.cli.main import main; main()", *words],
            capture_output=True, text=True, env=environment, cwd=tmp_path,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    semlens("build", "tiny.semlens", "--model", "tiny/8", "--data", str(pictures), "--embedder",
            "hues/16", "--layers", "1", "--examples", "3", "--reference", "0")  # fmt: skip
    hits = json.loads(semlens("search", "tiny.semlens", "--image",
                              str(next(pictures.rglob("*.png"))), "--json"))  # fmt: skip
    assert hits["hits"]
    semlens("show", "tiny.semlens", "1:0", "--save", "shown.png")
    assert Image.open(tmp_path / "shown.png").width > 100
    manifest = sl.open(tmp_path / "tiny.semlens").manifest
    assert (manifest.model.spec, manifest.embedder.spec) == ("tiny/8", "hues/16")
