"""Borders pasted onto other classes: planted surroundings, and where there is nothing to find."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ColourEmbedder, assert_says, write_pictures
from PIL import Image
from scipy.stats import ttest_ind
from torch import nn
from typer.testing import CliRunner

import semlens as sl
from semlens.analysis.border_swap import border_swap, leave_one_out, paste_border
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.errors import DataError, RelevanceError

CLASSES = [f"class{i}" for i in range(7)]
MODEL = """
import torch
from conftest import to_tensor
from test_border_swap import CLASSES, Surroundings

def make():
    return Surroundings(), to_tensor, CLASSES
"""


class Surroundings(nn.Module):
    """Random logits of the middle; the first class also rests on red borders."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(3, 8, 3, 2, 1)
        self.head = nn.Linear(8, len(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        middle = x[:, :, 8:24, 8:24]
        logits = self.head(torch.relu(self.features(middle)).mean((2, 3)))
        red = x[:, 0] - x[:, 1]
        border = (red.sum((1, 2)) - red[:, 5:27, 5:27].sum((1, 2))) / (32 * 32 - 22 * 22)
        return logits + torch.nn.functional.one_hot(torch.tensor(0), len(CLASSES)) * border[:, None]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Two databases of the same model: red borders on the first class, or on none."""
    folder = tmp_path_factory.mktemp("borders")
    (folder / "model.py").write_text(MODEL)
    write_pictures(folder / "clean", 84, classes=len(CLASSES))
    for path in sorted((folder / "clean").rglob("*.png")):
        image = Image.open(path)
        if path.parent.name == "class0":
            frame = Image.new("RGB", image.size, (255, 0, 0))
            image = paste_border(image, frame, 0.12)
        target = folder / "planted" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target)
    return {
        name: sl.build(
            folder / f"{name}.db", f"{folder / 'model.py'}:make", ImageFolder(folder / name),
            ColourEmbedder(), ["features"], examples=2, crop="none",
        )
        for name in ("clean", "planted")
    }  # fmt: skip


def test_a_planted_border_is_detected_and_no_other_class(worlds):
    result = worlds["planted"].border_swap(count=24)
    assert result.detected == ["class0"]
    first = result.frame.iloc[0]
    assert first["class"] == "class0"
    assert first["gain"] > 5 * result.frame.loc[result.frame["class"] != "class0", "gain"].max()
    assert len(result.frame) == 2 * len(CLASSES)
    assert result.frame["adjusted"].tolist() == pytest.approx(
        np.minimum(1, 14 * result.frame["p_value"])
    )


def test_nothing_is_detected_where_nothing_is_planted(worlds):
    assert worlds["clean"].border_swap(count=24).detected == []


def test_the_gain_is_the_mean_difference_of_logits(worlds):
    """The oracle: one image after the other, by the definition."""
    from semlens.analysis.border_swap import _draw

    db = worlds["planted"]
    result = border_swap(db, "class0", width=0.2, count=8)
    logit = np.array([float(name[5:]) for name in db.samples["target"]])
    total = 0.0
    for receiver, donor, third in zip(*_draw(logit, 0, 8, 0), strict=True):
        assert (logit[receiver], logit[donor]) == (logit[receiver], 0)
        assert logit[receiver] != 0
        assert logit[third] not in (0, logit[receiver])
        for sign, source in ((1, donor), (-1, third)):
            image = paste_border(db.images.read(int(receiver)), db.images.read(int(source)), 0.2)
            with torch.no_grad():
                total += sign * float(db.model.module(db.model.preprocess(image)[None])[0, 0])
    assert len(result.frame) == 1
    assert result.frame["gain"][0] == pytest.approx(total / 8, abs=1e-5)


def test_a_border_replaces_the_outer_ring_only():
    image = Image.new("RGB", (40, 20), (0, 0, 0))
    pasted = np.asarray(paste_border(image, Image.new("RGB", (7, 9), (9, 9, 9)), 0.1))
    inner = np.zeros((20, 40), bool)
    inner[2:18, 4:36] = True
    assert (pasted[inner] == 0).all()
    assert (pasted[~inner] == 9).all()


def test_p_values_are_those_of_a_t_test_of_one_against_the_others():
    values = np.random.default_rng(0).normal(size=9)
    expected = [
        ttest_ind([values[i]], np.delete(values, i), alternative="greater").pvalue for i in range(9)
    ]
    assert leave_one_out(values) == pytest.approx(np.array(expected))
    assert leave_one_out(np.ones(6)).tolist() == [1.0] * 6
    assert leave_one_out(np.array([0.0] * 5 + [1.0]))[5] == 0.0


@pytest.mark.parametrize(
    ("kind", "most"), [("normal", 0.05), ("uniform", 0.05), ("skewed", 0.25), ("t3", 0.25)]
)
def test_error_rates_where_there_is_nothing_to_find(kind, most):
    """Family-wise over 12 classes: 5 % for normal gains, more for heavy right tails."""
    random = np.random.default_rng(1)
    draw = {
        "normal": lambda: random.normal(size=12),
        "uniform": lambda: random.uniform(size=12),
        "skewed": lambda: random.gamma(4, size=12),
        "t3": lambda: random.standard_t(3, size=12),
    }[kind]
    draws = 2000
    rate = np.mean([leave_one_out(draw()).min() * 12 < 0.05 for _ in range(draws)])
    assert rate < most + 3 * np.sqrt(most * (1 - most) / draws), rate
    if kind == "normal":
        assert rate > 0.035, rate


def test_bad_input_is_refused(worlds, tmp_path):
    db = worlds["clean"]
    with pytest.raises(RelevanceError) as error:
        border_swap(db, "dog")
    assert_says(error.value, "dog")
    few = sl.build(
        tmp_path / "few", db.model, ImageFolder(write_pictures(tmp_path / "p", 8, classes=2)),
        ColourEmbedder(), ["features"], examples=2, crop="none",
    )  # fmt: skip
    with pytest.raises(DataError) as error:
        border_swap(few)
    assert_says(error.value, "2 classes", "at least 5", "more classes")


def test_the_command_prints_and_draws(worlds, tmp_path):
    db = worlds["planted"]
    arguments = [
        "border-swap", str(db.path), "--model", db.manifest.model.spec, "--target", "class0",
        "--width", "0.15", "--count", "24", "--json",
        "--save", str(tmp_path / "b.png"),
    ]  # fmt: skip
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0, ended.output
    printed = json.loads(ended.stdout)
    assert printed["detected"] == ["class0"]
    assert {row["class"] for row in printed["classes"]} == {"class0"}
    assert Image.open(tmp_path / "b.png").width > 500
    table = db.border_swap(count=24, width=0.15)
    table.save(tmp_path / "b.csv")
    assert pd.read_csv(tmp_path / "b.csv")["class"].tolist() == table.frame["class"].tolist()
    assert "class0" in repr(table)
