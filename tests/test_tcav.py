"""TCAV against finite differences, a planted concept, and its error rate on random concepts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import WordEmbedder, assert_says, to_tensor
from PIL import Image
from scipy.stats import binom, ttest_ind
from torch import nn
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.errors import DataError, LayerError, RecipeError, RelevanceError, StoreError
from semlens.lenses.correct.cav import SVM_C, fit_boundary, fit_linear_svm, standardise
from semlens.lenses.statistics.intervals import wilson_interval
from semlens.lenses.tcav.concept_test import (
    ConceptTest,
    ConceptVectors,
    Sensitivities,
    concept_test,
    fit_vectors,
)
from semlens.lenses.tcav.tcav import class_gradients
from semlens.models.subject import SubjectModel
from semlens.store.dictionary_files import load_dictionary

CLASSES = ["red", "no red", "other", "other still"]


class RedNet(nn.Module):
    """Channel 0 of ``first`` sees red; the class ``red`` is for it, ``no red`` against it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.Softplus())
        self.head = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
        self.red = nn.Linear(6, 4, bias=False)
        with torch.no_grad():
            conv: nn.Conv2d = self.first[0]
            conv.weight[0] = 0
            conv.weight[0, :, 1, 1] = torch.tensor([3.0, -1.5, -1.5])
            self.head[0].weight[:, 0] = 0
            self.head[2].weight *= 0.02
            self.red.weight[:] = 0
            self.red.weight[0, 0], self.red.weight[1, 0] = 3.0, -3.0

    def forward(self, x):
        pooled = self.first(x).square().mean((2, 3))
        return self.head(pooled) + self.red(pooled)


class TokenNet(nn.Module):
    """A class token in front of 16 patches, mixed by a linear layer over tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, 6, 8, 8)
        self.start = nn.Parameter(torch.randn(1, 1, 6))
        self.layer = nn.Identity()
        self.mix = nn.Linear(17, 17)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        patches = self.patch(x).flatten(2).transpose(1, 2)
        tokens = self.layer(torch.cat([self.start.expand(len(x), -1, -1), patches], 1))
        return self.head(torch.tanh(self.mix(tokens.transpose(1, 2)))[..., :3].mean(-1))


def picture(seed: int, red: bool) -> Image.Image:
    draw = np.random.default_rng(seed)
    pixels = draw.integers(40, 200, (32, 32, 3)) // 2
    if red:
        x, y = draw.integers(0, 20, 2)
        pixels[y : y + 12, x : x + 12] = (230, 20, 20)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Images of the database, of the concept ``red``, and of a concept without meaning."""
    folder = tmp_path_factory.mktemp("tcav")
    for i in range(60):
        for name, image in (("data/red", picture(i, i % 4 == 0)), ("red", picture(100 + i, True)),
                            ("plain", picture(200 + i, False))):  # fmt: skip
            path = folder / name / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if name == "data/red" or i < 15:
                image.save(path)
    return folder


def database(path, net, layers, pictures, **settings):
    model = SubjectModel(net, to_tensor, "32 bilinear", "python:red", CLASSES)
    return sl.build(path, model, ImageFolder(pictures / "data"), WordEmbedder(), layers,
                    crop="none", examples=4, **settings)  # fmt: skip


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    return database(tmp_path_factory.mktemp("tcav-db") / "db", RedNet(), ["first"], pictures)


@pytest.fixture(scope="module")
def result(db, pictures):
    concepts = {"red": pictures / "red", "plain": pictures / "plain"}
    return db.tcav(
        concepts, ["red", "no red", "other"], random=[picture(300 + i, False) for i in range(60)],
        samples=list(range(12)), counters=2, draws=159,
    )  # fmt: skip


def by_differences(net, layer, inputs, target, moved):
    """Return the derivative by each channel of a shift of the tokens ``moved``, by differences."""
    net, step = net.double(), 1e-5
    values = []
    for channel in range(6):
        ends = []
        for sign in (1, -1):

            def shift(_, __, output, sign=sign, channel=channel):
                output = output.clone()
                if output.ndim == 4:
                    output[:, channel] += sign * step
                else:
                    output[:, moved, channel] += sign * step
                return output

            handle = net.get_submodule(layer).register_forward_hook(shift)
            ends.append(net(inputs.double())[:, target].detach().numpy())
            handle.remove()
        values.append((ends[0] - ends[1]) / (2 * step))
    return np.stack(values, 1)


def test_gradients_are_those_of_a_shift_at_all_positions(db):
    samples = [0, 3, 7]
    inputs = torch.stack([to_tensor(db.images.read(sample)) for sample in samples])
    for target in (0, 2):
        found = class_gradients(db, target, ["first"], samples, 2)["first"]
        expected = by_differences(RedNet(), "first", inputs, target, slice(None))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("readout", "moved"), [("cls", 0), ("mean", slice(None))])
