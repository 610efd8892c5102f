"""Audits against plain float64 loops, and a planted artefact end to end."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import (
    ColourEmbedder,
    LittleNet,
    WordEmbedder,
    assert_says,
    to_tensor,
)
from PIL import Image
from torch import nn

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.errors import (
    ConceptError,
    EmbedderError,
    LayerError,
    RecipeError,
    RelevanceError,
    StaleError,
)
from semlens.lenses.audit.audit import DRAWS
from semlens.lenses.audit.relevance_shares import (
    ALL,
    VERDICTS,
    BootstrapCosines,
    component_weights,
)
from semlens.lenses.concepts import Concept, ConceptSet
from semlens.lenses.query_embedding import LABEL_TEMPLATES
from semlens.models.subject import SubjectModel
from semlens.recipe import fingerprint

LAYERS = ["first", "second"]
VALID, SPURIOUS = ["dog", "wolf"], ["tree", "stone", "sea"]
BACKGROUND = ConceptSet.of([f"{c}{i} thing" for i, c in enumerate("abcdefghijklmnopqrst" * 4)])
LEVEL, MINIMUM = 0.2, 0.02


def concept_set(valid=(), spurious=(), neutral=(), **more):
    made = [Concept(name, kind="valid") for name in valid]
    made += [Concept(name, kind="spurious") for name in spurious]
    made += [Concept(name) for name in neutral]
    return ConceptSet(tuple(made), "mine", **more)


BOTH = concept_set(VALID, SPURIOUS)


def make(path, pictures, embedder, **settings):
    subject = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    images = ImageFolder(pictures)
    targets = ["abd"[i % 3] for i in range(len(images))]
    settings = {"examples": 6, "relevance": True, "targets": targets, "crop": "activation",
                **settings}  # fmt: skip
    return sl.build(path, subject, images, embedder, LAYERS, **settings)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Mosaics: their crops differ more than those of noise."""
    folder, random = tmp_path_factory.mktemp("mosaics"), np.random.default_rng(0)
    for i in range(41):
        path = folder / f"class{i % 2}" / f"{i:03d}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = random.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((48, 48), Image.Resampling.NEAREST).save(path)
    return folder


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    return make(tmp_path_factory.mktemp("audit") / "db", pictures, WordEmbedder())


def run_audit(db, target="b", concepts=BOTH, **settings):
    settings = {"background": BACKGROUND, "level": LEVEL, "minimum": MINIMUM, "resamples": 20,
                **settings}  # fmt: skip
    return db.audit(target, concepts, **settings)


