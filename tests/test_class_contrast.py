"""Contrasts of classes against plain float64 loops, their null, and a planted artefact."""

from __future__ import annotations

import colorsys
import itertools

import numpy as np
import pytest
import torch
from conftest import WordEmbedder, assert_says, to_tensor, when_done
from fastapi.testclient import TestClient
from PIL import Image
from scipy.stats import t as student
from torch import nn

import semlens as sl
from benchmarks.worlds.meaningless import meaningless_world
from semlens.data.image_folder import ImageFolder
from semlens.errors import ConceptError, RelevanceError
from semlens.lenses.audit.class_contrast import (
    LayerExcess,
    choose_references,
    compare_classes,
    concept_contrasts,
    contrast_scores,
    excess_shares,
    remove_own,
    standardised,
)
from semlens.lenses.audit.suspects import best_matches
from semlens.lenses.concepts import Concept, ConceptSet
from semlens.lenses.query_embedding import embed_concepts
from semlens.lenses.resolve_concepts import class_and_concepts
from semlens.lenses.statistics.outliers import moderated_p_values, variance_prior
from semlens.models.subject import SubjectModel
from semlens.recipe import fingerprint
from semlens.web.app import create_app


def unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def random_layers(rng, sizes, classes, concepts):
    """Excess and alignments that sum to 0 in each layer, and directions of own words."""
    excess = [rng.normal(size=(n, classes)) for n in sizes]
    alignments = [standardised(rng.normal(size=(n, concepts))) for n in sizes]
    words = [[standardised(rng.normal(size=(n, 3))) for n in sizes] for _ in range(classes)]
    own = [np.concatenate(one) for one in words]
    excess = [e - e.mean(0) for e in excess]
    return excess, alignments, own


def split(values, sizes):
    return np.split(values, np.cumsum(sizes)[:-1])


def test_scores_are_standardised_by_all_permutations():
    rng, sizes = np.random.default_rng(0), (4, 5)
    excess, alignments, own = random_layers(rng, sizes, 2, 3)
    remaining, directions = remove_own(np.concatenate(excess), own)
    layers = [
        LayerExcess(np.arange(n), e, u)
        for n, e, u in zip(sizes, split(remaining, sizes), split(directions, sizes), strict=True)
    ]
    scores = contrast_scores(layers, alignments)
    permutations = [
        [*first, *(4 + i for i in second)]
        for first in itertools.permutations(range(4))
        for second in itertools.permutations(range(5))
    ]
    for c in range(2):
        # the first principal direction of the own words, and residuals by least squares
        u = np.linalg.svd(own[c])[0][:, :1]
        e = np.concatenate(excess)[:, c]
        e = e - u @ np.linalg.lstsq(u, e, rcond=None)[0]
        for j in range(3):
            a = np.concatenate(alignments)[:, j]
            a = a - u @ np.linalg.lstsq(u, a, rcond=None)[0]
            drawn = np.array([e[p] @ a for p in permutations])
            expected = (e @ a - drawn.mean()) / drawn.std()
            assert scores[c, j] == pytest.approx(expected, rel=1e-6)


def test_constant_alignments_and_classes_without_relevance_have_no_contrast():
    values = np.array([[0.3, 1.0], [0.3, 2.0], [0.3, 4.0]], np.float32)
    assert (standardised(values)[:, 0] == 0).all()
    assert standardised(values)[:, 1].std() == pytest.approx(1)
    assert (excess_shares(np.zeros((3, 1)), np.zeros((3, 1))) == 0).all()
    layer = LayerExcess(np.arange(3), np.zeros((3, 1)), np.zeros((3, 1)))
    assert (contrast_scores([layer], [standardised(values)]) == 0).all()


def test_few_measures_have_the_p_values_of_a_prediction_interval():
    rng = np.random.default_rng(0)
    others, values = rng.normal(size=(9, 2)), np.array([0.5, 3.0])
    for j, p in enumerate(moderated_p_values(values, others)):
        spread = others[:, j].std(ddof=1) * np.sqrt(1 + 1 / 9)
        exact = student.sf((values[j] - others[:, j].mean()) / spread, 8)
        assert p == pytest.approx(min(1, 2 * exact))
    np.testing.assert_array_equal(
        moderated_p_values(np.array([0.0, 1.0, 2.0]), np.ones((6, 3))), [1, 1, 0]
    )


