"""Sweeps over classes, conditions, JUnit, the command and its pictures."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from conftest import LittleNet, assert_says, to_tensor
from PIL import Image
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.draw.audit_plots import audit_plot, sweep_plot
from semlens.draw.figure import figure_png
from semlens.draw.palette import VERDICTS
from semlens.errors import ConceptError, RecipeError, RelevanceError, StoreError
from semlens.lenses.audit.ci_gate import Condition, check_conditions, save_junit
from semlens.lenses.audit.random_concepts import (
    ConceptPool,
    chance_threshold,
    compare_with_random,
    pool_concepts,
    random_shares,
)
from semlens.lenses.audit.saved_audits import SavedAudits
from semlens.lenses.classes import find_class
from semlens.lenses.concepts import Concept, ConceptSet, load_sets
from semlens.lenses.resolve_concepts import concepts_by_class, set_for, sets_for
from semlens.models.subject import SubjectModel
from semlens.progress import progress_listener

# -- chance ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("known", "drawn", "level"), [(8, 2, 0.3), (9, 3, 0.45), (10, 1, 0.2)])
def test_the_threshold_is_the_quantile_over_all_subsets(known, drawn, level):
    random = np.random.default_rng(known).normal(size=(4, known)).astype(np.float32)
    found = chance_threshold(random, drawn, level)
    for values, least in zip(random, found, strict=True):
        best = [max(values[list(chosen)]) for chosen in combinations(range(known), drawn)]
        above = np.mean([value > least for value in best])
        assert above <= level + 1e-12
        lower = max(value for value in values if value < least)
        assert np.mean([value > lower for value in best]) > level  # the least that will do


def test_the_threshold_by_simulation():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 300)).astype(np.float32)
    least = chance_threshold(values, 12, 0.1)[0]
    best = [values[0, rng.choice(300, 12, replace=False)].max() for _ in range(4000)]
    # steps of the closed form are coarse: two values lie above, and one more would be too many
    exact = 1 - 288 * 287 / (300 * 299)
    assert exact <= 0.1 < 1 - 288 * 287 * 286 / (300 * 299 * 298)
    error = math.sqrt(exact * (1 - exact) / 4000)
    assert np.mean(np.array(best) > least) == pytest.approx(exact, abs=3 * error)


@pytest.mark.parametrize(("known", "drawn", "least"), [(99, 5, 100), (5, 5, 100), (3, 4, 80)])
def test_a_background_that_is_too_small(known, drawn, least):
    with pytest.raises(ConceptError) as error:
        chance_threshold(np.zeros((2, known), np.float32), drawn, 0.05)
    assert_says(
        error.value, f"{known} concepts is too small for a set of {drawn}", f"least {least}"
    )
    assert len(chance_threshold(np.zeros((2, least), np.float32), drawn, 0.05)) == 2


def test_random_shares_by_loops():
    rng = np.random.default_rng(1)
    weight = rng.dirichlet(np.ones(7), 2).T
    pools = [
        ConceptPool(rng.random((7, 11)) < 0.2, 3),
        ConceptPool(rng.random((7, 6)) < 0.3, 2),
    ]
    shares = random_shares(pools, weight, 50, seed=3)
    rng = np.random.default_rng(3)
    for draw in shares:
        hit = np.zeros(7, bool)
        for pool in pools:
            for one in rng.choice(pool.above.shape[1], pool.listed, replace=False):
                hit |= pool.above[:, one]
        np.testing.assert_allclose(draw, [sum(weight[hit, 0]), sum(weight[hit, 1])])
    listed = pools[0].above[:, -3:].any(1) | pools[1].above[:, -2:].any(1)
    compared = compare_with_random(pools, weight, 50, seed=3)
    for column in (0, 1):
        claimed = sum(weight[listed, column])
        as_much = sum(one >= claimed - 1e-9 for one in shares[:, column])
        assert compared.share[column] == pytest.approx(claimed)
        assert compared.expected[column] == pytest.approx(np.mean(shares[:, column]))
        assert compared.p_value[column] == pytest.approx((1 + as_much) / 51)


@pytest.mark.parametrize("shift", [0.0, -0.5, 2.0])
def test_a_pool_matches_what_the_threshold_of_the_random_concepts_does(shift):
    rng = np.random.default_rng(0)
    random = rng.normal(size=(200, 300)).astype(np.float32)
    listed = (rng.normal(size=(200, 4)) + shift).astype(np.float32)
    least = np.maximum(chance_threshold(random, 4, 0.05), 0)
    matched = pool_concepts(random, listed, 0.05).matched
    np.testing.assert_array_equal(matched, (listed > least[:, None]).any(1))


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1.0, 0.02], ids=["normal", "one relevant component"])
def test_random_lists_are_spurious_as_often_as_the_level_says(spread):
    """Lists, components and background from one distribution.

    With random lists from the background alone, P(p < .05) was .135.
    """
    rng, rounds, components, listed = np.random.default_rng(0), 500, 20, 22
    aligned, p_values = [], []
    for seed in range(rounds):
        values = rng.normal(size=(components, 500)).astype(np.float32)
        pool = pool_concepts(values[:, listed:], values[:, :listed], 0.05)
        weight = rng.dirichlet(np.full(components, spread))[:, None]
        aligned.append(pool.matched.mean())
        p_values.append(compare_with_random([pool], weight, 99, seed).p_value[0])
    p_values = np.array(p_values)
    # the best of 22 is among the two best of all 500, since one random concept is above the bound
    expected = 1 - (478 * 477) / (500 * 499)
    assert np.mean(aligned) == pytest.approx(expected, abs=0.008)
    for level in (0.05, 0.1, 0.3):
        error = math.sqrt(level * (1 - level) / rounds)
        assert (p_values <= level).mean() <= level + 3 * error


# -- sets of many classes ----------------------------------------------------------------------


def small(name, valid=(), spurious=(), **more):
    made = [Concept(text, kind="valid") for text in valid]
    made += [Concept(text, kind="spurious") for text in spurious]
    return ConceptSet(tuple(made), name, **more)


ANY = small("any", spurious=["logo", "text"])
FOR_B = small("for-b", ["dog"], target="b")
FOR_D = small("for-d", ["car"], target="d")


def test_join():
    joined = ConceptSet.join([ANY, FOR_B, ANY])
    assert [c.name for c in joined.concepts] == ["logo", "text", "dog"]
    assert (joined.name, joined.target) == ("any + for-b", "b")
    one, two = small("x", ["a"], templates=("a {}",)), small("y", ["b"], templates=("b {}",))
    with pytest.raises(ConceptError, match="different templates"):
        ConceptSet.join([one, two])
    with pytest.raises(ConceptError, match="different targets"):
        ConceptSet.join([FOR_B, FOR_D])
    with pytest.raises(ConceptError, match="no concept set"):
        ConceptSet.join([])
    assert ConceptSet.join([one, ANY]).templates == ("a {}",)


def test_load_sets(tmp_path):
    (tmp_path / "b.json").write_text('{"valid": ["dog"]}')
    (tmp_path / "a.toml").write_text('spurious = ["logo"]')
    (tmp_path / "c.csv").write_text("concept\nsea\n")
    (tmp_path / "notes.txt").write_text("nothing")
    assert [one.name for one in load_sets(tmp_path)] == ["a", "b", "c"]
    assert [one.name for one in load_sets(tmp_path / "b.json")] == ["b"]
    family = load_sets("paper-imagenet")
    assert len(family) == 26
    assert all(one.target and len(one.of_kind("valid")) == len(one) for one in family)
    assert len(load_sets("artefacts")[0].of_kind("spurious")) == len(load_sets("artefacts")[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConceptError) as error:
        load_sets(tmp_path / "empty")
    assert_says(error.value, "has no concept sets", ".toml, .json or .csv")
    with pytest.raises(ConceptError, match="neither a file nor a bundled"):
        load_sets("paper-imagenett")


BACKGROUND = ConceptSet.of([f"{a}{b}" for a in "bcdfgklmprst" for b in ("at", "ot", "ill", "un")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A database of the demo's embedder, which the command can load, and files beside it."""
    root, random = tmp_path_factory.mktemp("gate"), np.random.default_rng(0)
    images = []
    for _ in range(24):
        pixels = random.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        images.append(Image.fromarray(pixels).resize((48, 48), Image.Resampling.NEAREST))
    subject = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abbd"))
    (root / "classes.csv").write_text("a,0\nx,1\ny,2\n")
    items = [(image, "axy"[i % 3]) for i, image in enumerate(images)]
    sl.build(
        root / "db", subject, sl.ImageSequence(items, classes=list("axy")),
        sl.load_embedder("semlens/demo"), ["first", "second"], examples=4, crop="activation",
        relevance=True, classes=root / "classes.csv",
    )  # fmt: skip
    lines = ["concept", *(concept.name for concept in BACKGROUND.concepts)]
    (root / "background.csv").write_text("\n".join(lines) + "\n")
    (root / "any.toml").write_text('spurious = ["logo", "text"]\n')
    (root / "for-a.toml").write_text('target = "a"\nvalid = ["dog"]\n')
    return root