def cos(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def embed(words, text, templates=LABEL_TEMPLATES):
    prompts = [template.replace("{}", text) for template in templates]
    return np.mean([words.embed_texts([p])[0].double().numpy() for p in prompts], axis=0)


def alignments(db, words, rows, names):
    """Alignment (paper, 3.4) of each row with each name, one cosine at a time."""
    null, vectors = embed(words, ""), [embed(words, name) for name in names]
    theta = [db.theta[row].astype(np.float64) for row in rows]
    return np.array([[cos(one, v) - cos(one, null) for v in vectors] for one in theta])


def bound(values, drawn, level):
    """The least value that the best of ``drawn`` exceeds with at most ``level``; at least 0."""
    ranked = sorted(values)
    for place in range(drawn, len(ranked) + 1):
        if math.comb(place, drawn) / math.comb(len(ranked), drawn) >= 1 - level:
            return max(0.0, ranked[place - 1])
    raise AssertionError


def relevant(db, target, minimum):
    records = [r for r in db.relevance(target).to_dict("records") if r["max"] >= minimum]
    return sorted(records, key=lambda r: (-r["mean"], r["component"]))


class Oracle:
    """The audit in plain loops."""

    def __init__(self, db, words, target, valid, spurious, *, minimum=MINIMUM, level=LEVEL):
        self.records = relevant(db, target, minimum)
        self.rows = [r["component"] for r in self.records]
        taken = {*valid, *spurious}
        random = [c.name for c in BACKGROUND.concepts if c.name not in taken]
        self.random = alignments(db, words, self.rows, random)
        self.sides = {"valid": valid, "spurious": spurious}
        self.values = {
            side: alignments(db, words, self.rows, names) for side, names in self.sides.items()
        }
        self.bounds = {
            side: [bound(row, len(names), level) for row in self.random]
            for side, names in self.sides.items()
        }
        self.aligned = {
            side: [max(row) > least for row, least in zip(values, self.bounds[side], strict=True)]
            for side, values in self.values.items()
        }
        self.verdicts = [
            {(True, False): "valid", (False, True): "spurious", (True, True): "both"}.get(
                pair, "unexpected"
            )
            for pair in zip(self.aligned["valid"], self.aligned["spurious"], strict=True)
        ]
        self.layers = [db.component(row).layer for row in self.rows]

    def weights(self, label, by):
        """The part of each component in a layer, or in all."""
        if by == "number":
            mine = [label in (ALL, layer) for layer in self.layers]
            return [one / sum(mine) for one in mine]
        parts = [max(r["mean"], 0.0) for r in self.records]
        totals = {
            name: sum(p for p, layer in zip(parts, self.layers, strict=True) if layer == name)
            for name in self.layers
        }
        kept = [name for name, total in totals.items() if total > 0]
        return [
            (part / totals[layer] if totals[layer] else 0.0)
            * (1 / len(kept) if label == ALL else layer == label)
            for part, layer in zip(parts, self.layers, strict=True)
        ]


@pytest.mark.slow
def test_alignments_thresholds_and_verdicts(db, words):
    found, plain = run_audit(db), Oracle(db, words, 1, VALID, SPURIOUS)
    assert (found.target, found.name) == (1, "b")
    assert [str(db.component(row)) for row in plain.rows] == found.frame["component"].to_list()
    assert found.frame["layer"].to_list() == plain.layers
    assert found.frame["verdict"].to_list() == plain.verdicts
    assert len(set(plain.verdicts)) >= 3
    for side, names in plain.sides.items():
        best = plain.values[side].argmax(1)
        assert found.frame[f"{side}_concept"].to_list() == [names[i] for i in best]
        np.testing.assert_allclose(found.frame[side], plain.values[side].max(1), atol=2e-6)
        np.testing.assert_allclose(found.frame[f"{side}_threshold"], plain.bounds[side], atol=2e-6)
    for verdict in VERDICTS:
        names = [n for n, v in zip(found.frame["component"], plain.verdicts, strict=True)
                 if v == verdict]  # fmt: skip
        assert [str(one) for one in found.of(verdict)] == names
    assert found.spurious == found.of("spurious")
    assert found.unexpected == found.of("unexpected")


@pytest.mark.slow
def test_fixed_thresholds_are_the_papers(db, words):
    found, plain = run_audit(db, threshold=0.0), Oracle(db, words, 1, VALID, SPURIOUS)
    for place, verdict in enumerate(found.frame["verdict"]):
        valid, spurious = (max(plain.values[side][place]) > 0 for side in ("valid", "spurious"))
        assert verdict == {(True, False): "valid", (False, True): "spurious",
                           (True, True): "both"}.get((valid, spurious), "unexpected")  # fmt: skip


def test_shares_by_number_and_by_relevance(db, words):
    found, plain = run_audit(db), Oracle(db, words, 1, VALID, SPURIOUS)
    for label in (*dict.fromkeys(plain.layers), ALL):
        for by in ("number", "relevance"):
            weights = plain.weights(label, by)
            assert sum(weights) == pytest.approx(1)
            for verdict in VERDICTS:
                share = sum(w for w, v in zip(weights, plain.verdicts, strict=True) if v == verdict)
                assert found.share(verdict, label, by) == pytest.approx(share, abs=1e-6)
    counted = found.shares.query("layer == 'all'").set_index("verdict")["components"]
    assert dict(counted) == {v: plain.verdicts.count(v) for v in VERDICTS}


def test_relevance_against_the_class_has_no_weight():
    weights = component_weights(
        pd.DataFrame({"layer": ["a", "a", "a", "b"], "mean": [0.3, 0.1, -0.5, -0.2]})
    )
    np.testing.assert_allclose(weights.relevance[:, 0], [0.75, 0.25, 0, 0])
    np.testing.assert_allclose(weights.relevance[:, 1], 0)  # nothing speaks for the class there
    np.testing.assert_allclose(weights.relevance[:, 2], [0.75, 0.25, 0, 0])
    np.testing.assert_allclose(weights.components[:, 2], 0.25)


def test_summary_counts_each_component_at_its_best_concept(db, words):
    found, plain = run_audit(db), Oracle(db, words, 1, VALID, SPURIOUS)
    weights = plain.weights(ALL, "relevance")
    for side, names in plain.sides.items():
        best = plain.values[side].argmax(1)
        for place, name in enumerate(names):
            mine = [i for i in range(len(best)) if best[i] == place and plain.aligned[side][i]]
            row = found.summary.query(f"concept == '{name}'").iloc[0]
            assert row["components"] == len(mine)
            assert row["kind"] == side
            assert row["relevance"] == pytest.approx(sum(weights[i] for i in mine), abs=1e-6)
    assert found.summary["relevance"].is_monotonic_decreasing


@pytest.mark.slow
def test_random_sets_come_from_the_pool_of_both(db, words):
    """With vectors less the mean of their layer's crops."""
    found, plain = run_audit(db, seed=4), Oracle(db, words, 1, VALID, SPURIOUS)
    random = [c.name for c in BACKGROUND.concepts if c.name not in {*VALID, *SPURIOUS}]
    null = embed(words, "")
    for side in ("spurious", "valid"):
        names = [*random, *plain.sides[side]]
        count = len(plain.sides[side])
        matches = []
        for row, layer in zip(plain.rows, plain.layers, strict=True):
            crops = np.unique(db.example_crops(layer)[1])
            theta = db.theta[row].astype(np.float64)
            theta -= np.mean([db.crop_vectors[c].astype(np.float64) for c in crops], axis=0)
            pool = np.array([cos(theta, embed(words, n)) - cos(theta, null) for n in names])
            # so many of the random ones are above the bound of n; one more of the pool
            best = sum(pool[: len(random)] > bound(pool[: len(random)], count, LEVEL))
            if bound(pool[: len(random)], count, LEVEL) == 0:
                least = 0.0
            else:
                least = sorted(pool)[-best - 1]
            matches.append((pool >= least) & (pool > 0))
        matches = np.array(matches)
        rng = np.random.default_rng(4)
        sets = [rng.choice(len(names), count, replace=False) for _ in range(DRAWS)]
        for label in (*dict.fromkeys(plain.layers), ALL):
            weights = np.array(plain.weights(label, "relevance"))
            claimed = float(matches[:, -count:].any(1) @ weights)
            drawn = [float(matches[:, c].any(1) @ weights) for c in sets]
            row = found.chance.query(f"side == '{side}' and layer == '{label}'").iloc[0]
            above = sum(value >= claimed - 1e-7 for value in drawn)
            assert row["p_value"] == pytest.approx((1 + above) / (1 + DRAWS))
            assert row["share"] == pytest.approx(claimed, abs=1e-6)
            assert row["expected"] == pytest.approx(np.mean(drawn), abs=1e-6)
    # three classes are too few to compare with one another
    overall = found.chance.query("side == 'spurious' and layer == 'all'").iloc[0]
    assert found.p_value == overall["p_value"]
    assert found.suspect is None
    assert found.summary["p_value"].isna().all()
    assert found.alarm == (found.p_value < LEVEL)


def crops_of(db, row):
    """Crops and sizes of the readouts of one component's examples, in float64."""
    examples = db.examples_of(row)
    vectors = np.array([db.crop_vectors[e.crop].astype(np.float64) for e in examples])
    return vectors, np.array([abs(e.activation) for e in examples], np.float64)


@pytest.mark.parametrize("aggregate", ["mean", "weighted"])
def test_resampled_cosines_are_those_of_theta_from_drawn_examples(
    tmp_path, pictures, words, aggregate
):
    db = make(tmp_path / "db", pictures, words, aggregate=aggregate)
    rows = np.array([3, 0, 9, 21, 14])
    probes = np.stack([embed(words, name) for name in SPURIOUS]).astype(np.float32)
    found = BootstrapCosines(db, rows, probes).draw(np.random.default_rng(5))
    picks = np.random.default_rng(5).random((len(rows), db.manifest.recipe.examples))
    for place, row in enumerate(rows):
        vectors, size = crops_of(db, int(row))
        assert len(vectors) > 1
        chosen = [int(p * len(vectors)) for p in picks[place][: len(vectors)]]
        weight = size[chosen] if aggregate == "weighted" else np.ones(len(chosen))
        theta = sum(w * vectors[i] for w, i in zip(weight, chosen, strict=True)) / weight.sum()
        for column, probe in enumerate(probes):
            assert found[place, column] == pytest.approx(cos(theta, probe), abs=3e-6)


def test_intervals_and_certainty_come_from_redrawn_verdicts(db, words):
    found, plain = run_audit(db, resamples=40, seed=2), Oracle(db, words, 1, VALID, SPURIOUS)
    names = [*VALID, *SPURIOUS]
    probes = np.stack([*(embed(words, n) for n in names), embed(words, "")]).astype(np.float32)
    resampled = BootstrapCosines(db, np.array(plain.rows), probes)
    rng, drawn = np.random.default_rng(2), []
    for _ in range(40):
        cosines = resampled.draw(rng).astype(np.float64)
        values = cosines[:, :-1] - cosines[:, -1:]
        verdicts = []
        for place in range(len(plain.rows)):
            valid = max(values[place, : len(VALID)]) > plain.bounds["valid"][place]
            spurious = max(values[place, len(VALID) :]) > plain.bounds["spurious"][place]
            verdicts.append({(True, False): "valid", (False, True): "spurious",
                             (True, True): "both"}.get((valid, spurious), "unexpected")
                            )  # fmt: skip
        drawn.append(verdicts)
    same = [np.mean([d[i] == v for d in drawn]) for i, v in enumerate(plain.verdicts)]
    np.testing.assert_allclose(found.frame["certainty"], same)
    assert min(same) < 1
    for by in ("number", "relevance"):
        weights = np.array(plain.weights(ALL, by))
        for verdict in VERDICTS:
            shares = [float(np.array([v == verdict for v in d]) @ weights) for d in drawn]
            low, high = np.quantile(shares, [0.025, 0.975])
            row = found.shares.query(f"layer == 'all' and verdict == '{verdict}'").iloc[0]
            share = row[f"by_{by}"]  # the range, or the same reflected about the share
            least, most = min(low, 2 * share - high), max(high, 2 * share - low)
            assert row[f"by_{by}_low"] == pytest.approx(max(0, least), abs=1e-6)
            assert row[f"by_{by}_high"] == pytest.approx(min(1, most), abs=1e-6)
            assert row[f"by_{by}_low"] <= share + 1e-9 and share <= row[f"by_{by}_high"] + 1e-9


@pytest.mark.slow
def test_a_median_and_no_resamples_have_no_intervals(tmp_path, pictures, words, db):
    median = make(tmp_path / "db", pictures, words, aggregate="median")
    for found in (run_audit(median), run_audit(db, resamples=0)):
        assert found.frame["certainty"].isna().all()
        assert found.shares[["by_number_low", "by_relevance_high"]].isna().all(axis=None)
        assert "%" in repr(found)
        assert "nan" not in repr(found)


def test_the_same_seed_gives_the_same_audit_and_layers_can_be_chosen(db):
    first, again = run_audit(db, seed=7), run_audit(db, seed=7)
    assert first.shares.equals(again.shares)
    assert first.chance.equals(again.chance)
    one = run_audit(db, layers=["second"])
    assert set(one.frame["layer"]) == {"second"}
    twice = run_audit(db, layers=["second", "second"])
    assert twice.frame.equals(one.frame)


def test_a_name_that_recurs_counts_once(db):
    doubled = concept_set([*VALID, "Dog", " wolf "], [*SPURIOUS, "sea"])
    once, twice = run_audit(db), run_audit(db, concepts=doubled)
    assert once.frame.equals(twice.frame)
    assert once.summary.equals(twice.summary)
    assert once.chance.equals(twice.chance)


def test_audited_names_are_not_in_the_background(db):
    name = BACKGROUND.concepts[0].name.upper()
    found = run_audit(db, concepts=concept_set((), [name]), background=BACKGROUND)
    rest = ConceptSet(tuple(c for c in BACKGROUND.concepts if c.name != name.lower()), "rest")
    other = run_audit(db, concepts=concept_set((), [name]), background=rest)
    assert found.frame.equals(other.frame)


@pytest.mark.parametrize("side", ["valid", "spurious"])
def test_one_side_is_enough(db, side):
    found = run_audit(db, concepts=concept_set(**{side: VALID}))
    assert found.possible == {side, "unexpected"}
    assert set(found.frame["verdict"]) <= found.possible
    assert found.frame["valid" if side == "spurious" else "spurious"].isna().all()
    assert found.alarm is (side == "spurious" and found.p_value < LEVEL)
    assert np.isnan(found.p_value) == (side == "valid")
    assert ("random" in found.sentence) == (side == "spurious")


# -- image concepts --------------------------------------------------------------------------


def flat(folder, name, colour):
    path = folder / f"{name}.png"
    Image.new("RGB", (20, 20), colour).save(path)
    return path


def images_of(tmp_path):
    red = [flat(tmp_path, f"red{i}", (200 + 20 * i, 10, 10)) for i in range(2)]
    blue = [flat(tmp_path, "blue", (10, 10, 230))]
    return ConceptSet(
        (Concept("red", (), "spurious", tuple(red)), Concept("blue", (), "valid", tuple(blue)))
    )


@pytest.fixture(scope="module")
def seeing(tmp_path_factory, pictures):
    """A database whose embedder reads no texts."""
    return make(tmp_path_factory.mktemp("seeing") / "db", pictures, ColourEmbedder())


@pytest.mark.slow
def test_images_are_calibrated_with_what_other_classes_show(tmp_path, seeing):
    db = seeing
    found = run_audit(db, concepts=images_of(tmp_path), level=0.05)
    logits = db.samples["logit"].to_numpy()[db.crop_samples]
    crops = db.crop_vectors.astype(np.float64)[logits != found.target]
    assert 0 < len(crops) < len(db.crop_vectors)
    for side, count in (("spurious", 2), ("valid", 1)):
        drawn = np.random.default_rng(0).choice(len(crops), 500, replace=len(crops) < 500)
        alike = [sorted(range(len(crops)), key=lambda i: -cos(crops[i], crops[d])) for d in drawn]
        concepts = [crops[one[:count]].mean(0) for one in alike]
        for row, least in zip(found.frame["row"], found.frame[f"{side}_threshold"], strict=True):
            values = [cos(db.theta[row].astype(np.float64), one) for one in concepts]
            assert least == pytest.approx(bound(values, 1, 0.05), abs=3e-6)
    with pytest.raises(EmbedderError, match="no text tower"):
        run_audit(db, concepts=BOTH)


def test_texts_and_images_share_the_level(tmp_path, db, words):
    mixed = ConceptSet((*images_of(tmp_path).concepts[:1], Concept("car", (), "spurious")))
    found = run_audit(db, concepts=mixed)
    random = alignments(db, words, found.frame["row"], [c.name for c in BACKGROUND.concepts])
    for place, best in enumerate(found.frame["spurious_concept"]):
        if best == "car":
            least = bound(random[place], 1, LEVEL / 2)
            assert found.frame["spurious_threshold"][place] == pytest.approx(least, abs=2e-6)
    assert set(found.frame["spurious_concept"]) == {"car", "red"}


def test_many_image_concepts_get_enough_random_ones(tmp_path, seeing):
    one = (flat(tmp_path, "red", (220, 10, 10)),)
    many = ConceptSet(tuple(Concept(f"red {i}", (), "spurious", one) for i in range(40)))
    assert len(run_audit(seeing, concepts=many, level=0.05).frame)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("concepts", "settings", "kind", "parts"),
    [
        (concept_set(neutral=["dog"]), {}, ConceptError, ["no valid and no spurious", "Rename"]),
        (concept_set(["dog"], ["DOG "]), {}, ConceptError, ["valid and spurious: DOG", "one side"]),
        (BOTH, {"background": ConceptSet.of(["x", "y"])}, ConceptError,
         ["2 concepts is too small for a set of 2", "at least 10", "larger background"]),
        (BOTH, {"minimum": 0.99}, RelevanceError, ["reaches 99 %", "Lower the minimum"]),
        (BOTH, {"minimum": float("nan")}, RecipeError, ["'minimum' of 'audit' is nan"]),
        (BOTH, {"minimum": 1.5}, RecipeError, ["from 0 to 1"]),
        (BOTH, {"level": 0.0}, RecipeError, ["'level' of 'audit' is 0.0", "above 0 below 1"]),
        (BOTH, {"level": 1.0}, RecipeError, ["'level' of 'audit' is 1.0"]),
        (BOTH, {"threshold": float("nan")}, RecipeError, ["'audit' is nan", "-2 to 2", "a pair"]),
        (BOTH, {"resamples": -1}, RecipeError, ["whole number from 0"]),
        (BOTH, {"seed": -1}, RecipeError, ["'seed' of 'audit' is -1", "whole number from 0"]),
        (BOTH, {"layers": ["frist"]}, LayerError, ["frist", "first"]),
        (BOTH, {"layers": []}, LayerError, ["No layer"]),
        (BOTH, {"target": "c"}, RelevanceError, ["no relevance for class 2"]),
        (BOTH, {"target": "ox"}, RelevanceError, ["Unknown class 'ox'", "a, b, c, d"]),
        (BOTH, {"target": 9}, RelevanceError, ["from 0 to 3"]),
    ],
)  # fmt: skip
def test_bad_input(db, concepts, settings, kind, parts):
    with pytest.raises(kind) as error:
        run_audit(db, **{"concepts": concepts, **settings})
    assert_says(error.value, *parts)


