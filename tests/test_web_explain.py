"""Explanations on the server, against the same question in Python and a plain ablation."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LittleNet, WordEmbedder, encoded, spread_logits, to_tensor, when_done
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.numpy import load
from torch.nn import functional

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.data.images import decode
from semlens.errors import LayerError, RelevanceError
from semlens.lenses.explain import explain_without
from semlens.models.subject import SubjectModel
from semlens.types import Component
from semlens.web.app import create_app
from semlens.web.errors import HttpError
from semlens.web.upload import LONGEST, UploadedImages, decode_upload

ROOT = Path(__file__).resolve().parents[1]
BASE = "/api/v1/models/0/explanations"
CLASSES = ["class0", "class1", "c", "d"]


def spread(images):
    batch = torch.stack([to_tensor(images.read(i)) for i in range(len(images))])
    return spread_logits(LittleNet(), batch)


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    net = spread(ImageFolder(pictures))
    model = SubjectModel(net, to_tensor, "32 bilinear", "python:little", CLASSES)
    path = tmp_path_factory.mktemp("explain") / "db"
    layers = ["first", "second"]
    return sl.build(path, model, ImageFolder(pictures), WordEmbedder(), layers, examples=3)


@pytest.fixture(scope="module")
def client(db):
    return TestClient(create_app([db]), base_url="http://localhost")


def fetch(client, path="", status=200, json=None, **params):
    """Ask until the work is done, as the page does."""
    method = "GET" if json is None else "POST"
    answer = when_done(lambda: client.request(method, BASE + path, params=params, json=json))
    assert answer.status_code == status, answer.text
    return answer


def upload(client, content, status=200):
    sent = client.post(f"{BASE}/image", content=content, headers={"content-type": "image/png"})
    assert sent.status_code == status, sent.text
    return sent.json()


def check_numbers(found, expected):
    """The response has the numbers of an explanation in Python."""
    assert found["target"] == vars(expected.target)
    assert found["scores"] == [vars(score) for score in expected.scores]
    assert [layer["layer"] for layer in found["layers"]] == list(expected.layers)
    for layer, parts in zip(found["layers"], expected.layers.values(), strict=True):
        assert [c["component"] for c in layer["components"]] == [str(p.component) for p in parts]
        assert layer["share"] == pytest.approx(sum(abs(part.share) for part in parts))
        for component, part in zip(layer["components"], parts, strict=True):
            assert component["relevance"] == pytest.approx(part.relevance)
            assert component["share"] == pytest.approx(part.share)
            assert tuple(component["box"].values()) == part.box.as_tuple()


@pytest.mark.slow
def test_a_sample_is_explained_as_in_python(client, db):
    found = fetch(client, "/4", k=3).json()
    expected = db.explain(db.images.read(4), top=3, concepts=None)
    check_numbers(found, expected)
    assert (found["sample"], found["name"]) == (4, db.sample(4).path)
    assert (found["width"], found["height"]) == expected.image.size
    other = fetch(client, "/4", k=2, layer="first", **{"class": 2}).json()
    check_numbers(other, db.explain(db.images.read(4), 2, top=2, layers="first", concepts=None))
    assert other["target"]["name"] == "c"


def test_the_pictures_and_heatmaps_are_those_of_the_command(client, db):
    response = fetch(client, "/4", k=3).json()
    expected = db.explain(db.images.read(4), top=3, concepts=None)
    parts = [part for layer in expected.layers.values() for part in layer]
    shown = [part for layer in response["layers"] for part in layer["components"]]
    for part, component in zip(parts, shown, strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(component["picture"].partition(",")[2])))
        drawn = np.asarray(expected.crop(part).resize(picture.size), np.float32)
        assert np.abs(np.asarray(picture.convert("RGB"), np.float32) - drawn).mean() < 12
    content = fetch(client, "/4/heatmaps", k=3).content
    maps = load(content)["heatmaps"]
    width, height = expected.image.size
    assert maps.dtype == np.int8 and maps.shape[0] == 1 + len(parts)
    assert maps.shape[1] / maps.shape[2] == pytest.approx(height / width, rel=0.05)
    for index, part in enumerate((None, *parts)):
        heat = expected.heatmap(part, 72)
        assert np.corrcoef(maps[index].ravel(), heat.ravel())[0, 1] > 0.99
        assert np.abs(maps[index]).max() == 127
    assert np.sign(maps[1].astype(int).sum()) == np.sign(parts[0].relevance)


def test_an_upload_is_explained_like_the_file(client, db, images):
    content = encoded(images.read(7), "png")
    image = upload(client, content)["image"]
    assert upload(client, content)["image"] == image
    found = fetch(client, f"/{image}").json()
    check_numbers(found, db.explain(images.read(7), concepts=None))
    assert (found["sample"], found["true_class"]) == (None, None)
    picture = client.get(f"{BASE}/{image}/image.webp", params={"side": 32})
    assert max(Image.open(io.BytesIO(picture.content)).size) == 32


def zeroed(db, image, removed):
    """Return the logits of the little net without channels of its second stage, by hand."""
    net = db.model.module
    with torch.no_grad():
        maps = net.second(net.first(to_tensor(image)[None])).clone()
        maps[:, removed] = 0
        return net.head(functional.relu(maps).mean((2, 3)))[0].double()


def test_without_components_is_a_plain_ablation(client, db):
    image = db.images.read(4)
    names = ["second:1", "second:3"]
    found = fetch(client, "/4/without", json={"components": names, "target": 2}).json()
    assert found["components"] == names
    before, after = zeroed(db, image, []), zeroed(db, image, [1, 3])
    for change in found["changes"]:
        index = change["target"]
        assert change["name"] == CLASSES[index]
        assert change["logit_before"] == pytest.approx(float(before[index]), abs=1e-5)
        assert change["logit_after"] == pytest.approx(float(after[index]), abs=1e-5)
        assert change["before"] == pytest.approx(float(before.softmax(0)[index]), abs=1e-5)
        assert change["after"] == pytest.approx(float(after.softmax(0)[index]), abs=1e-5)
    assert len(found["changes"]) == 4
    assert found["predicted_before"]["target"] == int(before.argmax())
    assert found["predicted_after"]["target"] == int(after.argmax())
    shown = [change["before"] for change in found["changes"]]
    assert shown == sorted(shown, reverse=True)
    assert torch.equal(zeroed(db, image, []), before), "the model is as it was"


def test_the_components_are_ranked_again_without_some(client, db):
    names = ["second:1", "second:3"]
    params = {"class": 2, "without": names, "k": 10}
    found = fetch(client, "/4", **params).json()
    image = db.images.read(4)
    check_numbers(found, db.explain(image, 2, top=10, concepts=None, without=names))
    assert found["target"]["logit"] == pytest.approx(float(zeroed(db, image, [1, 3])[2]), abs=1e-5)
    shown = [part["component"] for layer in found["layers"] for part in layer["components"]]
    assert shown and not set(names) & set(shown)
    maps = load(fetch(client, "/4/heatmaps", **params).content)["heatmaps"]
    assert len(maps) == 1 + len(shown)
    assert "99" in fetch(client, "/4", 404, without="second:99").text


def test_the_two_predictions_and_the_class_are_always_among_the_changes(db):
    image = db.images.read(4)
    rare = int(zeroed(db, image, []).argmin())
    found = explain_without(db, image, "second:1", rare, top=1)
    targets = {change.target for change in found.changes}
    assert {found.predicted_before.target, found.predicted_after.target, rare} == targets
    assert found.components == (Component("second", 1),)
    with pytest.raises(LayerError, match="No component"):
        explain_without(db, image, [])
    with pytest.raises(RelevanceError, match="99"):
        explain_without(db, image, "second:1", 99)


def test_there_is_an_example_of_every_class(client, db):
    found = fetch(client).json()
    assert found["unavailable"] is None
    names = [image["name"] for image in found["images"]]
    assert names == ["class0", "class1"]
    for image in found["images"]:
        assert db.sample(image["sample"]).path == image["path"]
        assert not image["wrong"]


@pytest.mark.slow
def test_known_errors_are_among_the_examples(db):
    client = TestClient(create_app([db]), base_url="http://localhost")
    predicted = [int(zeroed(db, db.images.read(i), []).argmax()) for i in range(len(db.images))]
    right = db.samples["logit"].to_numpy()
    mistaken = next(
        c for c in (0, 1)
        if 2 <= sum((right == c) & (np.array(predicted) == c)) <= sum(right == c) - 2
    )  # fmt: skip
    contrast = "/api/v1/models/0/experiments/contrast"
    when_done(lambda: client.get(contrast, params={"class": mistaken}))
    wrong = [image for image in fetch(client).json()["images"] if image["wrong"]]
    assert wrong
    for image in wrong:
        assert predicted[image["sample"]] != right[image["sample"]]


def test_missing_images_are_told_and_uploads_still_explained(tmp_path, images):
    folder = tmp_path / "images"
    for number in range(8):
        path = folder / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images.read(number).save(path)
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", CLASSES)
    db = sl.build(
        tmp_path / "db", model, ImageFolder(folder), WordEmbedder(), ["first"], examples=2
    )
    folder.rename(tmp_path / "moved")
    client = TestClient(create_app([sl.open(db.path, model=model)]), base_url="http://localhost")
    found = fetch(client).json()
    assert found["images"]
    assert "not on this machine" in found["unavailable"]["value"]
    assert "not on this machine" in fetch(client, "/3", 400).json()["value"]
    image = upload(client, encoded(images.read(3), "png"))["image"]
    assert fetch(client, f"/{image}", layer="first").json()["layers"][0]["components"]


def test_a_model_that_cannot_be_loaded_is_told_with_the_command(db):
    client = TestClient(create_app([sl.open(db.path)]), base_url="http://localhost")
    error = fetch(client, "/3", 400).json()
    assert error["kind"] == "ModelError"
    assert f"semlens serve {db.path} --model SPEC" in error["remedy"]


def test_python_code_is_named_in_the_command_if_it_is_where_it_was(tmp_path, images):
    spec = f"{tmp_path / 'model.py'}:make"
    (tmp_path / "model.py").write_text("def make(): ...")
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", spec, CLASSES)
    db = sl.build(tmp_path / "db", model, images, WordEmbedder(), ["first"], examples=2)
    client = TestClient(create_app([sl.open(db.path)]), base_url="http://localhost")
    image = upload(client, encoded(images.read(3), "png"))["image"]
    error = fetch(client, f"/{image}", 400).json()
    assert error["remedy"].endswith(f"semlens serve {db.path} --model {spec}")


@pytest.mark.parametrize(
    ("path", "json", "params", "status", "part"),
    [
        ("/999999", None, {}, 404, "samples 0 to"),
        ("/12345678901234567890", None, {}, 404, "samples 0 to"),
        ("/u0123456789abcdef01234567", None, {}, 404, "Choose the image again"),
        ("/..%2Fsecret", None, {}, 404, ""),
        ("/4", None, {"class": 99}, 400, "0 to 3"),
        ("/4", None, {"class": -1}, 422, "class"),
        ("/4", None, {"layer": "thirst"}, 404, "thirst"),
        ("/4", None, {"k": 0}, 422, "k"),
        ("/4/heatmaps", None, {"class": 99}, 400, "0 to 3"),
        ("/4/image.webp", None, {"side": 5}, 422, "side"),
        ("/4/without", {"components": []}, {}, 422, "at least 1"),
        ("/4/without", {"components": ["second:99"]}, {}, 404, "second:99"),
        ("/4/without", {"components": ["thirst:1"]}, {}, 404, "thirst"),
        ("/4/without", {"components": ["what"]}, {}, 404, "what"),
        ("/4/without", {"components": ["second:1"], "target": 99}, {}, 400, "0 to 3"),
        ("/4/without", {"components": ["second:1"], "evil": 1}, {}, 422, "evil"),
        ("/999999/without", {"components": ["second:1"]}, {}, 404, "samples 0 to"),
    ],
)
def test_requests_that_cannot_be_answered(client, path, json, params, status, part):
    error = fetch(client, path, status, json, **params).json()
    assert part in " ".join(error.values())


def test_what_is_no_image_is_refused(client):
    assert "not a readable image" in upload(client, b"no image", 415)["value"]
    assert "not a readable image" in upload(client, b"<svg></svg>", 415)["value"]


def smooth(width, height, mode):
    """A picture that is known at every size: a gradient, turned by EXIF if it is a JPEG."""
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
    bands = [255 * columns + 0 * rows, 255 * rows + 0 * columns, 127 * (rows + columns)]
    if mode == "RGBA":
        bands.append(255 * (0.5 + rows / 2) + 0 * columns)
    return Image.fromarray(np.stack(bands, -1).round().astype(np.uint8))


@pytest.mark.parametrize(
    ("kind", "mode", "turned"),
    [("jpeg", "RGB", False), ("jpeg", "RGB", True), ("png", "RGB", False), ("png", "RGBA", False),
     ("png", "P", False), ("webp", "RGBA", False), ("gif", "RGB", False)],
)  # fmt: skip
def test_large_uploads_are_decoded_at_a_size_that_models_see(kind, mode, turned):
    picture = smooth(2600, 1300, mode)
    picture = picture.convert("P") if mode == "P" else picture
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6 if turned else 1
    picture.save(stream, kind, **({"exif": exif, "quality": 95} if kind == "jpeg" else {}))
    found = decode_upload(stream.getvalue())
    whole = decode(stream.getvalue(), "whole")
    assert max(found.size) == LONGEST and found.mode == "RGB"
    assert found.size == ((1024, 2048) if turned else (2048, 1024))
    expected = np.asarray(whole.resize(found.size, Image.Resampling.BOX)).astype(float)
    difference = np.abs(np.asarray(found) - expected)
    assert difference.mean() < (10 if mode == "P" or kind == "gif" else 1)  # dithered colours
    small = whole.resize((60, 30))
    stream = io.BytesIO()
    small.save(stream, "png")
    np.testing.assert_array_equal(decode_upload(stream.getvalue()), small)


UPLOADS = """
import io
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from benchmarks.harness.measuring import memory_mib, reset_peak
from semlens.web.upload import LONGEST, decode_upload
from semlens.run.executors.executor import return_freed_memory
stream = io.BytesIO()
Image.new("RGB", (4000, 4000)).save(stream, "PNG", compress_level=1)  # 46 MiB of pixels
decode_upload(stream.getvalue())
reset_peak()
before = memory_mib("VmRSS")
with ThreadPoolExecutor(6) as pool:
    sizes = list(pool.map(lambda data: decode_upload(data).size, [stream.getvalue()] * 7))
