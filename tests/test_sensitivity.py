"""Accuracy with and without artefacts against counts made by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import WordEmbedder, assert_says, to_tensor
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.artefact import Hue, Patch, WithArtefact
from semlens.errors import DataError, LayerError, RecipeError
from semlens.lenses.accuracy import LabelledImages
from semlens.lenses.correct.ablation_preview import ablation_preview
from semlens.lenses.correct.artefact_sensitivity import (
    accuracies,
    sensitivity,
    with_artefacts,
)
from semlens.lenses.statistics.intervals import change_interval, wilson_interval
from semlens.types import Component

CLASSES = ["dark", "bright"]


class Brightness(nn.Module):
    """Bright or dark by the mean of green; a red channel speaks for 'dark'."""

    def __init__(self, red: float = 3.0) -> None:
        super().__init__()
        self.eyes = nn.Conv2d(3, 2, 1)
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.eyes.weight.zero_()
            self.eyes.bias.copy_(torch.tensor([1.0, 0.0]))
            self.eyes.weight[0, 1, 0, 0] = 1.0
            self.eyes.weight[1, :, 0, 0] = torch.tensor([1.0, -1.0, 0.0])
            self.head.weight.copy_(torch.tensor([[-2.0, red], [2.0, 0.0]]))
            self.head.bias.copy_(torch.tensor([2.0, -2.0]))

    def forward(self, x):
        return self.head(torch.relu(self.eyes(x)).mean((2, 3)))


def model(red: float = 3.0) -> sl.SubjectModel:
    return sl.SubjectModel(Brightness(red).eval(), to_tensor, f"{red}", "python:b", CLASSES)


@pytest.fixture(scope="module")
def images() -> sl.ImageSequence:
    draw = np.random.default_rng(0)
    items = []
    for number in range(40):
        level = draw.integers(60, 130) if number % 2 == 0 else draw.integers(126, 200)
        items.append((Image.new("RGB", (20, 24), (int(level),) * 3), number % 2))
    return sl.ImageSequence(items, classes=CLASSES)


@pytest.fixture(scope="module")
def db(tmp_path_factory, images):
    path = tmp_path_factory.mktemp("sensitivity") / "db"
    return sl.build(path, model(), images, WordEmbedder(), ["eyes"], examples=3)


def labelled(images, subject=None, **chosen) -> LabelledImages:
    return LabelledImages.of(images, subject or model(), **chosen)


def answers(subject: sl.SubjectModel, images) -> np.ndarray:
    """Logits, one image at a time."""
    with torch.no_grad():
        inputs = [subject.preprocess(images.read(i)) for i in range(len(images))]
        rows = [subject.module(each[None])[0] for each in inputs]
    return torch.stack(rows).double().numpy()


@pytest.mark.slow
def test_every_number_is_a_count(images, db):
    right = np.arange(40) % 2
    red = Component("eyes", 1)
    found = db.sensitivity(
        ["hue:opacity=0.4", Patch(size=0.6)], prune="eyes:1", weights={"retrained": model(0.3)},
        seed=3,
    )  # fmt: skip
    assert found.models == ["vanilla", "pruned", "retrained"]
    assert found.sets == ["clean", "hue", "patch"]
    sets = {
        "clean": images,
        "hue": WithArtefact(images, Hue(opacity=0.4), seed=3),
        "patch": WithArtefact(images, Patch(size=0.6), seed=3),
    }
    frame = found.to_pandas().set_index(["model", "images", "class"])
    assert len(frame) == 3 * 3 * 3
    drops: dict[str, dict[str, float]] = {}
    for name in found.models:
        subject = model(0.3) if name == "retrained" else model()
        with sl.pruned(subject, [red] if name == "pruned" else []):
            logits = {title: answers(subject, data) for title, data in sets.items()}
        before = logits["clean"].argmax(1) == right
        for title, values in logits.items():
            hit = values.argmax(1) == right
            drops.setdefault(title, {})[name] = hit.mean() - before.mean()
            for label, mask in (("all", right >= 0), ("dark", right == 0), ("bright", right == 1)):
                row = frame.loc[(name, title, label)]
                assert row["samples"] == mask.sum()
                assert row["accuracy"] == pytest.approx(hit[mask].mean())
                assert row["change"] == pytest.approx(hit[mask].mean() - before[mask].mean())
                own = values[np.arange(40), right]
                assert row["logit"] == pytest.approx(own[mask].mean(), abs=1e-5)
                other = values[np.arange(40), 1 - right]
                assert row["other_logit"] == pytest.approx(other[mask].mean(), abs=1e-5)
                assert row["low"] <= row["accuracy"] <= row["high"]
                assert row["change_low"] <= row["change"] <= row["change_high"]
    assert drops["patch"]["vanilla"] < -0.1  # the red square does harm
    for name in found.models:
        expected = 1 - drops["patch"][name] / drops["patch"]["vanilla"]
        assert frame.loc[(name, "patch", "all"), "removed"] == pytest.approx(expected)
    assert np.isnan(frame.loc[("vanilla", "clean", "all"), "removed"])
    assert frame.loc[("pruned", "patch", "all"), "removed"] > 0.5


def test_intervals():
    # Wilson 1927 for 8 of 10 and 0 of 5; values of statsmodels' proportion_confint(method="wilson")
    assert wilson_interval(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    assert wilson_interval(0, 5) == pytest.approx((0.0, 0.434482), abs=1e-5)
    now, before = np.arange(80) < 56, np.arange(80) < 48
    # Newcombe 1998, table II (a), method 10: 56/70 against 48/80
    assert change_interval(np.arange(70) < 56, before, paired=False) == pytest.approx(
        (0.2, 0.0524, 0.3339), abs=1e-4
    )
    change, low, high = change_interval(now, before, paired=True)
    # Bonett and Price 2012: 8 of 80 gained, none lost
    gained, lost = (8 + 1) / 82, (0 + 1) / 82
    half = 1.959964 * np.sqrt((gained + lost - (gained - lost) ** 2) / 82)
    expected = (0.1, gained - lost - half, gained - lost + half)
    assert (change, low, high) == pytest.approx(expected)
    assert np.isnan(change_interval(now, np.zeros(0, bool), paired=True)).all()


def test_sets_of_real_images(images):
    red = sl.ImageSequence(
        [(Image.new("RGB", (20, 20), (220, 150, 150)), 1)] * 6, classes=CLASSES, name="red"
    )
    found = accuracies({"a": model(6.0)}, {"clean": labelled(images), "red": labelled(red)})
    frame = found.to_pandas().set_index(["images", "class"])
    assert frame.loc[("red", "all"), "samples"] == 6
    before = frame.loc[("clean", "all"), "accuracy"]
    hit = answers(model(6.0), red).argmax(1) == 1
    assert frame.loc[("red", "all"), "change"] == pytest.approx(hit.mean() - before)
    assert ("red", "dark") not in frame.index


def test_the_model_is_as_it_was(images):
    subject = model()
    before = answers(subject, images)
    sets = with_artefacts({"clean": labelled(images)}, [Hue()])
    accuracies({"a": subject}, sets, prune=[Component("eyes", 1)])
    np.testing.assert_array_equal(answers(subject, images), before)


@pytest.mark.slow
def test_results_are_drawn_and_saved(db, tmp_path):
    found = sensitivity(db, [Patch(size=0.5), Hue()], weights={"b": model(0.0)})
    assert "Accuracy over all classes" in repr(found)
    for end in ("png", "csv", "json"):
        found.save(tmp_path / f"x.{end}")
        assert (tmp_path / f"x.{end}").stat().st_size > 300
    assert len(found.plot().axes) == 1 + 3  # all classes, and the two classes
    assert len(sensitivity(db).plot().axes) == 1


def test_bad_input(images, db):
    clean = labelled(images)
    with pytest.raises(DataError, match="The models are none"):
        accuracies({}, {"clean": clean})
    with pytest.raises(DataError) as error:
        accuracies({"a": model(), "pruned": model()}, {"x": clean}, prune=[Component("eyes", 1)])
    assert_says(error.value, "a, pruned, pruned", "different names", "Rename")
    with pytest.raises(DataError, match="Two sets of images"):
        db.sensitivity([Hue(), Hue()])
    with pytest.raises(DataError, match="No images"):
        with_artefacts({}, [])
    nameless = sl.ImageSequence([Image.new("RGB", (9, 9))])
    with pytest.raises(DataError, match="has a class of the model"):
        db.sensitivity(images=nameless)
    for wrong in (7, -1):
        with pytest.raises(DataError, match=f"logit {wrong}"):
            accuracies({"a": model()}, {"clean": labelled(images, targets=[wrong] * 40)})
    with pytest.raises(RecipeError, match="'seed' of 'sensitivity' is -1"):
        db.sensitivity([Hue()], seed=-1)
    with pytest.raises(DataError, match="-1 is not a valid seed"):
        WithArtefact(images, Hue(), seed=-1)
    for name in ("vanilla", "pruned"):
        with pytest.raises(DataError, match=f"'{name}'|vanilla, pruned, {name}"):
            db.sensitivity(prune="eyes:1", weights={name: model()})


def test_samples_by_set(images):
    other = sl.ImageSequence([(images.read(n), n % 2) for n in range(12)], classes=CLASSES)
    sets = {
        "clean": labelled(images, samples=[0, 1, 2]), "other": labelled(other, samples=[4, 5])
    }  # fmt: skip
    found = accuracies({"a": model()}, with_artefacts(sets, [Hue()]))
    frame = found.frame.query("`class` == 'all'")
    assert frame["samples"].tolist() == [3, 2, 3]


def test_a_preview_counts_the_same(db, images):
    """Of the model with and without a component, on drawn images, by class name and texts."""
    found = ablation_preview(
        db, "bright", "eyes:1", artefact="patch:red:size=0.6", per_class=9, seed=4
    )
    assert (found.target, found.components) == (1, (Component("eyes", 1),))
    assert np.bincount(found.right).tolist() == [9, 9]
    sets = {"clean": labelled(images, samples=found.samples.tolist())}
    table = accuracies(
        {"a": model()}, with_artefacts(sets, [Patch((255, 0, 0), size=0.6)], seed=4),
        prune=[Component("eyes", 1)],
    ).frame.query("`class` == 'all'")  # fmt: skip
    shares = [found.accuracy(part) for part in found.sets]
    assert [part.name for part in found.sets] == ["clean", "patch"]
    expected = [getattr(one, when) for when in ("before", "after") for one in shares]
    assert table["accuracy"].tolist() == expected
    with pytest.raises(RecipeError, match="per_class"):
        ablation_preview(db, 1, "eyes:1", per_class=0)
    with pytest.raises(LayerError, match="No component is given"):
        ablation_preview(db, 1, [])


@pytest.mark.slow
def test_the_databases_own_classes_count(tmp_path, images):
    """Names that the model does not know, mapped by a file when the database was built."""
    items = [(images.read(n), n % 2) for n in range(12)]
    renamed = sl.ImageSequence(items, classes=["night", "day"])
    classes = tmp_path / "classes.csv"
    classes.write_text("night,0\nday,1\n")
    db = sl.build(
        tmp_path / "db", model(), renamed, WordEmbedder(), ["eyes"], examples=3, classes=classes
    )
    found = db.sensitivity().frame.query("`class` == 'all'")
    assert found["samples"].tolist() == [12]
    right = answers(model(), renamed).argmax(1) == np.arange(12) % 2
    assert found["accuracy"].tolist() == [pytest.approx(right.mean())]


@pytest.mark.slow
def test_the_command(images, tmp_path):
    for name, number in (("train", 8), ("test", 12)):
        for sample in range(number):
            path = tmp_path / "data" / CLASSES[sample % 2] / f"{name}-{sample:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            images.read(sample).save(path)
    code = tmp_path / "net.py"
    code.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(__import__('pathlib').Path(__file__).parent)!r})\n"
        "from test_sensitivity import Brightness, CLASSES, to_tensor\n"
        "def make():\n    return Brightness(), to_tensor, CLASSES\n"
    )
    spec = f"{code}:make"
    db = sl.build(tmp_path / "db", spec, tmp_path / "data", WordEmbedder(), ["eyes"], examples=3)
    from semlens.lenses.correct.corrected_model import save_weights

    better = save_weights(tmp_path / "better.safetensors", Brightness(0.0).state_dict())
    line = ["correct", "sensitivity", str(db.path), "--model", spec, "--json"]
    result = CliRunner().invoke(
        app,
        [*line, "--artefact", "hue", "--prune", "eyes:1", "--weights", str(better)]
        + ["--only", "test-"],
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["models"] == ["vanilla", "pruned", "better"]
    assert said["images"] == ["clean", "hue"]
    assert {row["samples"] for row in said["rows"] if row["class"] == "all"} == {12}
    folder = tmp_path / "data"
    result = CliRunner().invoke(
        app, [*line, "--data", f"a={folder}", "--data", f"b={folder}", "--weights", f"x={better}"]
    )
    said = json.loads(result.stdout)
    assert (said["models"], said["images"]) == (["vanilla", "x"], ["a", "b"])
    assert [row["change"] for row in said["rows"]] == [0.0] * len(said["rows"])
    result = CliRunner().invoke(app, [*line, "--data", f"a={folder}", "--data", f"a={folder}"])
    assert result.exit_code == 1
    assert "The name 'a' is used twice" in result.stderr
