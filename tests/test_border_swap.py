"""Borders pasted onto other classes: planted surroundings, and where there is nothing to find."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ColourEmbedder, assert_says, to_tensor, write_pictures
from PIL import Image, ImageDraw
from scipy import stats
from torch import nn
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.errors import DataError, ModelError, RecipeError, RelevanceError
from semlens.lenses.statistics.excess import excess_over_others
from semlens.lenses.swap.pairs import draw_pairs, plan_swap
from semlens.lenses.swap.parts import border_region
from semlens.models.subject import SubjectModel, input_pictures

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
            x, y = round(0.12 * image.width), round(0.12 * image.height)
            inner = image.crop((x, y, image.width - x, image.height - y))
            ImageDraw.Draw(image).rectangle([0, 0, *image.size], fill=(255, 0, 0))
            image.paste(inner, (x, y))
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


def true_logits(database) -> np.ndarray:
    return np.array([float(name[5:]) for name in database.samples["target"]])


@pytest.mark.slow
def test_a_planted_border_is_detected_and_no_other_class(worlds):
    result = worlds["planted"].swap(part="border", count=24)
    assert result.detected == ["class0"]
    first = result.frame.iloc[0]
    assert first["class"] == "class0"
    assert first["gain"] > 5 * result.frame.loc[result.frame["class"] != "class0", "gain"].max()
    assert len(result.frame) == 2 * len(CLASSES)
    assert result.frame["adjusted"].tolist() == pytest.approx(
        np.minimum(1, 14 * result.frame["p_value"])
    )


@pytest.mark.slow
def test_nothing_is_detected_where_nothing_is_planted(worlds):
    assert worlds["clean"].swap(part="border", count=24).detected == []


def test_gains_and_rises_are_mean_differences(worlds):
    """The oracle: one image after the other, by the definition."""
    db = worlds["planted"]
    result = db.swap("class0", part="border", size=0.2, count=8)
    logit = true_logits(db)
    pairs = draw_pairs(logit, 0, 8, 0)
    gains, readouts = [], []
    for receiver, donor, third in zip(pairs.receivers, pairs.donors, pairs.third, strict=True):
        assert (logit[donor], logit[third] == logit[receiver]) == (0, False)
        assert 0 not in (logit[receiver], logit[third])
        runs = []
        for source in (donor, third):
            image, pasted = (
                db.model.preprocess(db.images.read(int(i))).numpy().copy()
                for i in (receiver, source)
            )
            pasted[:, 6:26, 6:26] = image[:, 6:26, 6:26]
            with torch.no_grad():
                batch = torch.from_numpy(pasted)[None]
                maps = db.model.module.features(batch[:, :, 8:24, 8:24])[0].double()
                runs.append((float(db.model.module(batch)[0, 0]), maps.mean((1, 2)).numpy()))
        gains.append(runs[0][0] - runs[1][0])
        readouts.append((runs[0][1], runs[1][1]))
    assert len(result.frame) == 1
    assert result.frame["gain"][0] == pytest.approx(np.mean(gains), abs=1e-5)
    of_class, of_third = np.moveaxis(readouts, 1, 0)
    rise = of_class.mean(0) - of_third.mean(0)
    effect = rise / np.sqrt((of_class.var(0) + of_third.var(0)) / 2)
    rise, effect = (np.concatenate([one, -one]) for one in (rise, effect))  # both signs
    rows = [db.row(component) for component in result.excited("class0")]
    assert result.components["effect"].is_monotonic_decreasing
    assert result.components["rise"].to_numpy() == pytest.approx(rise[rows], abs=1e-5)
    assert result.components["effect"].to_numpy() == pytest.approx(effect[rows], abs=1e-4)
    assert set(rows) == set(np.argsort(-effect)[: len(rows)])


def test_a_border_is_the_outer_ring():
    region = border_region(20, 40, 0.1).numpy()
    inner = np.zeros((20, 40), bool)
    inner[2:18, 4:36] = True
    assert (region == ~inner).all()


def test_no_donor_occurs_twice_while_there_are_others():
    logit = np.repeat(np.arange(5.0), 12)
    pairs = draw_pairs(logit, 3, 30, 0)
    assert pairs.different_donors == 12
    assert len(set(pairs.donors[:12].tolist())) == 12
    assert len(set(pairs.receivers.tolist())) == 30
    again = draw_pairs(logit, 3, 30, 0)
    assert (again.third == pairs.third).all()


def test_the_number_of_classes_is_bounded(worlds):
    """Without a target, as many classes are tested as there are others to compare with."""
    result = worlds["clean"].swap(part="border", count=8, reference=5, size=0.2)
    assert len(result.frame) == 5
    assert "of 5 of the 7 classes" in result.summary
    plan = plan_swap(worlds["clean"], [2, 6], 8, 5, 0)
    assert plan.tested == [2, 6]
    assert len(plan.pairs) == 7


def test_a_class_at_the_margin_is_compared_with_the_others_by_welch():
    random = np.random.default_rng(0)
    own, other = random.normal(9, 1, 9), random.normal(3, 3, 14)
    value, p_value = excess_over_others([own, other], 1.5, 0.3)
    assert value[0] == pytest.approx(own.mean() - other.mean())
    welch = stats.ttest_ind(own - 0.3, 1.5 * other, equal_var=False, alternative="greater")
    assert p_value[0] >= welch.pvalue - 1e-12  # larger where skewness demands it
    symmetric = [np.concatenate([one, 2 * one.mean() - one]) for one in (own, other)]
    welch = stats.ttest_ind(
        symmetric[0] - 0.3, 1.5 * symmetric[1], equal_var=False, alternative="greater"
    )
    corrected = excess_over_others(symmetric, 1.5, 0.3).p_value[0]
    # without skewness, Hall's score is larger by the sixth of none: Welch's decides
    assert corrected == pytest.approx(welch.pvalue)
    # others that lose have the factor 1: they do not lower the bar
    losing = excess_over_others([own, -other], 5.0, 0.3).p_value[0]
    welch = stats.ttest_ind(own - 0.3, -other, equal_var=False, alternative="greater")
    assert losing >= welch.pvalue - 1e-12 and losing < 1e-3
    same = excess_over_others([np.ones(4), np.zeros(4), np.zeros(4)], 1.5, 0.3).p_value
    assert same.tolist() == [0, 1, 1]


IMAGES = {
    "normal": lambda random, size: random.normal(size=size),
    "t3": lambda random, size: random.standard_t(3, size=size) / np.sqrt(3),
    "exponential": lambda random, size: random.exponential(size=size) - 1,
    "falling exponential": lambda random, size: 1 - random.exponential(size=size),
}
"""Gains of a class's images, with mean 0 and standard deviation 1."""


