"""The model test against logits, ranks and AUROCs by hand; its interval against bisection."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor, write_pictures
from PIL import Image
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.artefact import Hue, Patch, artefact_seed
from semlens.data.image_folder import ImageFolder
from semlens.data.image_sequence import ImageSequence
from semlens.errors import DataError, ModelError, RecipeError, RelevanceError
from semlens.lenses.audit.model_test import _outputs
from semlens.lenses.statistics.intervals import auroc, auroc_interval
from semlens.models.load import load_model
from semlens.models.subject import SubjectModel
from semlens.progress import progress_listener

CLASSES = ["class0", "class1", "c", "d"]
MODEL = """
from conftest import LittleNet, to_tensor

def make():
    return LittleNet(), to_tensor, ["class0", "class1", "c", "d"]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    file = tmp_path_factory.mktemp("subject") / "little.py"
    file.write_text(MODEL)
    return load_model(f"{file}:make")


@pytest.fixture(scope="module")
def db(tmp_path_factory, model, pictures):
    path = tmp_path_factory.mktemp("test") / "db"
    return sl.build(path, model, ImageFolder(pictures), WordEmbedder(), ["second"], examples=3)


@pytest.fixture(scope="module")
def data(pictures):
    return ImageFolder(pictures)


@pytest.fixture(scope="module")
def spurious(tmp_path_factory):
    """Two sets: 9 and 7 images."""
    folder = write_pictures(tmp_path_factory.mktemp("spurious"), 16, seed=8)
    (folder / "class0" / "extra.png").write_bytes((folder / "class0" / "000.png").read_bytes())
    (folder / "class1" / "001.png").unlink()
    return folder


def by_hand(pictures):
    """Logits [n 4] in float64, image by image."""
    net = LittleNet().double().eval()
    with torch.no_grad():
        return np.concatenate([net(to_tensor(p)[None].double()).numpy() for p in pictures])


def pairs(positive, negative):
    wins = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    return float(np.mean(wins))


def check(outputs, scores, target):
    """Outputs of a set against its logits by hand."""
    np.testing.assert_allclose(outputs.logit, scores[:, target], atol=1e-4)
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(outputs.probability, shares[:, target], atol=1e-4)
    for k in (1, 2, 3, 5):
        best = [target in np.argsort(-row)[:k] for row in scores]
        assert outputs.top(k) == pytest.approx(np.mean(best))


@pytest.mark.parametrize(
    ("value", "n", "m"),
    [(0.9, 30, 40), (0.5, 10, 10), (1.0, 25, 60), (0.0, 5, 9), (0.731, 7, 300), (0.999, 500, 500)],
)
def test_the_interval_by_bisection(value, n, m) -> None:
    def variance(true):
        star = (n + m) / 2 - 1
        spread = (1 - true) / (2 - true) + true / (1 + true)
        return true * (1 - true) * (1 + star * spread) / (n * m)

    def inside(true):
        return (value - true) ** 2 <= 1.959963984540054**2 * variance(true)

    def bisect(outer, inner):
        for _ in range(200):
            middle = (outer + inner) / 2
            outer, inner = (outer, middle) if inside(middle) else (middle, inner)
        return inner

    low, high = auroc_interval(value, n, m)
    step = 1e-9  # the ends 0 and 1 have no variance
    start = min(max(value, step), 1 - step)
    assert low == pytest.approx(0 if value == 0 else bisect(step, start), abs=1e-6)
    assert high == pytest.approx(1 if value == 1 else bisect(1 - step, start), abs=1e-6)
    assert 0 <= low < high <= 1
    wide = auroc_interval(value, n, m, 0.99)
    assert wide[0] <= low and wide[1] >= high
    assert auroc_interval(1 - value, m, n) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_the_interval_does_not_collapse_at_one() -> None:
    low, high = auroc_interval(1.0, 20, 20)
    assert high == 1 and 0.8 < low < 0.95
    assert auroc_interval(1.0, 2000, 2000)[0] > 0.995


@pytest.mark.slow
def test_the_interval_covers_the_true_value() -> None:
    """Two normal distributions with a true AUROC of 0.9."""
    from scipy.stats import norm

    shift = np.sqrt(2) * norm.ppf(0.9)
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        positive, negative = draw.normal(shift, 1, (30, 1)), draw.normal(0, 1, (40, 1))
        low, high = auroc_interval(float(auroc(positive, negative)[0]), 30, 40)
        held += low <= 0.9 <= high
    assert 0.90 <= held / 300 <= 0.99


@pytest.mark.parametrize("given", [(1.2, 3, 3), (float("nan"), 3, 3), (0.5, 0, 3), (0.5, 3, 0)])
def test_no_interval(given) -> None:
    with pytest.raises(DataError) as error:
        auroc_interval(*given)
    assert_says(error.value, "has no interval")