def test_gradients_of_tokens(tmp_path, pictures, readout, moved):
    db = database(tmp_path / "db", TokenNet(), ["layer"], pictures, readout=readout)
    inputs = torch.stack([to_tensor(db.images.read(sample)) for sample in (0, 3)])
    found = class_gradients(db, 1, ["layer"], [0, 3], 2)["layer"]
    expected = by_differences(TokenNet(), "layer", inputs, 1, moved)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_a_boundary_decides_as_the_classifier_on_standardised_readouts():
    draw = np.random.default_rng(0)
    values = draw.normal(3, 2, (40, 5)) * [1, 10, 0.1, 1, 1]
    positive = np.arange(40) < 20
    values[positive, 1] += 10
    direction, threshold = fit_boundary(values, positive)
    coefficients, intercept = fit_linear_svm(standardise(values)[0], positive, SVM_C)
    decision = (values - values.mean(0)) / values.std(0) @ coefficients + intercept
    assert ((values @ direction > threshold) == (decision > 0)).all()
    assert np.linalg.norm(direction) == pytest.approx(1)


def test_scores_by_plain_loops():
    draw = np.random.default_rng(1)
    gradients, directions = draw.normal(size=(7, 3)), draw.normal(size=(4, 3))
    products = [[sum(g * v for g, v in zip(row, direction, strict=True)) for row in gradients]
                for direction in directions]  # fmt: skip
    shares = [sum(p > 0 for p in of_vector) / 7 for of_vector in products]
    distances = draw.normal(size=4)
    found = Sensitivities.of(gradients, ConceptVectors(directions, distances, 0.5))
    assert found.score == pytest.approx(sum(shares) / 4)
    effects = [sum(ps) * d for ps, d in zip(products, distances, strict=True)]
    assert found.effect == pytest.approx(sum(effects) / 28)


def test_intervals_cover_the_score_of_the_class():
    """Shares of five CAVs on each image; the score over all images of the class is 0.82."""
    draw = np.random.default_rng(2)
    shares = draw.choice([0, 0.2, 0.8, 1], p=[0.1, 0.05, 0.2, 0.65], size=(2000, 25))
    score = 0.05 * 0.2 + 0.2 * 0.8 + 0.65
    intervals = [wilson_interval(float(row.sum()), 25) for row in shares]
    assert np.mean([low <= score <= high for low, high in intervals]) > 0.94


def test_p_values_by_hand():
    random = [Sensitivities(1.0, effect) for effect in (0.1, 0.2, 0.3)]
    random += [Sensitivities(0.5, 9.0)] * 16
    vectors = ConceptVectors(np.eye(2), np.ones(2), 0.8)

    def p_value(score, effect):
        own = Sensitivities(score, effect)
        return ConceptTest(vectors, [own], [random], np.zeros(19)).p_value(0)

    assert p_value(1.0, 0.4) == pytest.approx(2 * 1 / 20)  # above all; equal scores by the effect
    assert p_value(1.0, 0.2) == pytest.approx(2 * 3 / 20)  # two are at least as large
    assert p_value(0.5, 9.0) == 1  # both tails hold all that are equal
    assert p_value(0.0, 0.0) == pytest.approx(2 * 1 / 20)
    accuracies = np.array([0.5, 0.8, 0.9, 0.6])
    separated = ConceptTest(vectors, [], [], accuracies)
    assert separated.accuracy_p_value == pytest.approx(3 / 5)


def test_accuracy_is_of_images_that_were_left_out():
    draw = np.random.default_rng(0)
    noise = draw.normal(size=(400, 60))  # 24 images in 60 channels are separable where fitted
    rows = np.arange(400)
    accuracies = []
    for _ in range(40):
        rows = draw.permutation(rows)
        accuracies.append(fit_vectors(noise, rows[:12], rows[12:], 5, draw).accuracy)
    assert 0.45 < np.mean(accuracies) < 0.55
    noise[:12, :20] += 2
    assert fit_vectors(noise, np.arange(12), np.arange(12, 400), 5, draw).accuracy > 0.9


def test_a_planted_concept_is_found_with_its_sign_and_an_empty_one_is_not(result):
    frame = result.frame.set_index(["class", "concept"])
    assert frame.loc[("red", "red"), "score"] == 1
    assert frame.loc[("no red", "red"), "score"] == 0
    assert frame.loc["red", "separates"].to_dict() == {"red": True, "plain": False}
    assert frame.loc[("red", "red"), "accuracy"] > 0.9
    found = set(zip(result.significant["class"], result.significant["concept"], strict=True))
    assert {("red", "red"), ("no red", "red")} <= found
    assert not any(concept == "plain" for _, concept in found)
    assert frame.loc[("red", "red"), "effect"] > 20 * abs(frame.loc[("other", "red"), "effect"])
    assert frame.loc[("no red", "red"), "effect"] < 0
    assert result.vectors["first", "red"][0] > 0


