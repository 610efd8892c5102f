"""Studies with people: which sets are shown, what the measures say, and what the page tells."""

from __future__ import annotations

import json
import re
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ColourEmbedder, LittleNet, assert_says, to_tensor, write_pictures
from PIL import Image
from torch import nn

import semlens as sl
from semlens.errors import DataError, RecipeError, StoreError
from semlens.lenses.study.odd_one_out import answer_all
from semlens.lenses.study.sampling import Sampler, draw_questions, examples_needed
from semlens.lenses.study.set_measures import (
    odd_set,
    odd_similarity,
    set_clarity,
    set_polysemanticity,
    set_vectors,
)
from semlens.models.subject import SubjectModel

MEASURES = ("similarity", "clarity", "polysemanticity")


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    images = sl.ImageFolder(write_pictures(folder / "images", 40))
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little")
    layers = ["first", "second"]
    return sl.build(folder / "db", model, images, ColourEmbedder(), layers, examples=8)


def drawn(db, measure, tasks=6, shown=4, seed=0):
    sampler = Sampler(db, None, examples_needed(measure, shown), seed)
    return draw_questions(sampler, measure, tasks, shown)


def crops_of(db, row):
    return [example.crop for example in db.examples_of(row)]


# -- the sets that are shown ----------------------------------------------------------------------


def test_the_odd_one_out_is_of_every_second_example_of_two_components(db):
    questions = drawn(db, "similarity")
    for asked in questions:
        odd = "ABC".index(asked.right)
        one, two = (i for i in range(3) if i != odd)
        assert asked.rows[one] == asked.rows[two] != asked.rows[odd]
        pair = crops_of(db, asked.rows[one])
        assert {asked.sets[one], asked.sets[two]} == {tuple(pair[::2]), tuple(pair[1::2])}
        assert asked.sets[odd] == tuple(crops_of(db, asked.rows[odd])[::2])
        assert len({db.component(row).layer for row in asked.rows}) == 1
    assert len({asked.right for asked in drawn(db, "similarity", tasks=12)}) == 3


