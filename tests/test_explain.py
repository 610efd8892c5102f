"""One prediction's explanation against the engine's own numbers and hand-made pictures."""

from __future__ import annotations

import copy
import functools
import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from conftest import LittleNet, WordEmbedder, assert_says, encoded, to_tensor, write_pictures
from PIL import Image
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.explain import effect as other_command
from semlens.cli.explain import explain as command
from semlens.data.image_folder import ImageFolder
from semlens.draw.heatmap_mask import apply_mask, highlight, overlay, project_heatmap
from semlens.errors import (
    ConceptError,
    LayerError,
    RecipeError,
    RelevanceError,
    StaleError,
    StoreError,
)
from semlens.lenses import database_engine
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.labelling.component_labels import UnlabelledWarning
from semlens.models.preprocess_geometry import AxisMap, Geometry
from semlens.models.subject import SubjectModel
from semlens.relevance.class_relevance import class_relevance
from semlens.relevance.heatmap_boxes import bounding_boxes, upsample_and_blur
from semlens.relevance.make_engine import make_engine
from semlens.relevance.presets import preset
from semlens.types import Box, Component

CLASSES = ["class0", "class1", "c", "d"]
LAYERS = ["first", "second"]
explain = functools.partial(sl.ConceptDatabase.explain, concepts=None)


class Signed(LittleNet):
    """The same with a head that reads negative activations too."""

    def forward(self, x):
        return self.head(functional.gelu(self.second(self.first(x))).mean((2, 3)))


def wrapped(net: nn.Module) -> SubjectModel:
    return SubjectModel(net, to_tensor, "32 bilinear", "python:little", CLASSES)


@pytest.fixture(scope="module", params=[LittleNet, Signed])
def model(request):
    return wrapped(request.param())


@pytest.fixture(scope="module")
def db(tmp_path_factory, model, pictures):
    path = tmp_path_factory.mktemp("explain") / "db"
    return sl.build(path, model, ImageFolder(pictures), WordEmbedder(), LAYERS, examples=5)


@pytest.fixture
def photo(images):
    return images.read(4)


@pytest.mark.slow
def test_relevance_is_that_of_the_class(db, model, photo):
    found = explain(db, photo, 2, top=99)
    inputs = model.batch([model.preprocess(photo)])
    engine = make_engine(model.module, inputs, LAYERS)
    expected = class_relevance(engine, inputs, torch.tensor([2]), LAYERS)
    assert list(found.layers) == ["second", "first"]
    for layer, parts in found.layers.items():
        channels = np.zeros(expected[layer].shape[1])
        for part in parts:
            channels[part.component.index] += part.relevance
        np.testing.assert_allclose(channels, expected[layer][0].numpy(), atol=1e-6)
        assert sum(abs(part.share) for part in parts) == pytest.approx(1, abs=1e-5)
        assert all(part.share * part.relevance > 0 for part in parts)
        size = [abs(part.relevance) for part in parts]
        assert size == sorted(size, reverse=True)
    with torch.no_grad():
        logits = model.module(inputs)[0].double()
    assert found.target.logit == pytest.approx(float(logits[2]), abs=1e-5)
    assert found.target.probability == pytest.approx(float(logits.softmax(0)[2]), abs=1e-5)
    assert found.predicted.target == int(logits.argmax())
    assert [score.target for score in found.scores] == logits.argsort(descending=True).tolist()


@pytest.mark.slow
def test_what_passes_through_all_components_is_all_there_is(db, model, photo):
    found = explain(db, photo, 1, top=99)
    assert np.abs(found.heat).max() > 0
    for parts in found.layers.values():
        total = sum(part.heat for part in parts)
        np.testing.assert_allclose(total, found.heat, atol=2e-5 * np.abs(found.heat).max() + 1e-7)
    assert found.heat.shape == (32, 32)


@pytest.mark.slow
def test_signs_are_parts_of_their_own(tmp_path, images, words, photo):
    model = wrapped(Signed())
    db = sl.build(tmp_path / "db", model, images, words, ["second"], examples=3)
    found = explain(db, photo, 0, top=99).layers["second"]
    negative = [part for part in found if part.component.sign < 0]
    assert negative
    channel = negative[0].component.index
    both = [part for part in found if part.component.index == channel]
    inputs = model.batch([model.preprocess(photo)])
    engine = make_engine(model.module, inputs, ["second"])
    whole = class_relevance(engine, inputs, torch.tensor([0]))["second"][0, channel]
    assert sum(part.relevance for part in both) == pytest.approx(float(whole), abs=1e-6)
    one = sl.build(tmp_path / "one", model, images, words, ["second"], examples=3, signs="positive")
    parts = {p.component.index: p for p in explain(one, photo, 0, top=99).layers["second"]}
    assert parts[channel].relevance == pytest.approx(float(whole), abs=1e-6)
    total = sum(part.heat for part in both)
    np.testing.assert_allclose(parts[channel].heat, total, atol=1e-6)