@pytest.fixture(scope="module")
def db(folder):
    return sl.open(folder / "db")


SETTINGS = {"background": BACKGROUND, "level": 0.2, "resamples": 5}
FOR_A = small("for-a", ["dog"], target="a")


@pytest.mark.slow
def test_sets_for_a_class(db):
    assert [c.name for c in set_for(db, find_class(db, "a"), [ANY, FOR_A]).concepts] == [
        "logo",
        "text",
        "dog",
    ]
    assert set_for(db, 1, [ANY, FOR_A]).concepts == ANY.concepts
    with pytest.raises(ConceptError) as error:
        set_for(db, 1, [FOR_A])
    assert_says(error.value, "for the class 'b'", "are for a", "'target'")


def test_sets_in_any_form(db, folder):
    texts = {"spurious": ["logo", "text"]}
    forms = [
        folder / "any.toml",
        str(folder / "any.toml"),
        texts,
        [folder / "any.toml"],
        ANY,
        [ANY],
    ]
    for form in forms:
        (one,) = sets_for(db, form)
        assert [c.name for c in one.of_kind("spurious").concepts] == ["logo", "text"]
    several = sets_for(db, ["artefacts", str(folder / "for-a.toml"), FOR_A, "demo-world"])
    assert len(several) == 3 + 12
    assert [one.target for one in several[:3]] == [None, "a", "a"]
    assert [c.name for one in sets_for(db, ["dog", "cat"]) for c in one.concepts] == ["dog", "cat"]
    with pytest.raises(ConceptError, match="'artefcts' is neither a file nor a bundled"):
        sets_for(db, ["artefcts", "demo-world"])  # never a text beside a name