def test_the_prior_of_variances_is_recovered():
    """Variances that are drawn from a scaled inverse chi-square, sampled with 10 degrees."""
    rng = np.random.default_rng(0)
    true = 3 * 8 / rng.chisquare(8, 20_000)
    prior, freedom = variance_prior(true * rng.chisquare(10, 20_000) / 10, 10)
    assert prior == pytest.approx(3, rel=0.03)
    assert freedom == pytest.approx(8, rel=0.06)
    _, equal = variance_prior(np.full(30, 2.0), 10)
    assert equal > 1e5


def test_moderated_p_values_by_the_equations():
    rng = np.random.default_rng(1)
    others = rng.normal(size=(11, 6)) * np.array([1, 1, 2, 3, 1, 0.5])
    values = np.array([3.0, -1, 4, 2, 0, 1.5])
    prior, freedom = variance_prior(others.var(0, ddof=1), 10)
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(others.T))
    total = min(freedom + 10, 10 * eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
    for j, p in enumerate(moderated_p_values(values, others)):
        variance = (freedom * prior + 10 * others[:, j].var(ddof=1)) / (freedom + 10)
        score = (values[j] - others[:, j].mean()) / np.sqrt(variance * 12 / 11)
        assert p == pytest.approx(min(1, 6 * student.sf(score, total)))


@pytest.mark.parametrize("classes", [6, 12])
def test_meaningless_concepts_raise_few_alarms(classes):
    """Permuting the components instead rejects most of these: similar ones are not exchangeable."""
    rng, rounds = np.random.default_rng(0), 200
    least, largest = [], []
    for _ in range(rounds):
        world = meaningless_world(rng, classes)
        scores = contrast_scores(world.layers, world.alignments)
        least.append(compare_classes(scores, 0).p_value.min())
        largest.append(scores[0].max())
    assert np.mean(np.array(least) < 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / rounds)
    assert np.mean(np.array(largest) > 2.8) > 0.1  # the normal quantile for ten concepts


# -- from a database ---------------------------------------------------------------------------

CLASSES = ["red", "orange", "lime", "green", "cyan", "blue", "violet"]
COLOURS = {
    name: tuple(round(230 * x) for x in colorsys.hsv_to_rgb(i / 8, 1, 1))
    for i, name in enumerate([*CLASSES, "pink"])
}


class ColourNames(WordEmbedder):
    """Images and names of colours close to one another; other words are noise."""

    spec = "python:colour-names"

    def __init__(self) -> None:
        super().__init__()
        self.fingerprint = fingerprint("colour-names")

    def _texts(self, texts: list[str]) -> torch.Tensor:
        vectors = super()._texts(texts)
        for row, text in enumerate(texts):
            for name in set(text.split()) & set(COLOURS):
                picture = self.preprocess(Image.new("RGB", (8, 8), COLOURS[name]))
                vectors[row] += 3 * self._images(picture[None])[0]
        return vectors


class Hues(nn.Module):
    """Two channels per colour; each class relies on its own colour, ``blue`` also on pink."""

    def __init__(self) -> None:
        super().__init__()
        colours = torch.tensor([COLOURS[name] for name in COLOURS]).float() / 230
        filters = torch.cat([colours, 0.8 * colours]) - 0.55
        self.hues = nn.Sequential(nn.Conv2d(3, 16, 1, bias=False), nn.ReLU())
        self.hues[0].weight.data = filters[:, :, None, None]
        head = torch.eye(8)[: len(CLASSES)]
        head[CLASSES.index("blue"), 7] = 1
        self.head = nn.Linear(16, len(CLASSES), bias=False)
        self.head.weight.data = torch.cat([head, head], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.hues(x / 2 + 0.5).mean((2, 3)))


def draw(folder, classes, count):
    """Draw images of one colour on grey; those of ``blue`` have a pink sticker."""
    random = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(60, 120, (32, 32, 3))
            for colour in (name, "pink") if name == "blue" else (name,):
                y, x = random.integers(0, 18, 2)
                pixels[y : y + 14, x : x + 14] = COLOURS[colour]
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    subject = SubjectModel(Hues(), to_tensor, "32 bilinear", "python:hues", CLASSES)
    return subject, ImageFolder(folder), ColourNames()


def few_classes(folder):
    return draw(folder / "few", CLASSES[:3], 3)


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    return sl.build(
        tmp_path_factory.mktemp("db") / "db", *draw(tmp_path_factory.mktemp("hues"), CLASSES, 8),
        ["hues"], examples=6, crop="activation", relevance=True,
    )  # fmt: skip


SPURIOUS = ConceptSet(
    tuple(Concept(name, kind="spurious") for name in ("pink", "stone", "paper")), "spurious"
)
BACKGROUND = ConceptSet.of([f"{c}{i} thing" for i, c in enumerate("abcdefghijklmnopqrst" * 4)])


@pytest.mark.slow
def test_a_planted_artefact_raises_an_alarm_for_its_class_only(db):
    sweep = db.audit_all([SPURIOUS], background=BACKGROUND, resamples=0)
    assert sweep.alarms == ["blue"]
    assert sweep.audits["blue"].suspect == "pink"
    assert sweep.audits["blue"].p_value < 0.01
    assert "relies on 'pink' more than the other classes do" in sweep.audits["blue"].sentence
    assert db.audit("blue", SPURIOUS, background=BACKGROUND, resamples=0).alarm
    record = sweep.audits["blue"].to_json()
    assert record["suspect"] == "pink"
    table = sweep.audits["blue"].summary.set_index("concept")
    assert table.loc["pink", "contrast"] > table.loc["pink", "contrast_others"]


@pytest.mark.slow
def test_contrasts_of_a_database_by_plain_loops(db):
    valid = ConceptSet((Concept("cyan", kind="valid"),))
    result = concept_contrasts(db, 5, SPURIOUS, valid)
    rows = np.flatnonzero(db.has_examples)
    theta = unit(db.theta[rows].astype(np.float64))

    def aligned(names):
        embedded = embed_concepts(db, ConceptSet.of(names))
        a = theta @ unit(embedded.vectors.astype(np.float64)).T
        a -= theta @ unit(embedded.null.astype(np.float64))[:, None]
        return (a - a.mean(0)) / a.std(0)

    shares = np.zeros((len(rows), 7))
    for c in range(7):
        table = db.relevance(c)
        mean = dict(zip(table["component"], table["mean"], strict=True))
        shares[:, c] = [max(0, mean.get(row, 0)) for row in rows]
        shares[:, c] /= shares[:, c].sum()
    listed = aligned([c.name for c in SPURIOUS.concepts])
    contrast = np.zeros((7, 3))
    for c in range(7):
        own = [CLASSES[c], "cyan"] if c == 5 else [CLASSES[c]]
        u = np.linalg.svd(aligned(own))[0][:, :1]
        e = shares[:, c] - np.delete(shares, c, 1).mean(1)
        e = e - u @ (u.T @ e)
        for j in range(3):
            a = listed[:, j] - u @ (u.T @ listed[:, j])
            contrast[c, j] = (e @ a) / np.sqrt((e @ e) * (a @ a) / (len(rows) - 1))
    np.testing.assert_allclose(result.contrast, contrast[5], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(result.others, np.delete(contrast, 5, 0), rtol=1e-3, atol=1e-4)
    p = moderated_p_values(contrast[5], np.delete(contrast, 5, 0))
    np.testing.assert_allclose(result.p_value, p, rtol=0.02, atol=1e-12)


def test_suspects_propose_what_nobody_listed(db, tmp_path):
    vocabulary = ConceptSet.of([*COLOURS, *(c.name for c in BACKGROUND.concepts[:40])])
    own = [ConceptSet((Concept(name, kind="valid"),), name, target=name) for name in CLASSES]
    result = db.suspects("blue", own, vocabulary=vocabulary, top=5)
    first = result.frame.iloc[0]
    assert (first["class"], first["kind"], first["suspect"]) == ("blue", "word", "pink")
    assert first["contrast"] > first["contrast_others"]
    assert set(first["components"][:2]) == {"hues:7", "hues:15"}
    # seven classes are too few to be certain among 48 words
    assert "ranking only" in result.summary
    assert result.detected.empty
    # its share of the class's relevance, by plain sums over the components that it matches
    assert first["share"] > 0.3 > first["share_others"]
    assert result.components[0] in (sl.Component("hues", 7), sl.Component("hues", 15))
    result.save(tmp_path / "suspects.png")
    assert result.to_json()["suspects"][0]["suspect"] == "pink"
    assert "pink" in repr(result)
    all_classes = db.suspects(None, own, vocabulary=vocabulary, top=1)
    assert set(all_classes.frame["class"]) <= set(CLASSES)
    assert "blue" not in set(result.frame["suspect"])  # its own name
    with pytest.raises(ConceptError, match="No concept set is for the class 'blue'"):
        db.suspects("blue", own[:2], vocabulary=vocabulary)


def test_the_best_matches_of_a_component_are_a_share_of_the_vocabulary():
    values = np.random.default_rng(0).normal(size=(20, 300)).astype(np.float32)
    values[3] = -np.abs(values[3])
    matches = best_matches(values)
    for row, (match, value) in enumerate(zip(matches, values, strict=True)):
        expected = set() if row == 3 else set(np.argsort(-value)[:3])
        assert set(np.flatnonzero(match)) == expected


@pytest.mark.slow
def test_suspects_of_a_saved_audit_over_http(db):
    saved = db.audits.add("blue", ConceptSet((Concept("sea", kind="valid"),)))
    client = TestClient(create_app([db]), base_url="http://localhost")
    answer = when_done(lambda: client.get(f"/api/v1/models/0/audits/{saved.id}/suspects"))
    assert answer.status_code == 200, answer.text
    result = db.suspects("blue", ConceptSet((Concept("sea", kind="valid"),)), top=12)
    assert answer.json()["tested"] == result.tested
    assert [row["suspect"] for row in answer.json()["suspects"]] == list(result.frame["suspect"])
    assert answer.json()["suspects"][0]["p_value"] == pytest.approx(result.frame["p_value"][0])
    bare = db.audits.add(
        "blue", ConceptSet(())
    )  # an empty list explains nothing, and is not replaced by another
    answer = when_done(lambda: client.get(f"/api/v1/models/0/audits/{bare.id}/suspects"))
    result = db.suspects("blue", ConceptSet(()), top=12)
    assert [row["suspect"] for row in answer.json()["suspects"]] == list(result.frame["suspect"])
    missing = when_done(lambda: client.get("/api/v1/models/0/audits/99/suspects"))
    assert missing.status_code == 404


@pytest.mark.slow
def test_suspects_need_classes_to_compare(tmp_path):
    sl.build(tmp_path / "db", *few_classes(tmp_path), ["hues"], examples=4, crop="activation",
             relevance=True)  # fmt: skip
    with pytest.raises(RelevanceError) as error:
        sl.open(tmp_path / "db", embedder=ColourNames()).suspects()
    assert_says(error.value, "relevance for 3 classes", "at least 6", "more classes")


def test_an_alarm_does_not_depend_on_how_the_lists_are_passed(db):
    """Nor on the lists of other classes."""
    own = [ConceptSet((Concept(name, kind="valid"),), name, target=name) for name in CLASSES]
    settings = {"background": BACKGROUND, "resamples": 0}
    p_values = {
        db.audit_all([*own, SPURIOUS], **settings).audits["blue"].p_value,
        db.audit("blue", [*own, SPURIOUS], **settings).p_value,
        db.audit("blue", [own[5], SPURIOUS], **settings).p_value,
        db.audit(5, class_and_concepts(db, 5, [own[5], SPURIOUS])[1], **settings).p_value,
    }
    assert len(p_values) == 1


def test_of_many_classes_some_are_compared():
    assert choose_references([3, 1, 2]) == (1, 2, 3)
    assert len(choose_references(range(1000))) == 30
    assert choose_references(range(1000)) == choose_references(range(999, -1, -1))
