"""Samples that carry a planted mark are found; the plane is that of an SVM made by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import WordEmbedder, assert_says, to_tensor
from PIL import Image
from scipy.optimize import minimize
from torch import nn
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.errors import DataError, LayerError, StaleError
from semlens.lenses.correct.affected_samples import SVM_C, affected, signed_distances
from semlens.lenses.correct.cav import standardise
from semlens.lenses.correct.component_files import read_affected
from semlens.types import Component


class Colours(nn.Module):
    """Channels that see red, green and blue, the last ones weakly."""

    def __init__(self) -> None:
        super().__init__()
        self.eyes = nn.Conv2d(3, 5, 3, 2, 1)
        self.head = nn.Linear(5, 2)
        with torch.no_grad():
            self.eyes.weight.zero_()
            self.eyes.bias.fill_(0.1)
            for channel, (red, green, blue) in enumerate(
                ((1, -1, -1), (0, 1, 0), (0, 0, 1), (0.5, -0.4, -0.5), (0.2, 0.1, 0))
            ):
                self.eyes.weight[channel, :, 1, 1] = torch.tensor([red, green, blue])
            torch.manual_seed(0)
            self.head.weight.normal_()

    def forward(self, x):
        return self.head(torch.relu(self.eyes(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Sixty grey noisy images of two classes; a red sticker on most images of the first."""
    folder = tmp_path_factory.mktemp("planted")
    draw = np.random.default_rng(0)
    marked = []
    for number in range(60):
        grey = draw.integers(40, 200, (40, 48, 1))
        pixels = np.clip(grey + draw.integers(-25, 25, (40, 48, 3)), 0, 255).astype(np.uint8)
        name = f"class{number % 2}/{number:02d}.png"
        if number % 2 == 0 and number % 5:
            top, left = draw.integers(0, 24), draw.integers(0, 30)
            pixels[top : top + 16, left : left + 16] = (230, 20, 20)
            marked.append(name)
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return folder, marked


@pytest.fixture(scope="module")
def model():
    return sl.SubjectModel(
        Colours().eval(), to_tensor, "32 bilinear", "python:colours", ["class0", "class1"]
    )


@pytest.fixture(scope="module")
def db(tmp_path_factory, planted, model):
    path = tmp_path_factory.mktemp("db") / "db"
    sl.build(path, model, planted[0], WordEmbedder(), ["eyes"], examples=8, signs="positive")
    return sl.open(path, model=model, images=planted[0], embedder=WordEmbedder())


RED = [Component("eyes", 0), Component("eyes", 3)]


@pytest.mark.slow
def test_all_planted_samples_are_flagged_and_no_other(db, planted):
    folder, marked = planted
    found = affected(db, RED, all_data=True)
    assert sorted(found.paths) == sorted(marked)
    frame = found.to_pandas()
    assert list(frame.columns) == ["sample", "path", "class", "score", "flagged"]
    assert len(frame) == found.searched == 60
    assert frame["score"].is_monotonic_decreasing
    assert (frame["flagged"] == (frame["score"] > found.threshold)).all()
    assert found.samples == [sl.ImageFolder(folder).ids.index(path) for path in found.paths]
    assert set(found.per_class()["class"]) == {"class0", "class1"}
    assert found.per_class().iloc[0].tolist() == ["class0", len(marked), 30]
    assert len(found.pictures) == 16
    assert f"{len(marked)} of 60 samples" in repr(found)


@pytest.mark.slow
def test_without_a_model_there_are_the_concept_examples(db):
    found = affected(db, RED)
    examples = [{e.sample for e in db.examples_of(db.row(component))} for component in RED]
    assert set(found.frame["sample"]) == examples[0] | examples[1]
    score = dict(zip(found.frame["sample"], found.frame["score"], strict=True))
    for sample in score:
        assert score[sample] == sum(sample in part for part in examples) / 2
    assert set(found.samples) == {sample for sample, value in score.items() if value >= 0.5}
    assert not found.from_model
    assert "concept examples" in repr(found)
    assert affected(db, RED[:1]).threshold == 1.0
    five = affected(db, [Component("eyes", index) for index in range(5)])
    assert five.threshold == 3 / 5
    assert (five.frame["flagged"] == (five.frame["score"] * 5 > 2.5)).all()