@pytest.mark.parametrize("classes", [5, 30])
@pytest.mark.parametrize("kind", list(IMAGES))
def test_error_rates_for_a_class_at_the_margin(kind, classes):
    """The worst case that counts as nothing to find, with three times the spread, family-wise."""
    random, draws, alarms = np.random.default_rng(1), 1500, 0
    for _ in range(draws):
        values = IMAGES[kind](random, (classes, 64))
        values[0] = 0.5 + 3 * values[0]
        alarms += excess_over_others(list(values), 1.5, 0.5).p_value.min() * classes < 0.05
    assert stats.binom.sf(alarms - 1, draws, 0.05) > 1e-3, alarms / draws


def test_a_class_half_a_deviation_beyond_the_margin_is_detected():
    random, found = np.random.default_rng(2), 0
    for _ in range(300):
        values = random.normal(0.2, size=(12, 64))
        values[0] += 0.1 + 0.5 + 0.6
        found += excess_over_others(list(values), 1.5, 0.5).p_value[0] * 12 < 0.05
    assert found > 270


def test_pictures_undo_the_normalisation(worlds):
    db = worlds["clean"]
    image = db.images.read(3)
    inputs = torch.stack([to_tensor(image), to_tensor(image.transpose(Image.Transpose.ROTATE_180))])
    picture, turned = input_pictures(db.model, inputs)
    small = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), int)
    assert np.abs(np.asarray(picture, int) - small).max() <= 1
    assert turned.size == (32, 32)

    def by_itself(picture: Image.Image) -> torch.Tensor:
        values = to_tensor(picture)
        return (values - values.mean()) / values.std().clamp(min=1e-3)

    own = SubjectModel(db.model.module, by_itself, "own scale", classes=CLASSES)
    (shown,) = input_pictures(own, by_itself(image)[None])
    assert np.asarray(shown).min() == 0
    assert np.asarray(shown).max() == 255


