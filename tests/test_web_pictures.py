"""Pictures of components: against plain Pillow, and over HTTP with what a browser may keep."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
import torch
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.numpy import load

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.draw.crop_window import OUTSIDE, outline, window_around
from semlens.draw.example_picture import (
    CROP,
    WHOLE,
    crop_picture,
    heatmap_picture,
    stored_heat,
)
from semlens.draw.example_sheet import example_strip
from semlens.draw.heatmap_mask import project_heatmap, resize_heatmap, unpack_mask
from semlens.errors import DataError, LayerError, StaleError
from semlens.lenses.database_engine import engine_of
from semlens.lenses.describe.example_heatmaps import example_heatmaps
from semlens.models.subject import SubjectModel
from semlens.relevance.conditional_heatmaps import conditional_heatmaps
from semlens.relevance.heatmap_boxes import upsample_and_blur
from semlens.types import Box
from semlens.web.app import create_app

API = "/api/v1/models/0/components"


def write_photos(folder, count=16):
    """Write pictures that are larger than a thumbnail and than what a page shows."""
    rng = np.random.default_rng(3)
    for i in range(count):
        coarse = rng.integers(0, 255, (7, 9, 3)).astype(np.uint8)
        path = folder / f"class{i % 2}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((640, 420 + i), Image.Resampling.BICUBIC).save(path)
    return folder


def make(path, photos, **recipe):
    module = LittleNet()
    subject = SubjectModel(module, to_tensor, "32 bilinear", "python:little", list("abcd"))
    return sl.build(
        path, subject, ImageFolder(photos), WordEmbedder(), ["first", "second"], examples=5,
        **recipe,
    )  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def db(tmp_path_factory, photos):
    return make(tmp_path_factory.mktemp("strip") / "db", photos, crop="activation")


@pytest.fixture(scope="module")
def client(db):
    return TestClient(create_app([db]), base_url="http://localhost")


@pytest.fixture
def lost(db, photos, tmp_path):
    """The same database, whose images are in a folder that can be spoilt."""
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    return db, folder


def opened(data):
    return Image.open(io.BytesIO(data))


def close(found, expected, most=12.0):
    """Compare with what was encoded with losses."""
    assert found.size == expected.size
    a, b = (np.asarray(i.convert("RGB"), np.float64) for i in (found, expected))
    assert np.abs(a - b).mean() < most


def large(db):
    """A component and place whose crop is larger than a thumbnail."""
    for row in range(db.manifest.rows):
        for place, example in enumerate(db.examples_of(row)):
            box = example.box
            if max(box.right - box.left, box.bottom - box.top) > 2 * CROP:
                return row, place, example
    raise AssertionError("there is none")


@pytest.mark.slow
def test_a_strip_is_its_thumbnails_side_by_side(db):
    row, _, _ = large(db)
    picture = opened(example_strip(db, row, 3, 80))
    assert picture.size == (240, 80)
    for place, example in enumerate(db.examples_of(row, 3)):
        stored = db.thumbnail(example.crop)
        thumbnail = opened(stored.webp).convert("RGB")
        cell = picture.crop((place * 80, 0, place * 80 + (78 if place < 2 else 80), 80))
        box = Box(*(round(value * 80 / 120) for value in stored.box.as_tuple()))
        close(cell, outline(thumbnail.resize((80, 80)), box).crop((0, 0, *cell.size)))
    alpha = np.asarray(picture.convert("RGBA"))[:, :, 3]
    assert (alpha[:, 78:80] == 0).all()
    assert (alpha[:, :78] == 255).all()


@pytest.mark.slow
def test_a_strip_has_no_more_than_there_is(db):
    row, _, _ = large(db)
    assert opened(example_strip(db, row, 30)).size == (96 * len(db.examples_of(row)), 96)


def surroundings(db, example):
    """The square around a crop as plain Pillow cuts it, and the crop's box in it."""
    original = db.original(example.sample)
    window = window_around(example.box, original.size)
    side = window.right - window.left
    scale = CROP / side
    square = Image.new("RGB", (side, side), OUTSIDE)
    square.paste(original, (-window.left, -window.top))
    square = square.resize((CROP, CROP), Image.Resampling.BICUBIC)
    box = [round((x - window.left) * scale) for x in (example.box.left, example.box.right)]
    rows = [round((y - window.top) * scale) for y in (example.box.top, example.box.bottom)]
    return square, Box(box[0], rows[0], box[1], rows[1])


def test_a_crop_is_cut_anew_where_the_thumbnail_shows_less(db, images):
    row, place, example = large(db)
    picture = opened(crop_picture(db, row, place))
    square, box = surroundings(db, example)
    inside = db.original(example.sample).crop(example.box.as_tuple())
    shown = picture.crop(box.as_tuple()).convert("RGB")
    close(shown, inside.resize(shown.size, Image.Resampling.BICUBIC))
    close(picture, outline(square, box))


