"""Masks in folders, and their place in the model's input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import assert_says
from PIL import Image
from segmented_world import save

from semlens.errors import DataError, ModelError
from semlens.lenses.netdissect.input_masks import masks_in_input
from semlens.lenses.netdissect.mask_folder import load_masks
from semlens.models.preprocess_geometry import measure_geometry


def test_masks_follow_resize_crop_padding_and_mirror(tmp_path):
    def preprocess(image):
        small = image.resize((48, 24), Image.Resampling.BILINEAR).crop((8, -4, 40, 28))
        pixels = torch.from_numpy(np.array(small, np.float32)).permute(2, 0, 1) / 255
        return pixels.flip(2)

    def geometry(width, height):
        return measure_geometry(preprocess, width, height)

    mask = np.zeros((96, 192), np.uint8)
    mask[:40, :60] = 255
    save(tmp_path / "box" / "a.png", mask)
    masks = load_masks(tmp_path)
    got = masks_in_input(masks, "a.jpg", geometry, (192, 96), (32, 32), (32, 32))
    expected = np.zeros((32, 32), bool)
    # 4 pixels per input pixel: x < 60 is columns below 15, 7 of them after the crop; 4 rows above
    expected[4:14, :7] = True
    np.testing.assert_array_equal(got.inside[0], expected[:, ::-1])
    valid = np.zeros((32, 32), bool)
    valid[4:28] = True
    np.testing.assert_array_equal(got.valid, valid)


def test_unknown_geometry_is_refused(tmp_path):
    def rotated(image):
        return torch.from_numpy(np.array(image.resize((32, 32)).rotate(30), np.float32)).permute(
            2, 0, 1
        )

    save(tmp_path / "box" / "a.png", np.ones((80, 96), np.uint8))
    masks = load_masks(tmp_path)
    with pytest.raises(ModelError) as error:
        masks_in_input(
            masks, "a.bmp", lambda w, h: measure_geometry(rotated, w, h), (96, 80),
            (32, 32), (32, 32),
        )  # fmt: skip
    assert_says(error.value, "only resizes, crops, pads or mirrors", "rotations")


def at_all(folder, name, size=(12, 8)):
    width, height = size
    return load_masks(folder).labels(name, size, np.arange(height) + 0.5, np.arange(width) + 0.5)


def test_indexed_masks(tmp_path):
    label = np.zeros((8, 12), np.uint8)
    label[:2], label[6:], label[4, 4] = 3, 255, 7
    save(tmp_path / "a" / "x.png", label)
    (tmp_path / "classes.json").write_text('{"3": "sky", "7": "bird", "9": "sky"}')
    masks = load_masks(tmp_path)
    assert masks.names == ["sky", "bird"]
    assert masks.covers("a/x.jpeg")
    assert not masks.covers("a/y.jpeg")
    present, inside, valid = at_all(tmp_path, "a/x.jpeg")
    assert present.tolist() == [0, 1]
    np.testing.assert_array_equal(inside, np.stack([label == 3, label == 7]))
    np.testing.assert_array_equal(valid, label != 255)
    half = at_all(tmp_path, "a/x.jpeg", (24, 16))  # masks of half the image's size
    np.testing.assert_array_equal(half[1][0], np.kron(label == 3, np.ones((2, 2))) > 0)
    label[7, 0] = 5
    save(tmp_path / "a" / "x.png", label)
    with pytest.raises(DataError, match="index 5, without a name"):
        at_all(tmp_path, "a/x.jpeg")
    with pytest.raises(DataError, match="12 x 8"):
        at_all(tmp_path, "a/x.jpeg", (12, 12))
    save(tmp_path / "a" / "x.png", np.zeros((8, 12, 3), np.uint8))
    with pytest.raises(DataError, match="mode RGB"):
        at_all(tmp_path, "a/x.jpeg")
    (tmp_path / "a" / "x.png").write_bytes(b"no png")
    with pytest.raises(DataError, match="UnidentifiedImageError"):
        at_all(tmp_path, "a/x.jpeg")


def test_sixteen_bit_indices_and_binary_masks(tmp_path):
    label = np.full((8, 12), 1000, np.uint16)
    save(tmp_path / "i" / "x.png", label)
    (tmp_path / "i" / "classes.txt").write_text("\n" * 1000 + "far\n")
    assert at_all(tmp_path / "i", "x.png")[1].all()
    mask = np.zeros((8, 12), np.uint8)
    mask[:3] = 1
    save(tmp_path / "f" / "ones" / "x.png", mask)
    save(tmp_path / "f" / "smooth" / "x.png", mask * 100 + 120)
    save(tmp_path / "f" / "bits" / "x.png", mask > 0)
    save(tmp_path / "f" / "none" / "x.png", mask * 0)
    present, inside, valid = at_all(tmp_path / "f", "x.jpg")
    assert [load_masks(tmp_path / "f").names[i] for i in present] == ["bits", "ones", "smooth"]
    assert (inside == (mask > 0)).all()
    assert valid.all()