def test_bad_input_is_refused(worlds, tmp_path):
    db = worlds["clean"]
    with pytest.raises(RelevanceError) as error:
        db.swap("dog", part="border")
    assert_says(error.value, "dog")
    few = sl.build(
        tmp_path / "few", db.model, ImageFolder(write_pictures(tmp_path / "p", 8, classes=2)),
        ColourEmbedder(), ["features"], examples=2, crop="none",
    )  # fmt: skip
    with pytest.raises(DataError) as error:
        few.swap(part="border")
    assert_says(error.value, "2 classes", "at least 5", "more classes")
    many = sl.build(
        tmp_path / "many",
        SubjectModel(nn.Sequential(nn.Conv2d(3, 4, 3)), to_tensor, "maps", classes=CLASSES),
        ImageFolder(write_pictures(tmp_path / "q", 14, classes=7)),
        ColourEmbedder(), ["0"], examples=2, crop="none",
    )  # fmt: skip
    with pytest.raises(ModelError) as error:
        many.swap(part="border", count=8)
    assert_says(error.value, "no logits", "need a classifier")


@pytest.mark.slow
def test_the_command_prints_and_draws(worlds, tmp_path):
    db = worlds["planted"]
    arguments = [
        "swap", str(db.path), "--model", db.manifest.model.spec, "--target", "class0",
        "--part", "border", "--size", "0.15", "--count", "24", "--json",
        "--save", str(tmp_path / "b.png"),
    ]  # fmt: skip
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0, ended.output
    printed = json.loads(ended.stdout)
    assert printed["detected"] == ["class0"]
    assert {row["class"] for row in printed["classes"]} == {"class0"}
    assert printed["components"][0].keys() >= {"component", "rise", "effect", "relevance"}
    assert Image.open(tmp_path / "b.png").width > 500
    table = db.swap(part="border", count=24, size=0.15)
    table.save(tmp_path / "b.csv")
    assert pd.read_csv(tmp_path / "b.csv")["class"].tolist() == table.frame["class"].tolist()
    assert "class0" in repr(table)


@pytest.mark.slow
def test_all_parts_are_those_by_themselves_corrected_together(worlds):
    db = worlds["planted"]
    together = db.swap("class0", count=8)
    assert together.parts == ["border", "region", "colour"]
    assert together.images == dict.fromkeys(together.parts, 8)
    for part in together.parts:
        alone = db.swap("class0", part=part, count=8)
        rows = together.rows(part)
        for column in ("size", "gain", "p_value"):
            assert rows[column].tolist() == alone.frame[column].tolist()
        assert together.section("class0").figure is not None
        assert len(together.pasted[part]) == len(alone.pasted[part]) == 6
    expected = np.minimum(1, 4 * together.frame["p_value"])  # two borders, a region, colours
    assert together.frame["adjusted"].tolist() == pytest.approx(expected.tolist())
    assert len(together.section("class0").sentences) == 3


@pytest.mark.parametrize(
    ("part", "size", "bound"),
    [("border", 0.5, "below 0.5"), ("region", 0.6, "at most 0.5"), (None, 0.2, "each part has")],
)
def test_a_size_that_the_part_cannot_have_is_refused(worlds, part, size, bound):
    with pytest.raises(RecipeError) as error:
        worlds["clean"].swap(part=part, size=size)
    assert_says(error.value, f"{size:g}", bound, "size")
    with pytest.raises(RecipeError, match="above 0 to 1"):
        worlds["clean"].swap(part=part, size=1.2)