def test_a_database_without_relevance_says_the_command(tmp_path, pictures, words):
    db = make(tmp_path / "db", pictures, words, relevance=False, targets=None)
    with pytest.raises(RelevanceError) as error:
        run_audit(db)
    assert_says(error.value, "no class relevance", "relevance=True", "--relevance")


def test_a_foreign_embedder_is_refused(db):
    with pytest.raises(StaleError, match="embedder"):
        sl.open(db.path, embedder=WordEmbedder(seed=3))
    with pytest.raises(StaleError, match="embedder"):
        sl.open(db.path, embedder=ColourEmbedder(seed=3))


# -- a planted artefact --------------------------------------------------------------------------

COLOURS = {"red": (230, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230)}


class NamedColours(WordEmbedder):
    """Pictures and names of colours side by side; other words are noise."""

    spec = "python:named-colours"

    def __init__(self) -> None:
        super().__init__()
        self.fingerprint = fingerprint("named-colours")

    def _texts(self, texts: list[str]) -> torch.Tensor:
        vectors = super()._texts(texts)
        for place, text in enumerate(texts):
            for name, colour in COLOURS.items():
                if name in text.split():
                    picture = self.preprocess(Image.new("RGB", (8, 8), colour))
                    vectors[place] = self._images(picture[None])[0]
        return vectors