@pytest.mark.slow
def test_folders_are_sets(db, data, spurious) -> None:
    found = db.model_test(1, spurious=ImageFolder(spurious))
    real = by_hand([data.read(i) for i in range(41) if data.targets[i] == "class1"])
    check(found.real, real, 1)
    assert [tested.name for tested in found.sets] == ["class0", "class1", "all sets"]
    assert [len(tested.outputs) for tested in found.sets] == [9, 7, 16]
    for tested, part in zip(found.sets, ("class0/", "class1/", "class"), strict=True):
        shown = ImageFolder(spurious)
        scores = by_hand([shown.read(i) for i, n in enumerate(shown.ids) if n.startswith(part)])
        check(tested.outputs, scores, 1)
        own = pairs(found.real.logit, tested.outputs.logit)
        assert tested.auroc == pytest.approx(own, abs=1e-6)
        assert tested.interval == auroc_interval(tested.auroc, len(real), len(scores))
        assert tested.without is None and np.isnan(tested.auroc_without)
    assert found.worst.auroc == min(tested.auroc for tested in found.sets)
    assert (found.target, found.name, found.model) == (1, "class1", db.model.spec)


def test_artefacts_go_into_images_of_other_classes(db, data) -> None:
    patch, hue = Patch((255, 0, 0), 0.4), Hue((0, 255, 0), 0.6)
    told = []
    with progress_listener(lambda *at: told.append(at)):
        found = db.model_test(0, artefacts=[patch, hue], seed=3)
    assert {("real images", 21, 21), ("with all artefacts", 20, 20)} <= set(told)
    assert [tested.name for tested in found.sets] == ["patch", "hue", "all artefacts"]
    others = [i for i in range(41) if data.targets[i] == "class1"]
    real = by_hand([data.read(i) for i in range(41) if data.targets[i] == "class0"])
    clean = by_hand([data.read(i) for i in others])
    check(found.real, real, 0)

    def inserted(*artefacts):
        made = []
        for i in others:
            image = data.read(i)
            for number, artefact in enumerate(artefacts):
                image = artefact.insert(image, artefact_seed(3 + number, i))
            made.append(image)
        return by_hand(made)

    for tested, scores in zip(
        found.sets, (inserted(patch), inserted(hue), inserted(patch, hue)), strict=True
    ):
        check(tested.outputs, scores, 0)
        check(tested.without, clean, 0)
        # of float32 logits: those in float64 may break a tie
        own, shown, without = (o.logit for o in (found.real, tested.outputs, tested.without))
        assert tested.auroc == pytest.approx(pairs(own, shown), abs=1e-6)
        assert tested.auroc_without == pytest.approx(pairs(own, without), abs=1e-6)
    assert found.sets[2].source == f"{patch.spec} + {hue.spec}"


def test_counts_names_and_images_of_ones_own(db, data, spurious) -> None:
    some = db.model_test(0, artefacts=[Hue(), "hue:opacity=0.9"], count=6)
    assert len(some.real) == 6 and {len(tested.outputs) for tested in some.sets} == {6}
    assert [tested.name for tested in some.sets] == ["hue 1", "hue 2", "all artefacts"]
    own = ImageFolder(spurious)
    alone = db.model_test(0, real=own, spurious={"one": data, "two": spurious})
    assert len(alone.real) == 16 and [len(t.outputs) for t in alone.sets] == [41, 16, 57]
    assert alone.sets[1].auroc == pytest.approx(0.5)  # the same images on both sides


def test_images_in_no_folder_are_one_set(db, data) -> None:
    found = db.model_test(0, spurious=[data.read(0)] * 3)
    assert [tested.name for tested in found.sets] == ["spurious"]


def test_a_class_goes_by_its_name_and_images_by_their_folder(db, spurious) -> None:
    found = db.model_test("class1", spurious=str(spurious), artefacts="hue", count=5)
    same = db.model_test(1, spurious=ImageFolder(spurious), artefacts=[Hue()], count=5)
    assert (found.target, found.name) == (same.target, same.name) == (1, "class1")
    assert found.to_pandas().equals(same.to_pandas())


@pytest.mark.slow
def test_results(db, spurious, tmp_path) -> None:
    found = db.model_test(0, spurious=ImageFolder(spurious), artefacts=[Hue()])
    frame = found.to_pandas()
    assert list(frame["set"]) == ["class0", "class1", "all sets", "hue"]
    assert frame["top5"].tolist() == [1.0] * 4 and frame["top1_without"].isna().sum() == 3
    printed = found.to_json()
    assert printed["class"] == "class0" and printed["real"]["images"] == 21
    assert printed["sets"][3]["source"] == Hue().spec
    text = repr(found)
    assert "AUROC" in text and "hue" in text and "class0" in text
    for name in ("test.png", "test.pdf", "test.csv", "test.json"):
        found.save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 200
    assert json.loads((tmp_path / "test.json").read_text())["sets"][0]["top1_without"] is None
    assert "data:image/svg+xml" in found._repr_html_()