def test_a_page_names_no_files(db, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "artefacts").mkdir(exist_ok=True)  # which hides no bundled set
    (one,) = sets_for(db, ["artefacts"], files=False)
    assert len(one.of_kind("spurious")) == len(one) > 20
    for name in ("any.toml", str(folder / "any.toml"), ".", "/etc/passwd", "artefcts"):
        with pytest.raises(ConceptError, match="neither a file nor a bundled"):
            sets_for(db, [name], files=False)
        with pytest.raises(ConceptError, match="neither a file nor a bundled"):
            concepts_by_class(db, [name], files=False)
    (folder / "artefacts").rmdir()


def test_sets_that_are_chosen_for_a_class(db):
    (mine,) = sets_for(db, [FOR_A], 1)
    assert (mine.target, mine.concepts) == (None, FOR_A.concepts)  # whatever it was written for
    with pytest.raises(ConceptError, match="No concept set is for the class 'a'"):
        sets_for(db, ["demo-world"], find_class(db, "a"))  # of a family those for the class


def test_a_saved_audit_is_a_concept_set(db):
    audits = SavedAudits(db, keeps=False)
    session = sl.open(db.path)
    session.audits = audits
    made = audits.add("a", small("mine", ["dog"], ["logo"]))
    name = f"audit:{made.id}"
    (one,) = sets_for(session, name)
    assert (one.target, one.concepts) == ("a", made.concepts.concepts)
    found = session.audit("a", [name, ANY], **SETTINGS)
    joined = ConceptSet.join([small("mine", ["dog"], ["logo"]), ANY])
    assert found.frame.equals(db.audit("a", joined, **SETTINGS).frame)
    with pytest.raises(StoreError, match="no audit 7"):
        sets_for(session, "audit:7")
    # and what fits a class without being named
    held, skipped = concepts_by_class(session)
    assert (list(held), skipped) == ([0], {})
    assert (held[0].sets, held[0].audit) == ((name,), made.id)
    assert session.audit("a", **SETTINGS).concepts.concepts == made.concepts.concepts
    assert list(session.audit_all(**SETTINGS).audits) == ["a"]
    later = audits.add("a", small("later", ["cat"], ["text"]))
    assert concepts_by_class(session)[0][0].audit == later.id
    audits.add("a", ConceptSet((), "empty"))
    assert concepts_by_class(session)[0][0].audit == later.id