class Detectors(nn.Module):
    """One channel per colour; class a rests on green and on red, b on blue, c on green and blue."""

    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU())
        self.eye[0].weight.data = (1.5 * torch.eye(3) - 0.5)[:, :, None, None]
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight.data = torch.tensor([[2.0, 1, 0], [0, 0, 1], [0, 1, 1]])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.eye(x / 2 + 0.5).mean((2, 3)))


def planted(folder):
    """Pictures of colours on grey: the class a is green and carries a red patch."""
    shown = {"a": ("green", "red"), "b": ("blue",), "c": ("green", "blue")}
    random = np.random.default_rng(0)
    for name, colours in shown.items():
        (folder / name).mkdir(parents=True)
        for i in range(12):
            pixels = random.integers(90, 110, (40, 40, 3))
            for colour in colours:
                y, x = random.integers(0, 24, 2)
                pixels[y : y + 16, x : x + 16] = COLOURS[colour]
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.slow
def test_a_planted_artefact_is_spurious_for_its_class_only(tmp_path):
    subject = SubjectModel(Detectors(), to_tensor, "32 bilinear", "python:eyes", list("abc"))
    images = ImageFolder(planted(tmp_path / "pictures"))
    settings = {"examples": 8, "crop": "activation", "relevance": True}
    db = sl.build(tmp_path / "db", subject, images, NamedColours(), ["eye"], **settings)
    sets = [concept_set((), ["red sticker"])]
    sets += [
        concept_set([names], (), target=target)
        for target, names in {"a": "green", "b": "blue", "c": "blue"}.items()
    ]
    # one component is behind the artefact: random words match it with nearly the level
    found = db.audit_all(sets, background=BACKGROUND, level=0.055)
    assert found.audits["a"].p_value < 0.08
    audits = found.audits
    assert [str(one) for one in audits["a"].spurious] == ["eye:0"]
    assert [str(one) for one in audits["a"].of("valid")] == ["eye:1"]
    assert audits["a"].share("spurious") > 0.5
    for name in "bc":
        assert audits[name].spurious == []
        assert audits[name].p_value == 1
        assert [str(one) for one in audits[name].of("valid")] == ["eye:2"]
    assert [str(one) for one in audits["c"].unexpected] == ["eye:1"]
