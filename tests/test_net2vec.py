"""Net2Vec: planted combinations, plain equations as oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import ColourEmbedder
from scipy.optimize import minimize
from segmented_world import COLOURS, ColourNet, centre, save, write_world

import semlens as sl
from semlens.errors import DataError, RecipeError
from semlens.lenses.netdissect import net2vec
from semlens.lenses.netdissect.concept_probe import fit_probe
from semlens.lenses.netdissect.input_masks import InputMasks
from semlens.lenses.netdissect.score_thresholds import BINS, ScoreRange
from semlens.models.subject import SubjectModel


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    for name, label in write_world(folder).items():
        save(folder / "concepts" / "coloured" / f"{name}.png", label > 0)
        save(folder / "concepts" / "red" / f"{name}.png", label == 1)
        if name == "class0/000":
            save(folder / "concepts" / "rare" / f"{name}.png", label == 0)
    return folder


@pytest.fixture(scope="module")
def db(world):
    model = SubjectModel(ColourNet(), centre, "centre 64", "python:colours", list("abc"))
    return sl.build(
        world / "db", model, world / "images", ColourEmbedder(), ["colours"], examples=3,
        components="channels,nmf:3", crop="none",
    )  # fmt: skip


def test_a_concept_of_three_channels_needs_their_combination(world, db, tmp_path):
    found = db.net2vec(world / "concepts", "colours")
    frame = found.to_pandas().set_index("concept")
    assert found.skipped == ("rare",)
    coloured, red = frame.loc["coloured"], frame.loc["red"]
    assert coloured["combined"] > 0.99
    assert coloured["single"] < 0.5  # one of three colours, each as frequent
    assert coloured["needed"] == 4  # 1, 2, 4: three are needed
    assert red["component"] == "colours:0"
    assert red["single"] == pytest.approx(1)
    assert red["combined"] > 0.99
    assert red["needed"] == 1
    weights = found.weights[found.weights["concept"] == "coloured"]
    assert set(weights["component"].head(3)) == {f"colours:{i}" for i in range(len(COLOURS))}
    found.save(tmp_path / "n.png")
    found.save(tmp_path / "n.json")
    assert (tmp_path / "n.png").stat().st_size > 10_000
    assert "On too few images: rare." in repr(found)


def test_directions_of_a_dictionary_are_combined(world, db):
    found = db.net2vec(world / "concepts", "colours@nmf")
    assert found.weights["component"].str.startswith("colours@nmf:").all()
    assert found.curves["components"].max() == 3


def test_what_does_not_fit_is_refused(world, db, monkeypatch, tmp_path):
    save(tmp_path / "rare" / "class0" / "000.png", np.ones((80, 96), np.uint8))
    with pytest.raises(DataError, match="No concept"):
        db.net2vec(tmp_path, "colours")
    monkeypatch.setattr(net2vec, "MEMORY", 10_000)
    with pytest.raises(RecipeError, match="GiB"):
        db.net2vec(world / "concepts", "colours")


def test_weights_minimise_the_balanced_cross_entropy():
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 6)) * [1, 2, 0.1, 5, 1, 1] + 3
    x[:, 5] = 2.0  # a dead component
    labelled = random.choice([1.0, 0.5, 0.0], 300)
    inside = labelled * random.choice([0, 0.3, 1], 300) * (x[:, 0] > 3)
    got = fit_probe(x, inside, labelled, 1e-3)
    spread = np.where(x.std(0) > 0, x.std(0), 1)
    scaled = (x - x.mean(0)) / spread
    alpha = 1 - inside.sum() / labelled.sum()

    def loss(theta):
        p = 1 / (1 + np.exp(-(scaled @ theta[:-1] + theta[-1])))
        positive, negative = alpha * inside, (1 - alpha) * (labelled - inside)
        entropy = -(positive * np.log(p) + negative * np.log(1 - p)).sum()
        return entropy / (positive + negative).sum() + 1e-3 / 2 * (theta[:-1] ** 2).sum()

    best = minimize(loss, np.zeros(7), options={"gtol": 1e-7}).x
    np.testing.assert_allclose(got.weights, best[:-1], atol=1e-3)
    np.testing.assert_allclose(
        x @ got.direction + got.bias, scaled @ best[:-1] + best[-1], atol=0.01
    )
    kept = got.largest(2)
    assert np.flatnonzero(kept).tolist() == sorted(np.argsort(-np.abs(got.weights))[:2])


def test_iou_at_every_threshold_follows_plain_loops():
    random = np.random.default_rng(0)
    scores = torch.from_numpy(random.normal(size=(40, 2, 6, 6)).astype(np.float32))
    masks = []
    for _ in range(40):
        valid = random.random((6, 6)) < 0.8
        present = np.flatnonzero(random.random(2) < 0.7)
        masks.append(InputMasks(present, (random.random((2, 6, 6)) < 0.3)[present] & valid, valid))
    scale = ScoreRange.of(scores)
    got = scale.ious(scores, masks, 1)
    for kind in range(2):
        low, high = float(scale.low[kind]), float(scale.high[kind])
        for threshold in (0, 1000, 2500, 4000):
            limit = low + threshold / BINS * (high - low)
            common = union = 0
            for image, mask in enumerate(masks):
                inside = mask.inside[mask.concepts == 1].any(0)
                on = (scores[image, kind].double().numpy() >= limit) & mask.valid
                common += (on & inside).sum()
                union += (on | inside).sum()
            assert got[kind, threshold] == pytest.approx(common / union, abs=1e-3)