def test_boxes_are_of_the_blurred_heat_in_original_pixels(db, model):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 64, 3), np.uint8))
    blur = db.manifest.recipe.crop_blur
    for part in explain(db, photo, 0, top=3).layers["first"]:
        heat = torch.from_numpy(part.heat * np.sign(part.relevance).astype(np.float32))[None]
        left, top, right, bottom = bounding_boxes(upsample_and_blur(heat, 32, 32, blur), 0.01)[
            0
        ].tolist()
        expected = (2 * left, 3 * top, 2 * right, 3 * bottom)
        np.testing.assert_allclose(part.box.as_tuple(), expected, atol=1)


def test_the_prediction_is_explained_by_default(db, model, photo):
    found = explain(db, photo, layers=["first"], top=2)
    assert found.target == found.predicted
    assert list(found.layers) == ["first"]
    assert len(found.layers["first"]) == 2
    assert "predicted" in found.headline
    other = explain(db, photo, (found.target.target + 1) % 4, layers=["first"])
    assert f"predicted: {found.target.name}" in other.headline


def test_rules_may_be_chosen(db, model, photo):
    inputs = model.batch([model.preprocess(photo)])
    engine = make_engine(model.module, inputs, LAYERS, "gradient")
    expected = class_relevance(engine, inputs, torch.tensor([0]), LAYERS)
    found = explain(db, photo, 0, rules="gradient", top=99)
    assert found.rules == "gradient"
    for layer, parts in found.layers.items():
        whole = sum(part.relevance for part in parts)
        assert whole == pytest.approx(float(expected[layer].sum()), abs=1e-5)
        np.testing.assert_allclose(sum(p.heat for p in parts), found.heat, atol=1e-5)
    assert explain(db, photo, 0).rules == "epsilon-plus-flat"
    assert explain(db, photo, 0, rules=preset("epsilon")).rules == "epsilon"


@pytest.mark.slow
def test_pruned_components_are_out_of_the_explanation(db, model, photo):
    (name,) = explain(db, photo, 0, layers="second", top=1).to_pandas()["component"]
    with sl.pruned(model, [Component.parse(name)]):
        pruned = explain(db, photo, 0, layers="second", top=99)
    index = Component.parse(name).index
    assert index not in pruned.to_pandas()["index"].to_numpy()
    assert index in explain(db, photo, 0, layers="second", top=99).to_pandas()["index"].to_numpy()


def test_an_image_is_turned_as_its_camera_says(db, model, photo):
    turned = photo.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a turn to the right
    file = Image.open(io.BytesIO(encoded(turned, "png", exif=exif)))
    assert file.size == turned.size
    found, expected = explain(db, file, 0), explain(db, photo, 0)
    assert found.image.size == photo.size
    assert found.to_json() == expected.to_json()


def test_labels_stand_beside_the_components(db, photo):
    labels = db.label(ConceptSet.of(["dog", "cat"]), threshold=-1.0)
    found = explain(db, photo, 0, concepts=labels)
    table = labels.to_pandas().set_index(["layer", "index", "sign"])
    for parts in found.layers.values():
        for part in parts:
            row = table.loc[(part.component.layer, part.component.index, part.component.sign)]
            assert (part.label, part.score) == (row["label"], pytest.approx(row["score"]))
    assert explain(db, photo, 0).layers["first"][0].label is None
    said = {text.removeprefix("mixed: ") for text in found.to_pandas()["label"]} - {"mixed"}
    assert {word for text in said for word in text.split(", ")} == {"dog", "cat"}