def test_what_fits_without_sets_of_the_classes_are_the_artefacts(db):
    held, skipped = concepts_by_class(db)
    assert (list(held), skipped) == ([0, 1, 2], {})
    assert all(one.sets == ("artefacts",) and one.audit is None for one in held.values())
    assert [one.concepts.target for one in held.values()] == ["a", "1", "2"]  # two are called b
    everywhere = ConceptSet.load("artefacts").concepts
    assert db.audit(1, threshold=0.0, **SETTINGS).concepts.concepts == everywhere


def test_the_class_is_the_sets_own(db):
    found = db.audit(concepts=[FOR_A, ANY], **SETTINGS)
    assert found.name == "a"
    both = [FOR_A, small("b", ["x"], target="b")]
    for concepts, said in ((None, "no concept set"), (ANY, "no class"), (both, "classes a, b")):
        with pytest.raises(ConceptError, match=said):
            db.audit(concepts=concepts, **SETTINGS)
    with pytest.raises(ConceptError, match="No concept set is for the class 'b'"):
        db.audit(1, FOR_A, **SETTINGS)


def test_sets_that_cannot_be_joined_cost_their_class_only(db):
    other = ConceptSet((Concept("cat", (), "valid"),), "other", templates=("a {}",), target="a")
    one = ConceptSet(FOR_A.concepts, "one", templates=("{}",), target="a")
    held, skipped = concepts_by_class(db, [one, other, small("2", ["dog"], target="2")])
    assert list(held) == [2]
    assert "different templates" in skipped["a"].value
    found = db.audit_all([one, other, small("2", ["dog"], target="2")], **SETTINGS)
    assert (list(found.audits), list(found.skipped)) == (["b"], ["a"])
    with pytest.raises(ConceptError, match="different templates"):
        db.audit_all([one, other], **SETTINGS)


def test_a_sweep_is_one_audit_per_class(db):
    seen = []
    with progress_listener(lambda *told: seen.append(told)):
        found = db.audit_all([ANY], **SETTINGS)
    assert [(n, of) for what, n, of in seen if what == "auditing"] == [
        (0, 3), (1, 3), (2, 3), (3, 3),
    ]  # fmt: skip
    assert ("resampling examples", 5, 5) in seen or SETTINGS["resamples"] == 0
    assert ("random concept sets", 1000, 1000) in seen
    assert list(found.audits) == ["a", "b", "b (2)"]  # two classes of one name
    table = found.to_pandas()
    assert table["class"].to_list() == ["a", "b", "b (2)"]
    for number, (name, one) in enumerate(found.audits.items()):
        alone = db.audit(number, ANY, **SETTINGS)
        assert one.frame.equals(alone.frame)
        row = table[table["class"] == name].iloc[0]
        assert row["p_value"] == alone.p_value
        for verdict in VERDICTS:
            assert row[verdict] == alone.share(verdict)
    # Benjamini and Hochberg, by its definition
    p = table["p_value"].to_numpy()
    for value, mine in zip(table["q_value"], p, strict=True):
        assert value == pytest.approx(
            min(1, *(len(p) * x / (p <= x).sum() for x in p if x >= mine))
        )
    assert found.alarms == table["class"][table["q_value"] <= found.level].to_list()
    assert found.sentence in repr(found)
    assert set(found.components()["class"]) == set(found.audits)
    assert "b (2)" in repr(found)


def test_a_sweep_takes_the_classes_that_sets_name(db):
    unknown = small("for-ox", ["horn"], target="ox")
    double = small("for-b", ["horn"], target="b")
    found = db.audit_all([ANY, FOR_A, unknown, double], **SETTINGS)
    assert list(found.audits) == ["a"]
    assert "Unknown class 'ox'" in found.skipped["ox"]
    assert "all named 'b'" in found.skipped["b"]
    assert "Skipped 'ox'" in repr(found)
    valid = db.audit_all([FOR_A], **SETTINGS)
    assert valid.to_pandas()[["p_value", "q_value"]].isna().all(axis=None)
    assert valid.alarms == []
    with pytest.raises(RelevanceError, match="No class could be audited"):
        db.audit_all([unknown], **SETTINGS)
    with pytest.raises(ConceptError, match="no concept set"):
        db.audit_all([], **SETTINGS)