def test_a_small_crop_is_the_stored_thumbnail(tmp_path, images, subject, words):
    db = sl.build(tmp_path / "db", subject, images, words, ["first"], examples=4)
    row = int(np.flatnonzero(db.has_examples)[0])
    for place, example in enumerate(db.examples_of(row)):
        stored = db.thumbnail(example.crop)
        thumbnail = opened(stored.webp).convert("RGB")
        close(opened(crop_picture(db, row, place)), outline(thumbnail, stored.box))


def test_a_heatmap_colours_the_whole_image_where_the_component_responds(db):
    row, place, example = large(db)
    original = db.original(example.sample)
    stored = stored_heat(example, original.size)
    left, top, right, bottom = example.box.as_tuple()
    outside = stored.copy()
    outside[top:bottom, left:right] = 0
    assert not outside.any()
    assert stored[top:bottom, left:right].mean() / 255 == pytest.approx(
        unpack_mask(example.mask).mean(), abs=0.05
    )
    heat = example_heatmaps(db, row).heat
    assert len(heat) == len(db.examples_of(row))
    assert {one.max() for one in heat} == {255}
    for one, each in zip(heat, db.examples_of(row), strict=True):
        wide, high = db.original(each.sample).size
        assert one.shape[1] / one.shape[0] == pytest.approx(wide / high, rel=0.05)
    # colour is where heat is, and nowhere else
    drawn = np.asarray(opened(heatmap_picture(db, example, heat[place])).convert("RGB"), float)
    assert max(drawn.shape) == WHOLE
    colour = drawn.max(2) - drawn.min(2)
    hot = resize_heatmap(heat[place], (drawn.shape[1], drawn.shape[0])) > 150
    cold = resize_heatmap(heat[place], (drawn.shape[1], drawn.shape[0])) == 0
    assert colour[hot].mean() > 60
    assert cold.sum() == 0 or colour[cold].mean() < 12


def test_heatmaps_are_kept_and_start_at_the_component(db, monkeypatch):
    """CRP of one example, by the engine itself on the model's input."""
    row, place, example = large(db)
    heat = example_heatmaps(db, row).heat[place]
    component, model = db.component(row), db.model
    image = db.original(example.sample)
    inputs = model.batch([model.preprocess(image)])
    engine = engine_of(db, inputs, db.layers)
    one = torch.zeros(1, dtype=torch.int64)
    expected = conditional_heatmaps(
        engine, inputs, component.layer, one, one + component.index, one + component.sign
    )
    blurred = upsample_and_blur(
        expected.float(), *inputs.shape[-2:], db.manifest.recipe.crop_blur
    )[0].detach().numpy()  # fmt: skip
    whole = Box(0, 0, *image.size)
    cells = project_heatmap(blurred, model.geometry()(*image.size), whole, heat.shape[::-1])
    np.testing.assert_allclose(heat / 255, cells / cells.max(), atol=0.02)
    monkeypatch.setattr(type(db), "model", None)
    again = example_heatmaps(sl.open(db.path), row).heat[place]
    np.testing.assert_array_equal(again, heat)


def test_the_whole_image_has_the_box(db):
    row, place, example = large(db)
    picture = opened(crop_picture(db, row, place, "whole"))
    original = db.original(example.sample)
    assert max(picture.size) == WHOLE
    scale = WHOLE / max(original.size)
    left, top, right, bottom = (round(side * scale) for side in example.box.as_tuple())
    pixels = np.asarray(picture.convert("RGB"), np.float64)
    middle = (top + bottom) // 2
    line = pixels[middle, left : left + 2].mean()
    assert line > 150  # the white line, with WebP's losses
    assert pixels[middle, left + 2 : left + 4].mean() < line - 60
    plain = np.asarray(original.resize(picture.size, Image.Resampling.BICUBIC), np.float64)
    inner = (slice(top + 8, bottom - 8), slice(left + 8, right - 8))
    assert np.abs(pixels[inner] - plain[inner]).mean() < 12


def test_without_originals_there_are_still_thumbnails(lost):
    db, folder = sl.open(lost[0].path, images=str(lost[1])), lost[1]
    row, place, example = large(db)
    (folder / example.path).unlink()
    stored = db.thumbnail(example.crop)
    thumbnail = opened(stored.webp).convert("RGB")
    close(opened(crop_picture(db, row, place)), outline(thumbnail, stored.box))
    with pytest.raises(DataError) as error:
        crop_picture(db, row, place, "whole")
    assert_says(error.value, example.path, str(folder), "pass the current location")
    Image.new("RGB", (640, 420)).save(folder / example.path)
    with pytest.raises(StaleError, match="has changed"):
        crop_picture(db, row, place, "whole")
    close(opened(crop_picture(db, row, place)), outline(thumbnail, stored.box))


@pytest.mark.slow
def test_a_database_without_thumbnails_cuts_from_the_originals(tmp_path, photos):
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    db = make(tmp_path / "db", folder, thumbnails=False)
    row = int(np.flatnonzero(db.has_examples)[0])
    assert opened(example_strip(db, row, 2)).size == (192, 96)
    assert max(opened(crop_picture(db, row, 0)).size) <= CROP
    shutil.rmtree(folder)
    db = sl.open(db.path)  # which has them by their SPEC
    for make_picture in (lambda: example_strip(db, row), lambda: crop_picture(db, row, 0)):
        with pytest.raises(DataError) as error:
            make_picture()
        assert_says(error.value, f"'{folder}' is not a folder", "Check the path")
    # of a list, what cannot be drawn is left out
    client = TestClient(create_app([db]), base_url="http://localhost")
    found = client.get("/api/v1/models/0/strips", params={"of": [str(db.component(row))]})
    assert found.status_code == 200 and load(found.content) == {}