def test_concepts_are_taken_as_in_every_question(tmp_path, db, photo):
    (tmp_path / "pets.json").write_text('["dog", "cat"]')
    expected = explain(db, photo, 0, concepts=db.label(["dog", "cat"])).to_json()
    for given in (["dog", "cat"], {"pets": ["dog", "cat"]}, tmp_path / "pets.json"):
        assert explain(db, photo, 0, concepts=given).to_json() == expected
    none = explain(db, photo, 0).to_json()
    assert explain(db, photo, 0, concepts="none").to_json() == none != expected
    component = explain(db, photo, 0).layers["first"][0].component
    by_hand = explain(db, photo, 0, concepts={component: "snout"}).layers["first"][0]
    assert (by_hand.label, by_hand.score) == ("snout", None)


def test_an_embedder_without_texts_gives_no_labels(tmp_path, images, embedder, photo):
    db = sl.build(tmp_path / "db", wrapped(LittleNet()), images, embedder, ["first"], examples=2)
    with pytest.warns(UnlabelledWarning, match="reads no texts"):
        found = db.explain(photo)
    assert found.to_pandas()["label"].isna().all()


def test_any_class_and_any_picture(db, pictures, photo):
    # no sample is of class c; a picture may come as a file
    by_name = explain(db, photo, "c", layers="first")
    assert by_name.to_json() == explain(db, photo, 2, layers=["first"]).to_json()
    assert by_name.target.name == "c"
    file = pictures / "class0" / "004.png"
    found = explain(db, str(file), "c")
    assert found.name == "class0/004.png"
    with Image.open(file) as opened:
        same = explain(db, opened, "c", name="class0/004.png")
    assert found.to_json() == same.to_json()
    assert db.explain(file, "c", concepts=None).to_json() == found.to_json()


def test_errors_say_what_to_do(tmp_path, db, photo):
    for wrong in (4, "clas1"):
        with pytest.raises(RelevanceError) as error:
            explain(db, photo, wrong)
        assert_says(error.value, str(wrong), "0 to 3")
    with pytest.raises(LayerError, match="thirst"):
        explain(db, photo, layers=["thirst"])
    with pytest.raises(ConceptError, match="gone.png"):
        explain(db, tmp_path / "gone.png")
    with pytest.raises(RecipeError, match="whole number from 1"):
        explain(db, photo, top=0)
    with pytest.raises(StaleError):
        sl.open(db.path, model=wrapped(LittleNet(9)))