# -- conditions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "measure", "sign", "bound"),
    [
        ("spurious>0.05", "spurious", ">", 0.05),
        (" valid.number <= .5 ", "valid.number", "<=", 0.5),
        ("unexpected>=20%", "unexpected", ">=", 0.2),
        ("p<0.01", "p", "<", 0.01),
    ],
)
def test_conditions_are_read(text, measure, sign, bound):
    found = Condition.parse(text)
    assert (found.measure, found.sign, found.bound) == (measure, sign, pytest.approx(bound))


@pytest.mark.parametrize(
    "text", ["odd>0.1", "spurious", "spurious=0.1", "spurious>x", "p.number<1"]
)
def test_wrong_conditions(text):
    with pytest.raises(RecipeError) as error:
        Condition.parse(text)
    assert_says(error.value, text, "spurious>0.05", "valid.number")


def test_a_bound_above_one_could_never_be_met():
    with pytest.raises(RecipeError) as error:
        Condition.parse("spurious>5")
    assert_says(error.value, "is 5", "'spurious>5%'")


def test_conditions_are_held_against_figures(db):
    one = db.audit("a", ConceptSet.join([ANY, FOR_A]), **SETTINGS)
    figures = {v: one.share(v) for v in VERDICTS} | {"p": one.p_value}
    figures |= {f"{v}.number": one.share(v, by="number") for v in VERDICTS}
    for measure, value in figures.items():
        for sign, met in ((">", False), (">=", True), ("<", False), ("<=", True)):
            text = f"{measure}{sign}0.5"
            check = Condition(text, measure, sign, value)
            assert check.value(one) == value
            assert check.met(one) is met
    valid = db.audit("a", FOR_A, **SETTINGS)
    for text in ("spurious>0.05", "both>0", "p<0.05"):
        with pytest.raises(RecipeError, match="does not apply to the class 'a'"):
            check_conditions({"a": valid}, [Condition.parse(text)])


def test_junit(db, tmp_path):
    one = db.audit("a", ANY, **SETTINGS)
    conditions = [Condition.parse("unexpected>=0"), Condition.parse("unexpected.number>1")]
    checks = check_conditions({"a & <b>": one}, conditions)
    save_junit(tmp_path / "out.xml", checks, "db", {"ox": "is no class."})
    suite = ElementTree.parse(tmp_path / "out.xml").getroot()[0]
    counts = {key: suite.get(key) for key in ("name", "tests", "failures", "errors", "skipped")}
    assert counts == {"name": "db", "tests": "3", "failures": "1", "errors": "0", "skipped": "1"}
    failed, passed, skipped = suite
    assert failed.get("classname") == passed.get("classname") == "db.a & <b>"
    assert [case.get("name") for case in suite][:2] == [
        "not unexpected>=0", "not unexpected.number>1",
    ]  # fmt: skip
    (failure,) = failed
    assert failure.tag == "failure"
    assert failure.get("message") == f"unexpected is {one.share('unexpected'):.4f}"
    assert failure.text == one.sentence
    assert len(passed) == 0
    assert (skipped[0].tag, skipped[0].get("message")) == ("skipped", "is no class.")


# -- the command -----------------------------------------------------------------------------


def run(folder, *arguments, code=0):
    arguments = ["audit", folder / "db", "--background", folder / "background.csv", "--level", 0.2,
                 "--resamples", 5, *arguments]  # fmt: skip
    ended = CliRunner().invoke(app, [str(one) for one in arguments])
    assert ended.exit_code == code, ended.output
    return ended


def test_the_command_for_one_class(folder, tmp_path):
    ended = run(
        folder, "--concepts", folder / "for-a.toml", "--concepts", folder / "any.toml",
        "--target", "a", "--json", "--save", tmp_path / "a.csv", "--save", tmp_path / "a.json",
        "--fail-on", "unexpected>=0", "--fail-on", "spurious>100%", "--junit", tmp_path / "a.xml",
        code=3,
    )  # fmt: skip
    printed = json.loads(ended.stdout)
    assert printed["class"] == "a"
    assert printed["settings"]["background"] == "background"
    assert json.loads((tmp_path / "a.json").read_text()) == printed
    table = pd.read_csv(tmp_path / "a.csv")
    assert table["component"].to_list() == [one["component"] for one in printed["components"]]
    assert "FAILED: 'a' unexpected>=0" in ended.stderr
    assert len(list(ElementTree.parse(tmp_path / "a.xml").iter("testcase"))) == 2


