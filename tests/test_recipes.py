"""Bundled recipes: each builds a database from a tiny checkpoint in the format of the real one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import write_pictures
from safetensors.torch import save_file
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.cli.build_inputs import BuildInputs, read_config
from semlens.errors import RecipeError
from semlens.hub.pull import LOCATIONS, recipe_names, recipe_text
from semlens.recipe import Recipe

TINY = {
    "embedder": "semlens/demo", "examples": 2, "crop": "none", "reference": 0, "batch-size": 3
}  # fmt: skip


def test_recipes_are_settings_of_a_build_and_named_in_the_help() -> None:
    assert recipe_names() == ["clip-vit-base", "dinov2-base", "resnet50", "vit-base"]
    assert set(LOCATIONS) <= set(recipe_names())
    text = CliRunner().invoke(app, ["build", "--help"], terminal_width=200).output
    shown = " ".join(text.split())
    for name in recipe_names():
        settings = read_config(Path(name))
        inputs = BuildInputs(**{k: v for k, v in settings.items() if k not in Recipe.model_fields})
        assert inputs.model and inputs.layers
        assert inputs.data is None  # the user's own
        assert name in shown
    assert recipe_text("../recipes/resnet50") is None


def test_a_file_comes_before_a_recipe_and_a_wrong_name_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="bundled recipe: clip-vit-base, dinov2-base"):
        read_config(Path("resnet18"))
    Path("resnet50").write_text('model = "mine"')
    assert read_config(Path("resnet50")) == {"model": "mine"}


def build(recipe: str, model: str, folder: Path) -> sl.ConceptDatabase:
    """Run the command line of the documentation, with another model of the same format."""
    images = write_pictures(folder / "images", 3)
    arguments = ["build", str(folder / "db"), "--config", recipe, "--data", str(images)]
    arguments += ["--model", model]
    # tested for these models in test_relevance_models.py, and takes most of a minute for each
    arguments += ["--no-relevance"]
    for name, value in TINY.items():
        arguments += [f"--{name}", str(value)]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)
    db = sl.open(folder / "db")
    assert list(db.layers) == read_config(Path(recipe))["layers"]
    assert len(db.search("red").components)
    return db


@pytest.mark.slow
def test_resnet50(tmp_path: Path) -> None:
    from torchvision.models import resnet50

    torch.manual_seed(0)
    torch.save(resnet50(num_classes=2).state_dict(), tmp_path / "r50.pth")
    settings = read_config(Path("resnet50"))
    assert settings["model"].startswith("torchvision/resnet50:")
    assert settings["relevance"]
    db = build("resnet50", f"torchvision/resnet50:{tmp_path / 'r50.pth'}", tmp_path)
    assert [layer.channels for layer in db.manifest.layers] == [1024, 2048]


@pytest.mark.slow
def test_vit_base(tmp_path: Path) -> None:
    import timm

    name = read_config(Path("vit-base"))["model"].removeprefix("timm/")
    assert name in timm.list_pretrained()
    tiny = timm.create_model("vit_tiny_patch16_224", num_classes=2)
    save_file(tiny.state_dict(), tmp_path / "vit.safetensors")
    db = build("vit-base", f"timm/vit_tiny_patch16_224:{tmp_path / 'vit.safetensors'}", tmp_path)
    assert {layer.channels for layer in db.manifest.layers} == {192}


@pytest.mark.slow
def test_dinov2(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, BitImageProcessor, Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=24, num_attention_heads=2, num_hidden_layers=12, image_size=56, patch_size=14
    )
    Dinov2Model(config).save_pretrained(tmp_path / "dinov2")
    processor = BitImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    processor.save_pretrained(tmp_path / "dinov2")
    assert AutoImageProcessor.from_pretrained(tmp_path / "dinov2")
    db = build("dinov2-base", f"transformers/{tmp_path / 'dinov2'}", tmp_path)
    assert {layer.channels for layer in db.manifest.layers} == {24}


@pytest.mark.slow
def test_clip(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tower = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, "num_hidden_layers": 1, "vocab_size": 64},
        vision_config={**tower, "num_hidden_layers": 12, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(
        tmp_path / "clip"
    )
    db = build("clip-vit-base", f"transformers/{tmp_path / 'clip'}", tmp_path)
    assert {layer.channels for layer in db.manifest.layers} == {24}
