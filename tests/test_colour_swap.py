"""Colours transferred to images of other classes: the transfer, and a planted cast."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import ColourEmbedder, write_pictures
from PIL import Image
from torch import nn

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.lenses.swap.parts import transfer_colours

CLASSES = [f"class{i}" for i in range(7)]
MODEL = """
from conftest import to_tensor
from test_colour_swap import CLASSES, Reddish

def make():
    return Reddish(), to_tensor, CLASSES
"""


class Reddish(nn.Module):
    """Random logits; the first class also relies on red images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(3, 8, 3, 2, 1)
        self.head = nn.Linear(8, len(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        textures = x - x.mean((2, 3), keepdim=True)
        logits = self.head(torch.relu(self.features(textures)).mean((2, 3)))
        red = (x[:, 0] - x[:, 1]).mean((1, 2))
        first = torch.nn.functional.one_hot(torch.tensor(0), len(CLASSES))
        return logits + first * red[:, None]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Two databases of the same model: a red cast on the first class, or on none."""
    folder = tmp_path_factory.mktemp("colours")
    (folder / "model.py").write_text(MODEL)
    write_pictures(folder / "clean", 84, classes=len(CLASSES))
    for path in sorted((folder / "clean").rglob("*.png")):
        image = Image.open(path).convert("RGB")
        if path.parent.name == "class0":
            image = Image.blend(image, Image.new("RGB", image.size, (255, 0, 0)), 0.4)
        target = folder / "cast" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target)
    return {
        name: sl.build(
            folder / f"{name}.db", f"{folder / 'model.py'}:make", ImageFolder(folder / name),
            ColourEmbedder(), ["features"], examples=2, crop="none",
        )
        for name in ("clean", "cast")
    }  # fmt: skip


@pytest.mark.slow
def test_a_planted_cast_is_detected_and_no_other_class(worlds, tmp_path):
    result = worlds["cast"].swap(part="colour", count=24)
    assert result.detected == ["class0"]
    assert result.frame["adjusted"].tolist() == pytest.approx(
        np.minimum(1, len(CLASSES) * result.frame["p_value"])
    )
    assert "colours of their images" in result.summary
    result.save(tmp_path / "colours.png")
    assert result.to_json()["detected"] == ["class0"]


@pytest.mark.slow
def test_nothing_is_detected_where_nothing_is_planted(worlds):
    assert worlds["clean"].swap(part="colour", count=24).detected == []


@pytest.mark.slow
def test_a_weaker_transfer_gains_less(worlds):
    full, half = (
        worlds["cast"].swap("class0", part="colour", size=strength, count=24).frame["gain"][0]
        for strength in (1.0, 0.5)
    )
    assert 0.3 * full < half < 0.7 * full


def test_transferred_colours_have_the_moments_of_the_source():
    rng = np.random.default_rng(0)
    receivers, sources = (rng.normal(size=(2, 3, 8, 9)) for _ in range(2))
    sources = 0.5 * sources + 0.3
    moved = transfer_colours(torch.from_numpy(receivers), torch.from_numpy(sources)).numpy()
    for i in range(2):
        for c in range(3):
            plain = (receivers[i, c] - receivers[i, c].mean()) / receivers[i, c].std(ddof=1)
            plain = plain * sources[i, c].std(ddof=1) + sources[i, c].mean()
            np.testing.assert_allclose(moved[i, c], plain, atol=1e-9)


def test_a_flat_channel_takes_the_mean_and_values_stay_in_range():
    flat, sources = torch.full((1, 3, 4, 4), 0.2), torch.rand(1, 3, 4, 4)
    moved = transfer_colours(flat, sources)
    torch.testing.assert_close(moved, sources.mean((2, 3), keepdim=True).expand_as(moved))
    dark, bright = torch.rand(1, 3, 6, 6) * 0.1, 1 - torch.rand(1, 3, 6, 6) ** 4
    both = torch.cat([dark, bright])
    moved = transfer_colours(dark, bright)
    assert moved.amax() <= both.amax()
    assert moved.amin() >= both.amin()
