"""The example on EfficientNet: how it prepares its images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def fetch(example):
    return example("efficientnet", "fetch_images")


@pytest.mark.parametrize(
    ("colour", "alpha", "ground"),
    [((200, 30, 30), 255, 255), ((0, 0, 0), 90, 255), ((255, 255, 255), 90, 0)],
    ids=["opaque", "translucent black", "translucent white"],
)
def test_a_transparent_image_stays_visible(fetch, tmp_path, colour, alpha, ground) -> None:
    picture = Image.new("RGBA", (56, 28), (*colour, 0))
    picture.paste((*colour, alpha), (10, 5, 40, 20))
    picture.save(tmp_path / "a.png")
    fetch.prepare(tmp_path / "a.png", tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as prepared:
        pixels = np.asarray(prepared, dtype=float)
    assert pixels.shape == (64, 64, 3)  # 256 / 224 of the longer side
    assert pixels[:8].mean() == pytest.approx(ground, abs=2)
    seen = np.array(colour) * alpha / 255 + ground * (1 - alpha / 255)
    assert pixels[28:32, 20:36].mean((0, 1)) == pytest.approx(seen, abs=6)