def test_table_json_and_plot(result, tmp_path):
    assert list(result.frame.columns) == [
        "class", "layer", "concept", "score", "low", "high", "effect", "random_low",
        "random_high", "p_value", "q_value", "accuracy", "separates", "images",
    ]  # fmt: skip
    assert (result.frame["low"] <= result.frame["score"]).all()
    assert (result.frame["score"] <= result.frame["high"]).all()
    assert "do not separate it" in repr(result)
    result.save(tmp_path / "a.png")
    result.save(tmp_path / "a.json")
    assert len(json.loads((tmp_path / "a.json").read_text())["rows"]) == 6


def test_cavs_become_components(db, result, pictures, tmp_path):
    file = tmp_path / "cavs.safetensors"
    result.save_cavs(file)
    saved = load_dictionary(file)
    np.testing.assert_allclose(
        saved.decoder.numpy(), np.stack([*result.vectors.values()]), atol=1e-6
    )
    built = database(tmp_path / "db", RedNet(), ["first"], pictures, components=f"cav:{file}")
    assert set(built.components["layer"]) == {"first@cav"}
    assert set(built.components["sign"]) == {1, -1}
    inputs = torch.stack([to_tensor(built.images.read(i)) for i in range(len(built.images))])
    pooled = RedNet().first(inputs).mean((2, 3)).detach().double().numpy()
    order = np.argsort(-(pooled @ result.vectors["first", "red"]), kind="stable")
    assert [one.sample for one in built.examples_of(0)] == order[:4].tolist()
    assert all(sample % 4 == 0 for sample in order[:4])  # the images with a red square


@pytest.mark.slow
def test_random_concepts_are_significant_at_the_nominal_rate():
    """Concepts drawn from the images that they are compared with; unlike with the t-test."""
    draw = np.random.default_rng(0)
    trials, level = 80, 0.1
    ours, classical = [], []
    for trial in range(trials):
        mixing = draw.normal(size=(6, 6))
        values = draw.normal(size=(60, 6)) @ mixing
        gradients = [draw.normal(size=(15, 6)) * 0.7 + draw.normal(size=6) for _ in range(2)]
        test = concept_test(values, 10, gradients, counters=2, draws=19, seed=trial)
        ours.append([test.p_value(0), test.p_value(1), test.accuracy_p_value])
        if trial >= 20:
            continue
        rows = np.arange(60)
        own = [fit_vectors(values, rows[:10], rows[10:], 1, draw) for _ in range(8)]
        null = []
        for _ in range(8):
            shuffled = draw.permutation(rows[10:])
            null.append(fit_vectors(values, shuffled[:10], shuffled[10:], 1, draw))
        scores = [[Sensitivities.of(gradients[0], one).score for one in side]
                  for side in (own, null)]  # fmt: skip
        classical.append(ttest_ind(*scores).pvalue)
    rates = (np.array(ours) <= level + 1e-9).mean(0)
    assert (rates <= binom.ppf(0.999, trials, level) / trials).all()
    assert (rates[:2] >= binom.ppf(0.001, trials, level) / trials).all()  # and no fewer
    assert (np.array(classical) <= level).mean() > 3 * level


MODEL = """
from conftest import to_tensor
from test_tcav import CLASSES, RedNet

def make():
    return RedNet(), to_tensor, CLASSES
"""


@pytest.mark.slow
def test_command(pictures, tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    spec, cavs = f"{tmp_path / 'model.py'}:make", tmp_path / "cavs.safetensors"
    db = sl.build(tmp_path / "db", spec, pictures / "data", "semlens/demo", ["first"], crop="none")
    ended = CliRunner().invoke(app, [
        "concepts", "tcav", str(db.path), "--concept", f"square={pictures / 'red'}", "--target",
        "red",
        "--model", spec, "--samples", "9", "--draws", "39", "--save-cavs", str(cavs), "--json",
    ])  # fmt: skip
    assert ended.exit_code == 0, ended.output
    [row] = json.loads(ended.stdout)["rows"]
    assert (row["concept"], row["score"], row["images"]) == ("square", 1.0, 15)
    assert load_dictionary(cavs).info.name == "first@cav"


def test_what_cannot_be_asked(db, result, pictures, tmp_path):
    with pytest.raises(DataError) as few:
        db.tcav({"few": [picture(0, True)] * 4}, "red")
    assert_says(few.value, "'few' has 4 images", "at least 5", "more images")
    with pytest.raises(DataError, match="at most as many"):
        db.tcav(pictures / "red", "red", random=[picture(i, False) for i in range(14)])
    with pytest.raises(RelevanceError, match="Unknown class"):
        db.tcav(pictures / "red", "zebra")
    with pytest.raises(DataError):
        db.tcav(pictures / "none", "red")
    with pytest.raises(RecipeError, match="draws"):
        db.tcav(pictures / "red", "red", draws=5)
    with pytest.raises(LayerError, match="one layer"):
        replace(result, vectors={("a", "x"): np.ones(2), ("b", "x"): np.ones(2)}).dictionary()
    with pytest.raises(RecipeError) as number:
        database(tmp_path / "db", RedNet(), ["first"], pictures, components="cav:3")
    assert_says(number.value, "'cav:3'", "concept activation vectors", "tcav --save-cavs")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        result.save_cavs(tmp_path / "file" / "cavs.safetensors")