def test_no_component_recurs_before_all_were_drawn(db):
    sampler = Sampler(db, None, 8, 0)
    available = sum(len(rows) // 2 for rows in sampler.layers)
    rows = [row for pair in sampler.pairs(available) for row in pair]
    assert len(rows) == len(set(rows)) == 2 * available
    assert len(sampler.pairs(2 * available + 1)) == 2 * available + 1


def test_a_clear_set_stands_against_random_crops_of_its_layer(db):
    questions = drawn(db, "clarity")
    assert [q.kind for q in questions[:3]] == ["clearer-control", "rating", "clearer"]
    for asked in questions:
        tops = [tuple(crops_of(db, row)[:4]) for row in asked.rows]
        if asked.kind != "clearer-control":
            assert asked.sets == tuple(tops)
            continue
        place = "AB".index(asked.right)
        assert asked.sets[place] == tops[0]
        layer = db.component(asked.rows[0]).layer
        in_layer = {c for row in db.rows([layer]).tolist() for c in crops_of(db, row)[:4]}
        assert set(asked.sets[1 - place]) <= in_layer
    assert {q.right for q in questions} == {"A", "B", None}


def test_controls_of_themes_show_one_clear_component_or_two_that_differ(db):
    questions = drawn(db, "polysemanticity", tasks=12)
    assert {(q.kind, q.right) for q in questions} == {
        ("count", None), ("count-control", "one"), ("count-control", "two"),
    }  # fmt: skip
    clarity = db.scores().to_pandas()["clarity"].to_numpy()
    for asked in questions:
        of_rows = [crops_of(db, row)[: 4 // len(asked.rows)] for row in asked.rows]
        assert sorted(asked.sets[0]) == sorted(crop for crops in of_rows for crop in crops)
        if asked.kind == "count-control":
            own = db.rows([db.component(asked.rows[0]).layer])
            above = (clarity[own] > clarity[asked.rows[0]]).mean()
            assert above < 0.7  # of four examples, not eight: about the clearest


# -- the measures, against plain equations in float64 ---------------------------------------------


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / np.sqrt(
        sum(x * x for x in a) * sum(y * y for y in b)
    )


def test_similarity_is_that_of_the_mean_vectors():
    sets = torch.nn.functional.normalize(torch.randn(40, 3, 5, 7), dim=3)
    for vectors in sets:
        means = vectors.double().mean(1).tolist()
        pairs = {odd: cosine(*(means[i] for i in range(3) if i != odd)) for odd in range(3)}
        assert odd_set(vectors) == max(pairs, key=pairs.get)
        for odd in range(3):
            mean = sum(cosine(means[odd], means[i]) for i in range(3) if i != odd) / 2
            assert odd_similarity(vectors, odd) == pytest.approx(mean, abs=1e-6)


def test_clarity_and_polysemanticity_of_a_set():
    vectors = torch.nn.functional.normalize(torch.randn(6, 5), dim=1)
    plain = vectors.double().tolist()
    pairs = [cosine(a, b) for a, b in permutations(plain, 2)]
    assert set_clarity(vectors) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    two = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert set_polysemanticity(two) == pytest.approx(1)
    assert set_polysemanticity(two[:2]) == pytest.approx(0)


def test_all_pairs_are_answered_as_one_by_one():
    torch.manual_seed(0)
    first, second = (set_vectors(torch.randn(9, 3, 4)) for _ in range(2))
    found = answer_all(first, second)
    for pair in range(9):
        others = [j for j in range(9) if j != pair]
        right = [
            odd_set(torch.stack([first[j], first[pair], second[pair]])[:, None]) == 0
            for j in others
        ]
        assert found.accuracy[pair] == pytest.approx(np.mean(right))
        near = [max(first[j] @ first[pair], first[j] @ second[pair]) for j in others]
        assert found.nearest[pair] == others[int(np.argmax(near))]


def test_the_key_has_the_measures_of_what_is_shown(db):
    for measure in MEASURES:
        questions = drawn(db, measure)
        found = db.study(measure, tasks=6, shown=4)
        for asked, row in zip(questions, found.to_pandas().to_dict("records"), strict=True):
            vectors = [torch.from_numpy(db.crop_vectors[list(s)]).float() for s in asked.sets]
            if measure == "similarity":
                odd = "ABC".index(asked.right)
                expected = odd_similarity(torch.stack(vectors), odd)
            elif len(vectors) == 2:
                expected = set_clarity(vectors[0]) - set_clarity(vectors[1])
                assert row["pick"] == ("A" if expected > 0 else "B")
            else:
                of_set = set_clarity if measure == "clarity" else set_polysemanticity
                expected = of_set(vectors[0])
            assert row["value"] == pytest.approx(expected)
            assert (None if pd.isna(row["right"]) else row["right"]) == asked.right
            names = [str(db.component(r)) for r in dict.fromkeys(asked.rows)]
            assert row["components"] == ", ".join(names)


# -- planted units, and their null ----------------------------------------------------------------


class Units(nn.Module):
    """Units that respond to a colour each, or, as the null, to noise that the embedder averages."""

    def __init__(self, planted: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.planted = planted
        angles = torch.arange(12) * (2 * torch.pi / 12)
        hues = torch.stack([torch.cos(angles - turn * 2 * torch.pi / 3) for turn in range(3)], 1)
        count = 12 if planted else 48
        self.units = nn.Conv2d(3, count, 1 if planted else 32, bias=False)
        weights = torch.randn(count, 3, 32, 32, generator=generator)
        # zero mean in each cell of the embedder's grid: colours make no difference
        cells = weights.reshape(count, 3, 4, 8, 4, 8)
        null = (cells - cells.mean((3, 5), keepdim=True)).reshape(count, 3, 32, 32)
        self.units.weight.data = hues[:, :, None, None] if planted else null
        self.head = nn.Linear(count, 2)

    def forward(self, x):
        return self.head(self.units(x).mean((2, 3)))


@pytest.fixture(scope="module")
def hues(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("hues"), np.random.default_rng(0)
    for i in range(240):
        angle = rng.uniform(0, 2 * np.pi) - np.arange(3) * 2 * np.pi / 3
        pixels = 127 + 70 * np.cos(angle) + rng.normal(0, 25, (32, 32, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:03d}.png")
    return sl.ImageFolder(folder)


@pytest.mark.parametrize("planted", [True, False])
def test_the_measure_finds_planted_units_and_guesses_at_random_ones(planted, hues, tmp_path):
    model = SubjectModel(Units(planted), to_tensor, "32 bilinear", f"python:{planted}")
    db = sl.build(
        tmp_path / "db", model, hues, ColourEmbedder(), ["units"], examples=12, crop="none",
        signs="positive",
    )  # fmt: skip
    found = db.odd_one_out(shown=6, shuffles=30)
    accuracy, shuffled = found.layers[["accuracy", "shuffled"]].to_numpy()[0]
    assert shuffled == pytest.approx(1 / 3, abs=0.05)
    if planted:
        assert accuracy > 0.97
        assert db.study(tasks=12, shown=6).frame["pick"].tolist() == (
            db.study(tasks=12, shown=6).frame["right"].tolist()
        )
    else:
        assert accuracy == pytest.approx(1 / 3, abs=0.1)


@pytest.mark.slow
def test_the_measure_finds_the_odd_one_out_in_the_demo(demo):
    layers = sl.open(demo).odd_one_out().layers.set_index("layer")
    assert layers.loc["layer3", "accuracy"] > 0.97  # as in the paper
    assert (layers["accuracy"] > 0.95).all()
    assert layers["shuffled"].to_numpy() == pytest.approx(1 / 3, abs=0.02)


def test_the_accuracy_is_that_of_single_questions_on_the_database(db):
    found = db.odd_one_out(shown=4, shuffles=1).to_pandas().set_index("component")
    rows = db.rows(["second"]).tolist()
    halves = {}
    for row in rows:
        vectors = torch.from_numpy(db.crop_vectors[crops_of(db, row)]).float()
        halves[row] = vectors[::2], vectors[1::2]
    for pair in rows[:5]:
        right = [odd_set(torch.stack([halves[j][0], *halves[pair]])) == 0
                 for j in rows if j != pair]  # fmt: skip
        assert found.loc[str(db.component(pair)), "accuracy"] == pytest.approx(np.mean(right))


# -- the page and its key -------------------------------------------------------------------------


def content_of(page):
    return json.loads(re.search(r'id="content">(.*?)</script>', page, re.S)[1])


@pytest.mark.parametrize("measure", MEASURES)
def test_the_page_holds_no_answer_and_loads_nothing(db, tmp_path, measure):
    study = db.study(measure, tasks=6, shown=4)
    study.save(tmp_path / "study.html")
    page = (tmp_path / "study.html").read_text()
    content = content_of(page)
    for name in db.names():
        assert name not in page
    assert "control" not in json.dumps({**content, "pictures": []})
    assert "right" not in json.dumps({**content, "pictures": []})
    assert not re.search(r"https?://|src=[\"']?[^\"'d]|@import|fetch\(", page)
    questions = drawn(db, measure)
    assert len(content["questions"]) == len(questions)
    crops = list(dict.fromkeys(c for q in questions for s in q.sets for c in s))
    for shown, asked in zip(content["questions"], questions, strict=True):
        assert [[crops[i] for i in s] for s in shown["sets"]] == [list(s) for s in asked.sets]
    assert len(content["pictures"]) == len(crops)
    if measure == "polysemanticity":  # nothing tells the controls from the others
        assert {q["task"] for q in content["questions"]} == {0}


def test_a_study_is_the_same_for_the_same_seed_only(db, tmp_path):
    first, again, other = (db.study(tasks=4, shown=4, seed=seed) for seed in (3, 3, 4))
    assert first.to_json() == again.to_json()
    assert first.id != other.id
    for name, study in (("a", first), ("b", again)):
        study.save(tmp_path / f"{name}.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_component_that_recurs_is_counted(db):
    many = db.study(tasks=30, shown=2)
    assert many.recurring > 0
    assert "recur" in repr(many)
    few = db.study(tasks=4, shown=2)
    assert few.recurring == 0
    assert "recur" not in repr(few)


def test_a_study_and_the_accuracy_are_drawn_and_saved(db, tmp_path):
    study, odd = db.study("clarity", tasks=4, shown=4), db.odd_one_out(shown=4)
    assert [axes.get_xlabel() for axes in study.plot().axes] == ["clarity"]
    shown = [text.get_text() for text in odd.plot().axes[0].get_yticklabels()]
    assert [text.split("\n")[0] for text in shown] == db.layers
    study.save(tmp_path / "key.csv")
    assert len(pd.read_csv(tmp_path / "key.csv")) == 12
    assert len(odd.to_json()["components"]) == len(db.components)


def test_too_few_examples_and_wrong_settings_are_refused(db, tmp_path):
    with pytest.raises(DataError) as error:
        db.study(shown=5)
    assert_says(error.value, "10 examples", "the most are 8", "fewer images")
    with pytest.raises(RecipeError) as wrong:
        db.study("colour")
    assert_says(wrong.value, "colour", "similarity, clarity or polysemanticity")
    with pytest.raises(RecipeError):
        db.study(tasks=3)
    with pytest.raises(StoreError):
        db.study(tasks=4, shown=2).save(tmp_path / "study.xlsx")