def test_the_plane_is_the_optimum_of_the_machine():
    draw = np.random.default_rng(3)
    features = standardise(draw.normal(size=(40, 4)))[0]
    seeds = np.arange(40) < 9
    features[seeds] += 1.2
    sign = np.where(seeds, 1.0, -1.0)
    weight = np.where(seeds, 40 / (2 * 9), 40 / (2 * 31))

    def loss(plane: np.ndarray) -> float:
        # squared hinge; the intercept is a weight like the others (scikit-learn's LinearSVC)
        margin = np.maximum(0, 1 - sign * (features @ plane[:4] + plane[4]))
        return 0.5 * plane @ plane + SVM_C * float(weight @ margin**2)

    plane = minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9}).x
    expected = (features @ plane[:4] + plane[4]) / np.linalg.norm(plane[:4])
    np.testing.assert_allclose(signed_distances(features, seeds), expected, atol=2e-3)


def test_a_constant_column_stays_zero():
    values = np.stack([np.arange(5.0), np.full(5, 3.0)], 1)
    found, spread = standardise(values)
    np.testing.assert_allclose(spread, [np.sqrt(2), 0])
    np.testing.assert_allclose(found[:, 0], (np.arange(5) - 2) / np.sqrt(2))
    assert (found[:, 1] == 0).all()
    # of 0.1 the mean is not exactly the same number
    assert (standardise(np.full((7, 1), 0.1))[0] == 0).all()


def test_components_in_every_form(db):
    expected = affected(db, RED).frame
    for given in (["eyes:0", "eyes:3"], [RED[0], "eyes:3", "eyes:0"]):
        assert db.affected(given).frame.equals(expected)
    assert db.affected("eyes:0").components == (RED[0],)
    hits = db.search("x", top=2)
    assert db.affected(hits).components == tuple(hits.components)


def test_bad_input(db, planted, images):
    with pytest.raises(LayerError) as error:
        affected(db, [])
    assert_says(error.value, "No component is given", "LAYER:INDEX", "semlens search")
    with pytest.raises(LayerError, match="eyes:77"):
        affected(db, [Component("eyes", 77)])
    with pytest.raises(DataError, match="not those of the database"):
        affected(sl.open(db.path, model=db.model, images=images), RED, all_data=True)
    other = sl.SubjectModel(Colours(), to_tensor, "another version")
    with pytest.raises(StaleError):
        sl.open(db.path, model=other)


@pytest.mark.slow
def test_results_can_be_saved_and_read_back(db, tmp_path):
    found = affected(db, RED, all_data=True)
    found.save(tmp_path / "affected.csv")
    assert read_affected(tmp_path / "affected.csv") == found.paths
    (tmp_path / "list.txt").write_text("\n".join(found.paths[:3]) + "\n")
    assert read_affected(tmp_path / "list.txt") == found.paths[:3]
    (tmp_path / "wrong.csv").write_text("name\nx\n")
    with pytest.raises(DataError, match="wrong.csv"):
        read_affected(tmp_path / "wrong.csv")
    for name in ("plot.png", "examples.svg"):
        (found if name == "plot.png" else affected(db, RED)).save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000


def test_the_command(db, planted, tmp_path):
    runner = CliRunner()
    result = runner.invoke(app, ["correct", "affected", str(db.path), "eyes:0", "eyes:3", "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["components"] == ["eyes:0", "eyes:3"]
    assert not said["from_model"]
    assert [row["path"] for row in said["flagged"]] == affected(db, RED).paths
    table = tmp_path / "out.csv"
    result = runner.invoke(
        app, ["correct", "affected", str(db.path), "eyes:0", "--save", str(table)]
    )
    assert result.exit_code == 0, result.output
    assert set(pd.read_csv(table)["path"]) == set(affected(db, RED[:1]).frame["path"])
    result = runner.invoke(app, ["correct", "affected", str(db.path), "eyes:0", "--save", "x.txt"])
    assert result.exit_code == 1
    assert ".csv" in result.stderr