def test_it_can_be_kept_as_page_picture_and_values(tmp_path, db, model, photo):
    found = explain(db, photo, 1, top=5, name="a<b>.png")
    found.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "a&lt;b&gt;.png" in page
    assert page.count("data:image/webp") == page.count("src=") > 10
    assert "http" not in page
    found.save(tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > 900
        assert np.asarray(picture).std() > 10
    found.save(tmp_path / "values.json")
    kept = json.loads((tmp_path / "values.json").read_text())
    assert kept == json.loads(json.dumps(found.to_json()))
    assert [len(parts) for parts in kept["layers"].values()] == [
        len(parts) for parts in found.layers.values()
    ]
    with pytest.raises(StoreError, match="html"):
        found.save(tmp_path / "values.txt")
    assert "class1" in repr(found)
    assert "<!doctype" not in found._repr_html_()
    frame = found.to_pandas()
    assert list(frame["rank"][:2]) == [1, 2]
    found.save(tmp_path / "table.csv")
    kept = pd.read_csv(tmp_path / "table.csv")
    assert kept["component"].tolist() == frame["component"].tolist()


def test_a_database_without_thumbnails_still_makes_a_page(tmp_path, images, words, photo):
    model = wrapped(LittleNet())
    db = sl.build(tmp_path / "db", model, images, words, ["first"], examples=2, thumbnails=False)
    found = explain(db, photo)
    found.save(tmp_path / "page.html")
    assert "no examples" in (tmp_path / "page.html").read_text()
    assert found.plot().width > 900


@pytest.mark.slow
def test_a_logit_that_is_zero_has_no_components(tmp_path, images, words, photo):
    net = LittleNet()
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    model = wrapped(net)
    db = sl.build(tmp_path / "db", model, images, words, ["first"], examples=2)
    found = explain(db, photo, 1)
    assert found.layers["first"] == ()
    found.save(tmp_path / "page.html")
    assert "Nothing of the class" in (tmp_path / "page.html").read_text()
    assert found.plot().height > 200


def test_the_mask_darkens_what_is_under_a_share_of_the_maximum():
    image = Image.new("RGB", (4, 2), (200, 100, 50))
    heat = np.array([[1, 0.021, 0.019, 0], [0.5, -1, 0.02, 0.3]], np.float32)
    bright = np.asarray(apply_mask(image, heat))[:, :, 0] == 200
    np.testing.assert_array_equal(bright, [[1, 1, 0, 0], [1, 0, 1, 1]])
    assert tuple(np.asarray(apply_mask(image, heat))[0, 3]) == (120, 60, 30)
    assert tuple(np.asarray(apply_mask(image, heat, opacity=1.0))[0, 3]) == (0, 0, 0)
    assert not (np.asarray(apply_mask(image, -np.abs(heat))) != np.asarray(image)).any()
    large = np.asarray(apply_mask(image.resize((40, 20)), heat))
    assert large.shape == (20, 40, 3)
    assert tuple(large[2, 2]) == (200, 100, 50)
    assert tuple(large[2, 38]) == (120, 60, 30)


def test_where_heat_is_high_colours_stay_within_an_outline():
    image = Image.new("RGB", (30, 20), (200, 100, 50))
    heat = np.zeros((20, 30), np.float32)
    heat[4:16, 5:25] = np.linspace(0.1, 1, 20)
    shown = np.asarray(highlight(image, heat, 0.2, "#2f6fde")).astype(int)
    high = heat >= 0.2
    assert (shown[high & (shown != (0x2F, 0x6F, 0xDE)).any(2)] == (200, 100, 50)).all()
    assert (shown[~high].max(1) - shown[~high].min(1) == 0).all()  # grey
    assert shown[~high].min() > 150
    assert (shown[4, high[4]] == (0x2F, 0x6F, 0xDE)).all()
    assert (shown[9, 14] == (200, 100, 50)).all()
    assert np.array_equal(highlight(image, -heat, 0.2, "#2f6fde"), image)


def test_the_overlay_is_blue_for_and_orange_against():
    image = Image.new("RGB", (3, 1), (128, 128, 128))
    blue, none, orange = np.asarray(overlay(image, np.array([[1.0, 0, -1.0]], np.float32)))[0]
    assert orange[0] > orange[1] > orange[2] + 50
    assert blue[2] > blue[0] + 50
    assert none[0] == none[1] == none[2]
    assert np.asarray(overlay(image, np.zeros((1, 3), np.float32))).std() == 0


def test_heat_is_read_where_the_model_looked():
    heat = np.arange(16, dtype=np.float32).reshape(4, 4) + 1
    whole = Geometry(AxisMap(2.0, 0.0), AxisMap(2.0, 0.0), 8, 8)
    np.testing.assert_allclose(project_heatmap(heat, whole, Box(0, 0, 8, 8), (4, 4)), heat)
    # the model sees the middle half of a 16-pixel side: nothing outside
    middle = Geometry(AxisMap(2.0, 4.0), AxisMap(2.0, 4.0), 16, 16)
    seen = project_heatmap(heat, middle, Box(0, 0, 16, 16), (8, 8))
    np.testing.assert_allclose(seen[2:6, 2:6], heat)
    assert seen.sum() == pytest.approx(heat.sum())
    part = project_heatmap(heat, middle, Box(4, 4, 8, 12), (2, 4))
    np.testing.assert_allclose(part, heat[:, :2])
    mirrored = Geometry(AxisMap(-2.0, 8.0), AxisMap(2.0, 0.0), 8, 8)
    np.testing.assert_allclose(
        project_heatmap(heat, mirrored, Box(0, 0, 8, 8), (4, 4)), heat[:, ::-1]
    )


MODEL = """
import torch
from torch import nn
from torchvision.transforms import functional as F

def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 15 * 15, 2))
    return net, lambda image: F.to_tensor(F.resize(image, [32, 32])), ["class0", "class1"]
"""


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = write_pictures(tmp_path / "pictures", 10)
    spec = tmp_path / "model.py"
    spec.write_text(MODEL)
    subject = sl.load_model(f"{spec}:make", run_files=True)
    sl.build(
        tmp_path / "db", subject, ImageFolder(folder), sl.load_embedder("semlens/demo"),
        ["0", "1"], examples=3,
    )  # fmt: skip
    app = typer.Typer()
    app.command("explain")(command)
    app.command("effect")(other_command)  # with one command typer takes no name
    image = folder / "class0" / "000.png"

    def run(picture, *arguments, code=0):
        given = ["explain", str(tmp_path / "db"), str(picture), "--model", f"{spec}:make"]
        ended = CliRunner().invoke(app, [*given, *map(str, arguments)])
        assert ended.exit_code == code, (ended.output, ended.exception)
        return ended.stdout, ended.stderr

    out, err = run(image, "--target", "class1", "--layers", "0,1", "--top", 2)
    assert "class0/000.png" in out
    assert "relevance" in out
    assert "--save FILE.html" in err
    page = tmp_path / "page.html"
    printed = json.loads(run(image, "--concepts", "none", "--json", "--save", page)[0])
    assert printed["layers"]["1"][0]["label"] is None
    assert page.is_file()
    (tmp_path / "broken.png").write_bytes(b"no image")
    for picture, wrong, said in (
        (image, ("--target", "nonsense"), "class0"),
        (image, ("--layer", "7"), "'7'"),
        (image, ("--save", "a.txt"), ".html"),
        (tmp_path / "broken.png", (), "broken.png"),
        (tmp_path / "missing.png", (), "missing.png"),
    ):
        assert said in run(picture, *wrong, code=1)[1]


def test_without_components_is_the_explanation_of_a_model_with_their_weights_zeroed(
    db, model, photo
):
    order = explain(db, photo, 2, top=99).layers
    removed = [part.component for parts in order.values() for part in parts[:1]]
    found = explain(db, photo, 2, top=99, without=removed)
    assert found.without == tuple(removed)
    assert explain(db, photo, 2, top=99).target == explain(db, photo, 2, top=99, without=()).target

    zeroed = copy.deepcopy(model.module)
    with torch.no_grad():
        for component in removed:
            layer = zeroed.first[0] if component.layer == "first" else zeroed.second
            layer.weight[component.index] = 0
            layer.bias[component.index] = 0
    inputs = model.batch([model.preprocess(photo)])
    expected = class_relevance(
        make_engine(zeroed, inputs, LAYERS, found.rules), inputs, torch.tensor([2]), LAYERS
    )
    with torch.no_grad():
        logits = zeroed(inputs)[0].double()
    assert found.target.logit == pytest.approx(float(logits[2]), abs=1e-5)
    assert found.predicted.target == int(logits.argmax())
    for layer, parts in found.layers.items():
        channels = np.zeros(expected[layer].shape[1])
        for part in parts:
            channels[part.component.index] += part.relevance
        np.testing.assert_allclose(channels, expected[layer][0].numpy(), atol=1e-6)
        assert not {part.component for part in parts} & set(removed)
        sizes = [abs(part.relevance) for part in parts]
        assert sizes == sorted(sizes, reverse=True)
        assert sum(abs(part.share) for part in parts) == pytest.approx(1, abs=1e-5)


def test_the_model_is_captured_once_whatever_is_left_out(db, photo, monkeypatch):
    explain(db, photo, 2)
    monkeypatch.setattr(database_engine, "engine_for", None)  # a capture would fail now
    for name in ("first:1", "second:3", "second:7"):
        parts = explain(db, photo, 2, top=99, without=name).layers
        shown = {str(part.component) for layer in parts.values() for part in layer}
        assert shown and name not in shown


class Shortcut(LittleNet):
    """An empty shortcut is a layer; what it passes on is also read beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut, self.beside = nn.Identity(), nn.Conv2d(6, 6, 3, 1, 1)

    def forward(self, x, without=()):
        x = self.first(x)
        shortcut = self.shortcut(x)
        if without:
            shortcut = shortcut.index_fill(1, torch.tensor(without), 0)
        return self.head(functional.relu(self.second(self.beside(x) + shortcut)).mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("rules", ["auto", "gradient"])
def test_what_is_read_beside_a_layer_stays(tmp_path, pictures, photo, rules):
    net = Shortcut()
    db = sl.build(
        tmp_path / "db", wrapped(net), ImageFolder(pictures), WordEmbedder(),
        ["first", "shortcut"], examples=3,
    )  # fmt: skip
    found = explain(db, photo, 2, top=99, rules=rules, without=["shortcut:1", "shortcut:4"])
    with torch.no_grad():
        logits = net(db.model.batch([db.model.preprocess(photo)]), without=[1, 4])[0]
    assert found.target.logit == pytest.approx(float(logits[2]), abs=1e-5)
    shown = {str(part.component) for parts in found.layers.values() for part in parts}
    assert {"first:1", "first:4"} <= shown
    assert not shown & {"shortcut:1", "shortcut:4"}
