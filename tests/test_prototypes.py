"""Prototypes against known mixtures, planted images, and the rate of outliers on ordinary ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import WordEmbedder, assert_says, to_tensor
from PIL import Image
from scipy.special import logsumexp
from sklearn.metrics import adjusted_rand_score
from torch import nn
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.errors import DataError, RecipeError, RelevanceError
from semlens.lenses.graph.relevance_trace import component_shares, make_job
from semlens.lenses.prototypes.mixture import OrdinaryVectors, RelevanceMixture, choose_mixture
from semlens.models.subject import SubjectModel


class ColourNet(nn.Module):
    """Six colour detectors; class 0 is for red as well as for blue, class 1 for green."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(6, 2)
        with torch.no_grad():
            conv: nn.Conv2d = self.layer[0]
            conv.weight *= 0.1
            conv.bias[:] = 0
            for channel in range(3):
                conv.weight[channel, channel, 1, 1] += 2
            self.head.weight[:] = 0.1
            self.head.weight[:, :3] = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])

    def forward(self, x):
        return self.head(self.layer(x).mean((2, 3)))


def picture(number: int) -> Image.Image:
    """Return red images, and every third a blue one; number 100 is green."""
    draw = np.random.default_rng(number)
    pixels = draw.integers(0, 90, (32, 32, 3))
    channel = 1 if number == 100 else 2 if number % 3 == 0 else 0
    x, y = draw.integers(0, 16, 2)
    pixels[y : y + 16, x : x + 16, channel] += 140
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prototypes")
    for i in range(66):
        path = folder / "data" / ("other" if i >= 60 else "warm or cold") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(path)
    model = SubjectModel(
        ColourNet(), to_tensor, "32 bilinear", "python:colours", ["warm or cold", "other"]
    )
    return sl.build(folder / "db", model, ImageFolder(folder / "data"), WordEmbedder(), ["layer"],
                    crop="none", examples=4)  # fmt: skip


@pytest.fixture(scope="module")
def result(db):
    return db.prototypes("warm or cold", images=[picture(101), picture(100)], concepts=None)


def two_groups(draw, count: int, distance: float = 6.0):
    """Return vectors of two Gaussians in 12 dimensions, and the group of each."""
    group = (draw.random(count) < 0.3).astype(int)
    mixing = np.random.default_rng(99).normal(size=(12, 12)) * np.linspace(1, 0.1, 12)
    vectors = draw.normal(size=(count, 12)) @ mixing.T
    vectors[:, 0] += distance * group
    return vectors, group


def test_the_likelihood_is_that_of_the_equation():
    vectors, _ = two_groups(np.random.default_rng(0), 200)
    fit = RelevanceMixture.fit(vectors, 2)
    centred = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign((axes[:8] * fit.axes.components_).sum(1))
    coordinates = centred @ axes[:8].T
    left = np.linalg.norm(centred - coordinates @ axes[:8], axis=1)
    features = np.column_stack([coordinates * signs, np.log(left)])
    scaled = (features - features.mean(0)) / features.std(0)
    terms = []
    for weight, mean, covariance in zip(
        fit.gaussians.weights_, fit.gaussians.means_, fit.gaussians.covariances_, strict=True
    ):
        apart = scaled - mean
        square = np.einsum("ni,ij,nj->n", apart, np.linalg.inv(covariance), apart)
        constant = 9 * np.log(2 * np.pi) + np.log(np.linalg.det(covariance))
        terms.append(np.log(weight) - (square + constant) / 2)
    np.testing.assert_allclose(fit.log_likelihood(vectors), logsumexp(terms, 0), rtol=1e-9)
    np.testing.assert_allclose(
        fit.posterior(vectors), np.exp(terms - logsumexp(terms, 0)).T, atol=1e-9
    )


def test_the_number_of_prototypes_is_that_of_known_clusters():
    draw = np.random.default_rng(1)
    vectors, group = two_groups(draw, 240)
    fit = choose_mixture(vectors, None, 5)
    assert fit.gaussians.n_components == 2
    assert adjusted_rand_score(group, fit.posterior(vectors).argmax(1)) > 0.95
    single = choose_mixture(draw.normal(size=(240, 12)), None, 5)
    assert single.gaussians.n_components == 1
    assert choose_mixture(vectors, 4, 5).gaussians.n_components == 4


@pytest.mark.slow
def test_ordinary_vectors_are_outliers_at_the_nominal_rate():
    """Those of the class and new ones; unlike by the quantile of a mixture of all vectors."""
    draw = np.random.default_rng(2)
    level, rates, naive = 0.1, [], []
    for trial in range(25):
        vectors, _ = two_groups(draw, 100)
        new, _ = two_groups(draw, 100)
        ordinary = OrdinaryVectors.of(vectors, 2, trial)
        rates.append((ordinary.percentile(new) <= level).mean())
        assert (ordinary.percentiles <= level).mean() == pytest.approx(level, abs=0.011)
        fit = RelevanceMixture.fit(vectors, 2, trial)
        bound = np.quantile(fit.log_likelihood(vectors), level)
        naive.append((fit.log_likelihood(new) <= bound).mean())
    spread = 3 * np.std(rates) / np.sqrt(len(rates))
    assert level / 2 < np.mean(rates) < level + spread
    assert np.mean(naive) > 1.4 * level


