"""Swaps with the usual settings are kept, add up, and are corrected for one another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import LittleNet, WordEmbedder, build_vegetables, to_tensor
from PIL import Image

import semlens as sl
from semlens.lenses.audit.audit import audit
from semlens.lenses.report.report import report
from semlens.lenses.swap.kept import edition, keep_swap, kept_experiments, kept_swap
from semlens.lenses.swap.swap_result import Swap, corrected
from semlens.models.subject import SubjectModel
from semlens.recipe import fingerprint

NAMES = ("vegetable", "ox", "zebra", "clock")
"""Of the little model; zebra has no images."""


def little():
    return SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list(NAMES))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_vegetables(tmp_path_factory.mktemp("kept"), little())


@pytest.fixture
def db(built):
    for file in (built.path / "analysis").glob("swap.parquet"):
        file.unlink()
    return sl.open(built.path, embedder=WordEmbedder(), model=little())


def swap(p, part="border", sizes=(0.15, 0.25)):
    """A swap with one p-value per class at the first size, and 1 at the others."""
    rows = [
        {
            "class": NAMES[target], "logit": target, "part": part, "size": size, "gain": 1.0,
            "p_value": value if size == sizes[0] else 1.0, "adjusted": 0.5, "detected": False,
        }
        for target, value in p.items() for size in sizes
    ]  # fmt: skip
    frame = pd.DataFrame(rows).sort_values(["p_value", "logit"], ignore_index=True)
    components = frame[["class", "part", "size"]].assign(
        component="first:0", rise=1.0, effect=1.0, relevance=0.1, carried=0.3, named=True
    )
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    return Swap(corrected(frame), components, {part: 64}, 3, {part: ((red, blue),)})


@pytest.mark.slow
def test_what_was_run_is_read_again(db):
    assert kept_swap(db) is None
    before = edition(db)
    made = swap({0: 0.2, 1: 0.001, 3: 0.5})
    keep_swap(db, made)
    assert edition(db) != before
    found = kept_swap(sl.open(db.path))
    pd.testing.assert_frame_equal(found.frame, made.frame, check_dtype=False)
    pd.testing.assert_frame_equal(found.components, made.components, check_dtype=False)
    assert (found.images, found.classes) == ({"border": 64}, 3)
    pixel = np.array([[one.getpixel((4, 4)) for one in found.pasted["border"][0]]])
    assert np.abs(pixel - [[(255, 0, 0), (0, 0, 255)]]).max() < 16  # WebP is lossy
    assert found.parts == ["border"]


def test_classes_add_up_and_replace_their_rows(db):
    keep_swap(db, swap({0: 0.2, 1: 0.001}))
    keep_swap(db, swap({1: 0.3, 3: 0.5}))
    frame = kept_swap(db).frame
    assert len(frame) == 6
    smallest = frame.groupby("logit")["p_value"].min()
    assert smallest.to_dict() == {0: 0.2, 1: 0.3, 3: 0.5}


def test_p_values_are_corrected_for_all_tests_of_all_swaps(db):
    keep_swap(db, swap({0: 0.2, 1: 0.004, 3: 0.5}))
    alone = kept_swap(db)
    assert alone.frame["adjusted"].iloc[0] == pytest.approx(0.004 * 6)
    assert alone.detected == ["ox"]
    keep_swap(db, swap({0: 0.2, 1: 0.9, 3: 0.5}, "colour", (1.0, 0.5, 0.2)))
    both = kept_swap(db)
    assert both.parts == ["border", "colour"]
    assert both.frame["adjusted"].iloc[0] == pytest.approx(0.004 * 15)
    assert both.detected == []
    said = kept_experiments(db)[1]
    assert [one.name for one in said] == ["border swap", "colour swap"]
    assert said[0].p_value == pytest.approx(0.004 * 15)
    assert (said[0].tests, said[0].experiments) == (15, 2)


def test_swaps_of_another_build_do_not_count(db, monkeypatch):
    keep_swap(db, swap({1: 0.001}))
    monkeypatch.setitem(vars(db), "fingerprint", fingerprint("another build"))
    assert kept_swap(db) is None


@pytest.mark.slow
def test_a_finding_changes_the_standing_and_the_report(db):
    quiet = audit(db, "ox", resamples=0)
    assert quiet.standing.kind == "no alarm"
    keep_swap(db, swap({0: 0.2, 1: 0.001, 3: 0.5}))
    found = audit(db, "ox", resamples=0)
    assert found.standing.kind == "suspicion"
    assert "the border swap finds that the borders of its images" in found.sentence
    assert "(p = 0.0060, corrected for 6 tests in 1 experiment)" in found.sentence
    assert audit(db, "clock", resamples=0).standing.kind == "no alarm"
    made = report(
        db, "ox", audit=replace(found), concept_map=False, graph=False, before_after=False,
        date="2026-01-31",
    )  # fmt: skip
    assert (made.page.verdict.text, made.page.verdict.kind) == ("Suspicion", "suspicion")
    assert found.standing.sentence() in made.page.sentence
    assert made.to_pandas().set_index("section").loc["swap", "made"]


@pytest.mark.slow
def test_only_the_usual_settings_are_kept(db, monkeypatch):
    kept = []
    module = "semlens.lenses.swap.swap"
    monkeypatch.setattr(f"{module}.keep_swap", lambda _, result: kept.append(result))
    monkeypatch.setattr("semlens.lenses.swap.pairs.LEAST_CLASSES", 3)
    db.swap(part="border", size=0.2, count=8)
    db.swap(part="border", seed=1)
    assert kept == []
    result = db.swap(part="border")
    assert kept == [result]