def test_examples_that_are_not_there(db):
    row, _, _ = large(db)
    for place in (-1, len(db.examples_of(row))):
        with pytest.raises(LayerError) as error:
            crop_picture(db, row, place)
        assert_says(error.value, str(db.component(row)), str(place), "counted from 0", "another")


# -- over HTTP ---------------------------------------------------------------------------------


def path_of(db, row):
    return f"{API}/{db.component(row)}"


def test_the_routes_answer_with_these_pictures(db, client):
    row, place, _ = large(db)
    found = client.get(f"{path_of(db, row)}/strip.webp?count=3")
    assert found.status_code == 200
    assert found.headers["content-type"] == "image/webp"
    assert found.content == example_strip(db, row, 3)
    assert client.get(f"{path_of(db, row)}/strip.webp").content == example_strip(db, row, 4)
    for view in ("crop", "whole"):
        found = client.get(f"{path_of(db, row)}/crops/{place}.webp", params={"view": view})
        assert found.content == crop_picture(db, row, place, view)


def test_strips_of_a_list_come_in_one_response_and_are_those_that_come_alone(db, client):
    rows = np.flatnonzero(db.has_examples)[:5].tolist()
    of = [str(db.component(row)) for row in rows[::-1]]
    found = client.get("/api/v1/models/0/strips", params={"of": of, "count": 3})
    pictures = load(found.content)
    assert set(pictures) == set(of)
    for name, row in zip(of, rows[::-1], strict=True):
        assert pictures[name].tobytes() == example_strip(db, row, 3)
    params = {"of": of, "count": 3, "v": db.fingerprint[:12]}
    kept = client.get("/api/v1/models/0/strips", params=params)
    assert "immutable" in kept.headers["cache-control"]
    tag = {"If-None-Match": kept.headers["etag"]}
    assert client.get("/api/v1/models/0/strips", params=params, headers=tag).status_code == 304
    params["of"] = of[:2]
    assert client.get("/api/v1/models/0/strips", params=params, headers=tag).status_code == 200
    for wrong, status in (
        (["first:999"], 404), ([], 422), (of[:1] * 65, 422), (["no component"], 404),
    ):  # fmt: skip
        assert client.get("/api/v1/models/0/strips", params={"of": wrong}).status_code == status


def test_a_browser_may_keep_what_names_its_build(db, client):
    row, place, _ = large(db)
    path = f"{path_of(db, row)}/crops/{place}.webp"
    assert client.get(path).headers["cache-control"] == "private, no-cache"
    for short in ("", db.fingerprint[:4], "0" * 12):
        assert "no-cache" in client.get(path, params={"v": short}).headers["cache-control"]
    for version in (db.fingerprint, db.fingerprint[:12]):
        kept = client.get(path, params={"v": version}).headers["cache-control"]
        assert kept == "private, max-age=31536000, immutable"


def test_a_known_picture_is_not_sent_again(db, client):
    row, place, _ = large(db)
    path = f"{path_of(db, row)}/crops/{place}.webp"
    tag = client.get(path).headers["etag"]
    again = client.get(path, headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == tag
    other = client.get(path, params={"view": "whole"}, headers={"If-None-Match": tag})
    assert other.status_code == 200
    assert other.headers["etag"] != tag


def test_what_is_not_there_is_said(db, client, photos, tmp_path):
    row, place, example = large(db)
    path = path_of(db, row)
    for wrong, word in (
        (f"{path}/crops/99.webp", "no example 99"),
        (f"{API}/first:999/strip.webp", "'first:999' is not in the database"),
        (f"{API}/ninth:0/strip.webp", "Layer 'ninth' is not in"),
    ):
        found = client.get(wrong)
        assert found.status_code == 404
        assert word in found.json()["value"]
        assert found.json()["remedy"]
    for wrong in (f"{path}/crops/0.webp?view=odd", f"{path}/strip.webp?count=0"):
        assert client.get(wrong).status_code == 422
    elsewhere = TestClient(
        create_app([sl.open(db.path, images=str(tmp_path / "no"), embedder=WordEmbedder())]),
        base_url="http://localhost",
    )
    found = elsewhere.get(f"{path}/crops/{place}.webp?view=whole")
    assert found.status_code == 404
    assert f"'{tmp_path / 'no'}' is not a folder" in found.json()["value"]
    assert "Check the path" in found.json()["remedy"]
    picture = opened(elsewhere.get(f"{path}/crops/{place}.webp").content)
    stored = db.thumbnail(example.crop)
    close(picture, outline(opened(stored.webp).convert("RGB"), stored.box))
    assert elsewhere.get(f"{path}/strip.webp").content == example_strip(db, row)
