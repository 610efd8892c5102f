"""The measures of section 3.5 against float64 loops, scikit-learn and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import semlens as sl
from semlens.lenses.scores import clarity, polysemanticity, redundancy, two_means
from semlens.lenses.statistics.intervals import auroc

sklearn_cluster = pytest.importorskip("sklearn.cluster")
sklearn_metrics = pytest.importorskip("sklearn.metrics")


def sets(components=12, m=9, d=16, seed=0):
    """Vectors f32[c m d] of varied spread and masks of varied size, unused slots polluted."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(components, 2, d))
    side = random.integers(0, 2, (components, m))
    spread = random.uniform(0.1, 2.0, components)[:, None, None]
    vectors = centres[np.arange(components)[:, None], side] + spread * random.normal(
        size=(components, m, d)
    )
    used = np.arange(m)[None] < random.integers(2, m + 1, components)[:, None]
    vectors[~used] = 1e3
    return torch.from_numpy(vectors).float(), torch.from_numpy(used)


def plain_clarity(vectors):
    """Eq. 6: the mean over all ordered pairs."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [a @ b for i, a in enumerate(units) for j, b in enumerate(units) if i != j]
    return np.mean(pairs)


def test_clarity_is_the_mean_pairwise_cosine():
    vectors, used = sets()
    got = clarity(vectors, used)
    for c in range(len(vectors)):
        mine = vectors[c][used[c]].double().numpy()
        assert float(got[c]) == pytest.approx(plain_clarity(mine), abs=1e-5)


def test_clarity_bounds():
    same = torch.ones(1, 5, 3)
    assert float(clarity(same, torch.ones(1, 5).bool())) == pytest.approx(1)
    apart = torch.tensor([[[1.0, 0], [-1, 0]]])
    assert float(clarity(apart, torch.ones(1, 2).bool())) == pytest.approx(-1)
    assert torch.isnan(clarity(same, torch.tensor([[True] + [False] * 4])))


def test_redundancy_is_the_mean_of_the_largest_other_cosine():
    theta = torch.randn(33, 8, generator=torch.Generator().manual_seed(0))
    theta[5] = 0
    got = redundancy(theta, chunk=7)
    units = theta.double().numpy()
    for k in range(33):
        if k == 5:
            assert torch.isnan(got[k])
            continue
        others = [
            units[k] @ units[j] / np.linalg.norm(units[k]) / np.linalg.norm(units[j])
            for j in range(33)
            if j not in (k, 5)
        ]
        assert float(got[k]) == pytest.approx(max(others), abs=1e-6)
    assert torch.isnan(redundancy(torch.ones(1, 3))).all()


def within(vectors, split):
    return sum(
        ((part - part.mean(0)) ** 2).sum()
        for part in (vectors[split], vectors[~split])
        if len(part)
    )


def test_two_means_finds_the_best_of_all_splits_of_a_few_vectors():
    vectors, used = sets(components=40, m=9)
    units = torch.nn.functional.normalize(vectors, dim=-1)
    split = two_means(units * used[..., None], used)
    assert not (split & ~used).any()
    worse = 0
    for c in range(40):
        mine = units[c][used[c]].double().numpy()
        got = within(mine, split[c][used[c]].numpy())
        best = min(
            within(mine, np.array(choice))
            for choice in itertools.product([False, True], repeat=len(mine))
        )
        worse += got > best * (1 + 1e-5)
    assert worse <= 1


@pytest.mark.parametrize("centres, d", [(1, 8), (1, 64), (4, 64)])
def test_two_means_is_no_worse_than_twenty_starts_of_scikit_learn(centres, d):
    random = np.random.default_rng(d + centres)
    middle = random.normal(size=(50, centres, d))
    of = random.integers(0, centres, (50, 30))
    vectors = (middle[np.arange(50)[:, None], of] if centres > 1 else 0) + random.normal(
        size=(50, 30, d)
    )
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    used = torch.ones(50, 30).bool()
    split = two_means(torch.from_numpy(vectors).float(), used).numpy()
    ours = np.array([within(x, s) for x, s in zip(vectors, split, strict=True)])
    theirs = [sklearn_cluster.KMeans(2, n_init=20, random_state=0).fit(x).inertia_ for x in vectors]
    assert (ours > np.array(theirs) * (1 + 1e-5)).mean() <= 0.02
    assert ours.mean() <= np.mean(theirs)


def test_two_means_of_equal_vectors_and_of_many():
    same = torch.ones(1, 6, 4)
    assert not two_means(same, torch.ones(1, 6).bool()).any()
    assert not two_means(same, torch.zeros(1, 6).bool()).any()
    two = torch.eye(2).repeat_interleave(80, 0)[None]
    split = two_means(two, torch.ones(1, 160).bool())[0]
    assert sorted([int(split[:80].sum()), int(split[80:].sum())]) == [0, 80]


def test_polysemanticity_of_known_senses():
    x, y = torch.eye(4)[0], torch.eye(4)[1]
    two = torch.stack([x, x, x, y, y])[None]
    one = torch.stack([x, x, x, x, x])[None]
    used = torch.ones(1, 5).bool()
    assert float(polysemanticity(two, used)) == pytest.approx(1)
    assert float(polysemanticity(one, used)) == pytest.approx(0, abs=1e-6)
    opposite = torch.stack([x, x, -x, -x, -x])[None]
    assert float(polysemanticity(opposite, used)) == pytest.approx(2)
    assert torch.isnan(polysemanticity(two, torch.tensor([[True, False, False, False, False]])))


def test_polysemanticity_is_one_less_the_clarity_of_the_clusters_sums():
    vectors, used = sets(components=20)
    got = polysemanticity(vectors, used)
    units = torch.nn.functional.normalize(vectors, dim=-1) * used[..., None]
    split = two_means(units, used)
    for c in range(20):
        mine, side = units[c][used[c]].double().numpy(), split[c][used[c]].numpy()
        expected = 1 - plain_clarity(np.stack([mine[side].sum(0), mine[~side].sum(0)]))
        assert float(got[c]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_scores_of_a_database(tmp_path, subject, images, embedder):
    db = sl.build(tmp_path / "db", subject, images, embedder, ["first", "second"], examples=6)
    scores = db.scores()
    frame = scores.to_pandas()
    index, used = db.crop_index("second")
    for place in (0, 7, 15):
        mine = db.crop_vectors[index[place][used[place]]].astype(np.float64)
        assert frame["clarity"][6 + place] == pytest.approx(plain_clarity(mine), abs=1e-3)
    layer = scores.per_layer().set_index("layer").loc["second"]
    assert layer["clarity"] == pytest.approx(frame["clarity"][6:].mean())
    assert layer["components"] == 20
    again = sl.open(tmp_path / "db", embedder=embedder).scores(["first"])
    assert again.to_pandas()["clarity"].tolist() == frame["clarity"][:6].tolist()


def test_auroc_against_scikit_learn():
    random = np.random.default_rng(0)
    positive, negative = random.integers(0, 6, (30, 5)), random.integers(0, 5, (21, 5))
    got = auroc(positive.astype(float), negative.astype(float))
    truth = np.r_[np.ones(30), np.zeros(21)]
    for c in range(5):
        values = np.r_[positive[:, c], negative[:, c]]
        assert got[c] == pytest.approx(sklearn_metrics.roc_auc_score(truth, values))