@pytest.mark.slow
def test_the_command_for_all_classes(folder, tmp_path):
    ended = run(folder, "--concepts", folder / "any.toml", "--all", "--save", tmp_path / "all.png",
                "--fail-on", "spurious>100%")  # fmt: skip
    assert "3 classes" in ended.stdout
    assert "Passed: 3 conditions." in ended.stdout
    assert Image.open(tmp_path / "all.png").width > 400
    # without concepts each class is held against what fits it
    assert "3 classes" in run(folder, "--all", "--threshold", 0).stdout
    # a single set with a target needs no --target
    assert (
        json.loads(run(folder, "--concepts", folder / "for-a.toml", "--json").stdout)["class"]
        == "a"
    )


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["no concept set", "bundled one"]),
        (["--concepts", "any.toml", "--target", "a", "--all"], ["--all and --target"]),
        (["--concepts", "any.toml", "--junit", "x.xml"], ["--junit", "--fail-on"]),
        (["--concepts", "any.toml", "--save", "x.gif"], ["x.gif", ".png"]),
        (["--concepts", "any.toml", "--fail-on", "odd>1"], ["odd>1"]),
        (["--concepts", "for-a.toml", "--target", "a", "--fail-on", "spurious>0.1"],
         ["does not apply to the class 'a'"]),
        (["--concepts", "any.toml", "--target", "b"], ["classes 1, 2 are all named 'b'"]),
        (["--concepts", "any.toml", "--target", "a", "--level", "0.01"], ["too small", "larger"]),
    ],
)  # fmt: skip
def test_the_command_says_what_is_wrong(folder, arguments, parts):
    given = [folder / one if one.endswith(".toml") else one for one in arguments]
    ended = run(folder, *given, code=1)
    for part in parts:
        assert part in ended.stderr
    assert "Traceback" not in ended.output
    assert ended.stdout == ""


# -- pictures ------------------------------------------------------------------------------------


def drawn_frame(count, layers, *, valid=True, spurious=True):
    rng = np.random.default_rng(count)
    frame = pd.DataFrame({
        "component": [f"layer{i % layers}:{i}" for i in range(count)],
        "max": rng.random(count),
        "verdict": [list(VERDICTS)[i % 4] for i in range(count)],
    })  # fmt: skip
    for side, there in (("valid", valid), ("spurious", spurious)):
        frame[side] = rng.normal(size=count) if there else np.nan
        frame[f"{side}_threshold"] = 0.1 if there else np.nan
        frame[f"{side}_concept"] = f"a {side} concept" if there else None
    return frame


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "layers", "sides"),
    [(20, 2, {}), (1, 1, {"valid": False}), (40, 20, {"spurious": False})],
)
def test_audits_are_drawn_the_same_each_time(count, layers, sides):
    labels = [*(f"layer{i}" for i in range(layers)), "all"]
    shares = pd.DataFrame(
        [{"layer": label, "verdict": name, "by_number": 0.25, "by_relevance": 0.25}
         for label in labels for name in VERDICTS]
    )  # fmt: skip
    frame = drawn_frame(count, layers, **sides)
    figure = audit_plot("title", frame.assign(label=frame["component"]), shares)
    first = figure_png(figure)
    assert first == figure_png(audit_plot("title", frame.assign(label=frame["component"]), shares))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [name.split(" ")[0] for name in names] == list(VERDICTS)


@pytest.mark.slow
def test_sweeps_draw_the_worst_classes_and_the_side_that_there_is():
    table = pd.DataFrame({
        "class": [f"class {i}" for i in range(50)],
        "standing": ["alarm" if i == 7 else "no alarm" for i in range(50)],
        "valid": 0.5, "spurious": np.linspace(0, 0.4, 50), "both": 0.0, "unexpected": 0.1,
    })  # fmt: skip
    frames = {name: drawn_frame(8, 1, valid=False) for name in table["class"]}
    figure = sweep_plot(table, frames)
    top, bottom = figure.axes
    assert "spurious" in top.get_ylabel()
    shown = [label.get_text() for label in bottom.get_xticklabels()]
    assert shown == [f"class {i}" for i in range(49, 9, -1)]
    assert "10 more classes not shown" in figure.get_suptitle()
    assert figure_png(figure)[:4] == b"\x89PNG"