def test_a_vector_off_the_axes_is_an_outlier():
    draw = np.random.default_rng(3)
    flat = np.zeros((200, 12))
    flat[:, :4] = draw.normal(size=(200, 4))
    flat += 0.01 * draw.normal(size=(200, 12))
    ordinary = OrdinaryVectors.of(flat, 1)
    unusual = flat[:1].copy()
    unusual[0, 11] += 0.5  # far from the axes, near the mean along each
    assert ordinary.percentile(unusual)[0] == pytest.approx(1 / 201)
    assert np.mean(ordinary.percentile(flat[:50])) > 0.3


def test_percentiles_by_plain_loops():
    vectors, _ = two_groups(np.random.default_rng(4), 60)
    new, _ = two_groups(np.random.default_rng(5), 5)
    ordinary = OrdinaryVectors.of(vectors, 1)
    assert sorted(np.bincount(ordinary.fold)) == [12] * 5
    for one, found in zip(new, ordinary.percentile(new), strict=True):
        below = 1
        for i, vector in enumerate(vectors):
            fit = ordinary.fits[ordinary.fold[i]]
            own, other = fit.log_likelihood(vector[None])[0], fit.log_likelihood(one[None])[0]
            below += own <= other
        assert found == pytest.approx(below / 61)


def test_prototypes_are_the_two_ways_of_the_class(result, db):
    assert len(result.frame) == 2
    assert result.frame["images"].tolist() == [40, 20]
    blue = [int(Path(path).stem) % 3 == 0 for path in result.samples["path"]]
    assert adjusted_rand_score(blue, result.samples["prototype"]) == 1
    [first, second] = [Path(path).stem for path in result.frame["path"]]
    assert int(first) % 3 > 0
    assert int(second) % 3 == 0
    top = result.characteristic.groupby("prototype").first()
    assert top.loc[2, "component"] == "layer:2"  # blue is more relevant than in the class
    assert top.loc[2, "difference"] > 0


def test_values_are_shares_and_nearest_images_by_plain_loops(result, db):
    job = make_job(db, 0, 1000)
    vectors = component_shares(job)["layer"].astype(float)
    groups = result.samples.sort_values("sample")["prototype"].to_numpy()
    for number, nearest in enumerate(result.nearest, start=1):
        mean = vectors[groups == number].mean(0)
        rows = result.characteristic[result.characteristic["prototype"] == number]
        for record in rows.to_dict("records"):
            index = int(record["component"].split(":")[1])
            assert record["mean"] == pytest.approx(mean[index])
            assert record["difference"] == pytest.approx((mean - vectors.mean(0))[index])
        place = job.images.samples.index
        distances = [np.linalg.norm(vectors[place(int(one))] - mean) for one in nearest]
        assert distances == sorted(distances)
        assert len(nearest) == (groups == number).sum()


def test_given_images(result):
    red, green = result.pictures.to_dict("records")
    assert (red["image"], red["prototype"], red["outlier"]) == ("0", 1, False)
    assert green["outlier"]
    assert green["percentile"] == pytest.approx(1 / 61)
    first = result.deviations[result.deviations["image"] == "1"].iloc[0]
    assert first["component"] in ("layer:0", "layer:1", "layer:2")
    assert first["share"] - first["mean"] == pytest.approx(first["difference"])


def test_table_json_and_picture(result, tmp_path):
    assert "The least likely images" in repr(result)
    assert len(result.outliers) == 3  # 5 % of 60
    result.save(tmp_path / "a.png")
    result.save(tmp_path / "a.json")
    saved = json.loads((tmp_path / "a.json").read_text())
    assert len(saved["samples"]) == 60
    assert saved["prototypes"][0]["images"] == 40


def test_what_cannot_be_asked(db):
    with pytest.raises(DataError) as few:
        db.prototypes("other")
    assert_says(few.value, "6 images of the class 'other'", "at least 30", "another class")
    with pytest.raises(DataError, match="60 images"):
        db.prototypes("warm or cold", number=13)
    with pytest.raises(RelevanceError, match="Unknown class"):
        db.prototypes("zebra")
    with pytest.raises(RecipeError, match="quantile"):
        db.prototypes("warm or cold", quantile=1.0)


@pytest.mark.slow
def test_command(demo, tmp_path):
    image = str(demo.parent / "images" / "clock" / "test-0003.webp")
    ended = CliRunner().invoke(app, [
        "classes", "prototypes", str(demo), "--target", "vegetable", "--image", image,
        "--concepts", "none",
        "--json", "--save", str(tmp_path / "a.png"),
    ])  # fmt: skip
    assert ended.exit_code == 0, ended.output
    [given] = json.loads(ended.stdout)["images"]
    assert given["image"] == image
    assert given["outlier"]