def test_equal_logits_make_a_plot_and_an_auroc_of_a_half(db) -> None:
    grey = ImageSequence([Image.new("RGB", (32, 32), (9, 9, 9))] * 2)
    found = db.model_test(0, real=grey, spurious=grey)
    assert found.sets[0].auroc == 0.5
    assert found.plot() is not None


def test_bad_input(db, model, spurious, tmp_path) -> None:
    for kind, says, call in [
        (DataError, "no spurious features", lambda: db.model_test(0)),
        (DataError, "no spurious features", lambda: db.model_test(0, spurious={})),
        (DataError, "has no samples", lambda: db.model_test(2, artefacts=[Hue()])),
        (RelevanceError, "from 0 to 3", lambda: db.model_test(7, artefacts=[Hue()])),
        (RecipeError, "'count' of 'model_test' is 0", lambda: db.model_test(0, count=0)),
    ]:
        with pytest.raises(kind) as error:
            call()
        assert_says(error.value, says)
    one = write_pictures(tmp_path / "one", 4, classes=1)
    alone = sl.build(tmp_path / "db", model, one, WordEmbedder(), ["second"], examples=2)
    with pytest.raises(DataError) as error:
        alone.model_test(0, artefacts=[Hue()])
    assert_says(error.value, "only has samples of the class")


def test_other_weights_of_the_model_can_be_tested(db, data, spurious, tmp_path) -> None:
    other = LittleNet(5)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    found = db.model_test(0, spurious=spurious, weights=tmp_path / "other.pt")
    assert found.model.endswith("other.pt")
    pictures = [data.read(i) for i in range(41) if data.targets[i] == "class0"]
    with torch.no_grad():
        logits = other.double().eval()(torch.stack([to_tensor(p) for p in pictures]).double())
    np.testing.assert_allclose(found.real.logit, logits[:, 0].numpy(), atol=1e-4)
    plain = db.model_test(0, spurious=spurious)
    assert not np.allclose(plain.real.logit, found.real.logit)  # the database's is as it was


@pytest.mark.slow
def test_the_command(db, model, spurious, pictures, tmp_path) -> None:
    own = ["--model", model.spec]

    def semlens(*arguments, code=0):
        ended = CliRunner().invoke(app, ["classes", "model-test", str(db.path), *arguments])
        assert ended.exit_code == code, ended.output
        return ended

    ended = semlens(
        "--target", "class1", "--spurious", str(spurious), "--artefact", "patch:red",
        "--artefact", "hue", "--save", str(tmp_path / "test.png"), "--json", *own,
    )  # fmt: skip
    printed = json.loads(ended.stdout)
    names = ["class0", "class1", "all sets", "patch", "hue", "all artefacts"]
    assert [tested["set"] for tested in printed["sets"]] == names
    assert 0 <= printed["sets"][0]["low"] <= printed["sets"][0]["high"] <= 1
    assert (tmp_path / "test.png").stat().st_size > 5000
    weights = tmp_path / "other.pt"
    torch.save(LittleNet(5).state_dict(), weights)
    args = ("--target", "class1", "--real", str(pictures), "--spurious", str(spurious), "--json")
    before = json.loads(semlens(*args, *own).stdout)
    after = json.loads(semlens(*args, *own, "--weights", str(weights)).stdout)
    assert before["real"]["images"] == after["real"]["images"] == 41
    assert before["real"]["logit"] != after["real"]["logit"] and "other.pt" in after["model"]
    for arguments, says in [
        (["--target", "c", "--artefact", "hue"], "has no samples"),
        (["--target", "nobody", "--artefact", "hue"], "Unknown class"),
        (["--target", "class1"], "no spurious features"),
        (["--target", "class1", "--artefact", "glow"], "Unknown artefact"),
        (["--target", "class1", "--spurious", "/nowhere"], "is not a folder"),
        (["--target", "class1", "--artefact", "hue", "--save", "x.txt"], "cannot be written"),
    ]:
        ended = semlens(*arguments, *own, code=1)
        assert says in " ".join(ended.output.split())


def test_one_logit_is_a_sigmoids():
    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.gain * x.mean((1, 2, 3), keepdim=True).flatten(1) - 0.5

    images = ImageSequence([Image.new("RGB", (8, 8), (level,) * 3) for level in (0, 250)])
    found = _outputs(SubjectModel(One(), to_tensor, "v"), 0, 2, "x", images.read, range(2))
    assert found.rank.tolist() == [1 + int(logit < 0) for logit in found.logit]
    np.testing.assert_allclose(found.probability, 1 / (1 + np.exp(-found.logit)), rtol=1e-5)


def test_no_images_no_such_logit_and_other_images(db, data, model):
    with pytest.raises(DataError, match="no images for 'x'"):
        _outputs(model, 0, 2, "x", data.read, [])
    with pytest.raises(ModelError, match="no logit 7"):
        _outputs(model, 7, 2, "x", data.read, [0])
    other = ImageSequence([data.read(n) for n in range(len(data))])
    with pytest.raises(DataError, match="not those of the database"):
        sl.open(db.path, model=model, images=other).model_test(0, artefacts=[Hue()])