assert set(sizes) == {(LONGEST, LONGEST)}
peak = memory_mib("VmHWM") - before
return_freed_memory()
print(peak, memory_mib("VmRSS") - before)
"""


def test_large_uploads_are_decoded_one_at_a_time_and_leave_no_memory_behind():
    # in a process of its own, in which nothing else takes memory
    ended = subprocess.run(
        [sys.executable, "-c", UPLOADS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    peak, left = map(float, ended.stdout.split())
    assert peak < 250  # of six at the same time: 350
    assert left < 150


def test_a_large_upload_that_is_cut_is_refused():
    stream = io.BytesIO()
    smooth(2600, 1300, "RGB").save(stream, "PNG")
    with pytest.raises(HttpError, match="Cannot decode"):
        decode_upload(stream.getvalue()[:-2000])


def test_uploads_are_dropped_oldest_first():
    uploads = UploadedImages(max_images=2, max_bytes=100)
    one, two = uploads.add(b"1"), uploads.add(b"2")
    assert uploads.get(one) == b"1"  # used again
    three = uploads.add(b"3")
    assert [uploads.get(one), uploads.get(three)] == [b"1", b"3"]
    with pytest.raises(HttpError, match="Choose the image again"):
        uploads.get(two)
    large = uploads.add(b"x" * 200)  # larger than all together, but the latest is always kept
    assert len(uploads.get(large)) == 200
    with pytest.raises(HttpError):
        uploads.get(three)
