"""The answers to a study: the paper's filters, correlations and their null, and faulty files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ColourEmbedder, LittleNet, assert_says, to_tensor, write_pictures
from scipy.stats import binom, kstest, pearsonr, spearmanr
from study_answers import answered, write_answers
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.errors import DataError
from semlens.lenses.statistics.intervals import auroc_interval
from semlens.lenses.study import correlation
from semlens.lenses.study.answers import Key
from semlens.lenses.study.correlation import correlate
from semlens.lenses.study.raters import rate_raters
from semlens.lenses.study.results import evaluate_answers
from semlens.lenses.study.tasks import MAXIMUM_CORRELATION, POLYSEMANTICITY, PROTOCOLS
from semlens.models.subject import SubjectModel

RNG = np.random.default_rng


def odd_key(count=50, values=None):
    """A key of odd-one-out questions whose right answer is A."""
    values = np.linspace(-0.2, 0.9, count) if values is None else values
    frame = pd.DataFrame(
        {
            "question": range(1, count + 1), "kind": "odd", "components": "first:0, first:1",
            "right": "A", "value": values, "pick": ["A"] * (count - 1) + ["B"], "clarity": None,
        }
    )  # fmt: skip
    return Key("abc", "similarity", frame.set_index("question"), 0)


def odd_answers(key, rater, right, confidence=None, similarity=None):
    """The answers of a rater who is right in the first ``right`` questions."""
    count = len(key.questions)
    return pd.DataFrame(
        {
            "rater": rater,
            "question": key.questions.index,
            "answer": ["A"] * right + ["C"] * (count - right),
            "confidence": np.full(count, 50.0) if confidence is None else confidence,
            "similarity": np.full(count, 50.0) if similarity is None else similarity,
        }
    )


# -- filters --------------------------------------------------------------------------------------


def test_raters_below_the_accuracy_of_the_paper_are_removed():
    key = odd_key(20)
    raters = rate_raters(key, pd.concat([odd_answers(key, f"{n}", n) for n in (10, 11, 12)]))
    assert raters["kept"].tolist() == [False, True, True]  # 55 % is not below 55 %
    assert raters["accuracy"].tolist() == [0.5, 0.55, 0.6]
    np.testing.assert_allclose(raters["p"], binom.sf(np.array([10, 11, 12]) - 1, 20, 1 / 3))
    assert raters["reason"][0] == "accuracy below 55%"


def test_raters_whose_confidence_rises_with_similarity_are_removed():
    key, rng = odd_key(40), RNG(0)
    answers, expected = [], []
    for rater in range(60):
        similarity = rng.choice([0.0, 25, 50, 75, 100], 40)
        confidence = np.where(rng.random(40) < 0.25, similarity, rng.choice([0.0, 50, 100], 40))
        answers.append(odd_answers(key, f"r{rater}", 40, confidence, similarity))
        expected.append(pearsonr(confidence, similarity).statistic)
    raters = rate_raters(key, pd.concat([*answers, odd_answers(key, "constant", 40)]))
    np.testing.assert_allclose(raters["confidence_similarity"][:-1], expected)
    assert raters["kept"][:-1].tolist() == [r <= MAXIMUM_CORRELATION for r in expected]
    assert 10 < raters["kept"].sum() < 50
    assert raters["kept"].iloc[-1]  # who always gives one rating has no correlation


@pytest.mark.parametrize(
    ("measure", "questions", "claimed"),
    [("similarity", 50, 0.002), ("clarity", 32, 0.03), ("polysemanticity", 28, 0.001)],
)
def test_random_raters_are_removed_as_rarely_kept_as_the_paper_says(measure, questions, claimed):
    protocol = PROTOCOLS[measure]
    least = int(np.ceil(protocol.minimum_accuracy * questions))
    chance = binom.sf(least - 1, questions, protocol.chance)
    assert chance < claimed
    assert protocol.tasks == questions
    kind, choices = {
        "similarity": ("odd", "ABC"), "clarity": ("clearer-control", "AB"),
        "polysemanticity": ("count-control", ["one", "two", "more", "none"]),
    }[measure]  # fmt: skip
    key = odd_key(questions)
    key.questions["kind"], key.questions["right"] = kind, choices[0]
    key = Key("abc", measure, key.questions, 0)
    rng = RNG(1)
    answers = pd.DataFrame(
        {
            "rater": np.repeat(np.arange(1000), questions).astype(str),
            "question": np.tile(np.arange(1, questions + 1), 1000),
            "answer": rng.choice(list(choices), 1000 * questions),
            "confidence": rng.uniform(0, 100, 1000 * questions),
            "similarity": rng.uniform(0, 100, 1000 * questions),
        }
    )
    raters = rate_raters(key, answers)
    passed = (raters["accuracy"] >= protocol.minimum_accuracy).sum()
    assert passed <= binom.ppf(0.9999, 1000, chance)
    assert raters["kept"].sum() <= passed


def test_only_kept_raters_count():
    key = odd_key(20)
    good = odd_answers(key, "good", 20, similarity=np.arange(20.0))
    poor = odd_answers(key, "poor", 5, similarity=np.full(20, 100.0))
    both, alone = (evaluate_answers(key, pd.concat(a)) for a in ([good, poor], [good]))
    pd.testing.assert_frame_equal(both.frame, alone.frame)
    pd.testing.assert_frame_equal(both.correlations, alone.correlations)
    assert (both.accuracy, both.measure_accuracy) == (1, 0.95)
    assert both.kept == 1
    assert "1 of 2 raters kept" in repr(both)


def test_nobody_kept_is_a_result():
    key = odd_key(20)
    found = evaluate_answers(key, odd_answers(key, "poor", 5))
    assert found.kept == 0
    assert np.isnan(found.accuracy)
    assert found.correlations["pearson"].isna().all()
    assert "No rater is kept" in repr(found)
    found.plot()


# -- means and scores -----------------------------------------------------------------------------


def test_ratings_of_clarity_and_choices_are_averaged_over_raters():
    rng = RNG(2)
    kinds = ["clearer-control", "rating", "clearer"] * 10
    questions = pd.DataFrame(
        {
            "question": range(1, 31), "kind": kinds, "components": "first:0",
            "right": [("A" if k == "clearer-control" else None) for k in kinds],
            "value": rng.normal(size=30), "pick": None, "clarity": None,
        }
    )  # fmt: skip
    key = Key("abc", "clarity", questions.set_index("question"), 0)
    answers = pd.DataFrame(
        [
            {
                "rater": f"r{rater}", "question": number + 1,
                "answer": {"clearer-control": "A", "clearer": rng.choice(["A", "B"]),
                           "rating": str(rng.choice([0, 25, 100]))}[kind],
            }
            for rater in range(5)
            for number, kind in enumerate(kinds)
        ]
    )  # fmt: skip
    found = evaluate_answers(key, answers)
    frame = found.frame.set_index("question")
    for number, kind in enumerate(kinds, start=1):
        own = answers.loc[answers["question"] == number, "answer"]
        row = frame.loc[number]
        if kind == "rating":
            assert row["rating"] == pytest.approx(sum(map(float, own)) / 5)
            assert np.isnan(row["chose_a"])
        else:
            assert row["chose_a"] == pytest.approx((own == "A").sum() / 5)
            assert np.isnan(row["rating"])
        assert row["raters"] == 5
    rated = frame[frame["kind"] == "rating"]
    chosen = frame[frame["kind"] == "clearer"]
    expected = [
        pearsonr(rated["value"], rated["rating"]).statistic,
        pearsonr(chosen["value"], chosen["chose_a"]).statistic,
    ]
    np.testing.assert_allclose(found.correlations["pearson"], expected)
    assert found.correlations["questions"].tolist() == [10, 10]


def test_themes_are_scored_and_polysemantic_units_detected():
    assert dict(POLYSEMANTICITY) == {"one": 0, "none": 0.5, "two": 1, "more": 1}
    kinds = ["count-control", "count"] * 10
    rng = RNG(3)
    questions = pd.DataFrame(
        {
            "question": range(1, 21), "kind": kinds, "components": "first:0",
            "right": [("two" if k == "count-control" else None) for k in kinds],
            "value": rng.uniform(0, 1, 20), "pick": None, "clarity": rng.uniform(0, 1, 20),
        }
    )  # fmt: skip
    key = Key("abc", "polysemanticity", questions.set_index("question"), 0)
    choices = ["one", "two", "more", "none"]
    answers = pd.DataFrame(
        [
            {"rater": f"r{rater}", "question": n + 1,
             "answer": "two" if kind == "count-control" else rng.choice(choices)}
            for rater in range(3) for n, kind in enumerate(kinds)
        ]
    )  # fmt: skip
    found = evaluate_answers(key, answers)
    scores = {"one": 0, "none": 0.5, "two": 1, "more": 1}
    seen, unseen = [], []
    for _, row in found.frame[found.frame["kind"] == "count"].iterrows():
        own = answers.loc[answers["question"] == row["question"], "answer"]
        mean = sum(scores[a] for a in own) / 3
        assert row["themes"] == pytest.approx(mean)
        (seen if mean > 0.5 else unseen).append(row["value"])
    wins = np.mean([(a > b) + 0.5 * (a == b) for a in seen for b in unseen])
    value, low, high = found.detection()
    assert value == pytest.approx(wins)
    assert (low, high) == pytest.approx(auroc_interval(value, len(seen), len(unseen)))
    assert found.correlations["measure"].tolist() == ["polysemanticity", "clarity"]


# -- correlations ---------------------------------------------------------------------------------


def exactly_correlated(r, count):
    rng = RNG(4)
    x, y = rng.normal(size=(2, count))
    x, y = (v - v.mean() for v in (x, y))
    y -= x * (x @ y) / (x @ x)
    return x, r * x / np.linalg.norm(x) + np.sqrt(1 - r**2) * y / np.linalg.norm(y)


@pytest.mark.parametrize(
    ("r", "count", "interval"),
    [(0.733, 300, (0.676, 0.781)), (0.805, 300, (0.762, 0.842)), (0.657, 192, (0.569, 0.731)),
     (0.812, 192, (0.757, 0.855))],
)  # fmt: skip
def test_intervals_are_those_of_the_paper(r, count, interval):
    found = correlate(*exactly_correlated(r, count))
    assert found.pearson == pytest.approx(r)
    assert (found.low, found.high) == pytest.approx(interval, abs=0.0012)  # both are rounded


def test_correlations_are_those_of_scipy():
    x, y = RNG(5).normal(size=(2, 40))
    y = np.round(y + 0.3 * x)  # with ties
    found = correlate(x, y)
    assert found.pearson == pytest.approx(pearsonr(x, y).statistic)
    assert found.spearman == pytest.approx(spearmanr(x, y).statistic)
    assert found.p == pytest.approx(pearsonr(x, y).pvalue, abs=0.02)
    assert found.spearman_p == pytest.approx(spearmanr(x, y).pvalue, abs=0.02)
    assert np.isnan(correlate(x, np.ones(40)).pearson)
    assert np.isnan(correlate(x[:3], y[:3]).p)


def test_p_values_are_uniform_when_ratings_have_nothing_to_do_with_the_measure(monkeypatch):
    monkeypatch.setattr(correlation, "PERMUTATIONS", 199)
    rng, found = RNG(6), []
    key = odd_key(25, rng.exponential(size=25))
    for _ in range(100):
        ratings = rng.choice([0.0, 25, 50, 75, 100], (2, 8, 25))
        answers = pd.concat([odd_answers(key, f"r{i}", 25, *ratings[:, i]) for i in range(8)])
        found.append(evaluate_answers(key, answers).correlations.loc[0, ["p", "spearman_p"]])
    for name in ("p", "spearman_p"):
        assert kstest(pd.DataFrame(found)[name].astype(float), "uniform").pvalue > 0.01


def test_raters_who_follow_the_measure_correlate_and_random_raters_are_removed():
    key, rng = odd_key(50), RNG(7)
    level = key.questions["value"].to_numpy() * 90
    careful = [
        odd_answers(key, f"c{i}", 45, 100 - level + rng.normal(0, 20, 50),
                    level + rng.normal(0, 20, 50))
        for i in range(6)
    ]  # fmt: skip
    random = []
    for i in range(20):
        answers = odd_answers(key, f"r{i}", 0, *rng.uniform(0, 100, (2, 50)))
        random.append(answers.assign(answer=rng.choice(list("ABC"), 50)))
    found = evaluate_answers(key, pd.concat([*careful, *random]))
    kept = found.raters.loc[found.raters["kept"], "rater"]
    assert set(kept) == {f"c{i}" for i in range(6)}
    similarity, confidence, _ = found.correlations.to_dict("records")
    assert similarity["pearson"] > 0.9
    assert confidence["pearson"] < -0.9
    assert similarity["p"] < 0.001


# -- from a database to the results ---------------------------------------------------------------


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    images = sl.ImageFolder(write_pictures(folder / "images", 40))
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little")
    layers = ["first", "second"]
    return sl.build(folder / "db", model, images, ColourEmbedder(), layers, examples=8)


def careful_answer(measure):
    """Answer controls rightly, and the rest as the measure does."""

    def answer(question):
        rating = f"{min(max(100 * question['value'], 0), 100):.1f}"
        if measure == "similarity":
            confidence = f"{100 - float(rating):.1f}"
            return {"answer": question["right"], "confidence": confidence, "similarity": rating}
        if question["right"] or question["kind"] == "clearer":
            return {"answer": question["right"] or question["pick"]}
        themes = "two" if question["value"] > 0.5 else "one"
        return {"answer": rating if measure == "clarity" else themes}

    return answer


def semlens(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("measure", ["similarity", "clarity", "polysemanticity"])
def test_commands_make_a_study_and_read_its_answers(db, measure, tmp_path):
    page, key = tmp_path / "s.html", tmp_path / "s.key.json"
    options = ["--measure", measure, "--tasks", 6, "--shown", 4, "--save", page]
    made = semlens("study", "make", db.path, *options, "--json")
    assert made.exit_code == 0, made.output
    values = json.loads(key.read_text())
    assert json.loads(made.stdout) == values
    assert page.is_file()
    rows = answered(values, careful_answer(measure))
    files = [write_answers(tmp_path / f"{n}.csv", values["study"], n, rows) for n in ("a", "b")]
    saved = [tmp_path / f"r{end}" for end in (".csv", ".parquet", ".json", ".png")]
    saves = [word for path in saved for word in ("--save", path)]
    read = semlens("study", "results", key, *files, "--json", *saves)
    assert read.exit_code == 0, read.output
    results = json.loads(read.stdout)
    assert (results["raters"], results["kept"], results["accuracy"]) == (2, 2, 1)
    assert results["correlations"][0]["questions"] == 6
    if measure != "polysemanticity":
        assert results["correlations"][0]["pearson"] > 0.9
    table = pd.read_csv(saved[0])
    assert len(table) == len(values["questions"])
    assert (table["raters"] == 2).all()
    assert all(path.stat().st_size for path in saved)
    shown = semlens("study", "results", key, *files)
    assert "2 of 2 raters kept" in shown.stdout


def test_the_key_can_be_saved_elsewhere(db, tmp_path):
    page, key = tmp_path / "s.html", tmp_path / "keys.json"
    made = semlens(
        "study", "make", db.path, "--tasks", 4, "--shown", 4, "--save", page, "--save", key
    )
    assert made.exit_code == 0, made.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keys.json", "s.html"]


# -- faulty files ---------------------------------------------------------------------------------


@pytest.fixture
def study(db, tmp_path):
    key = tmp_path / "key.json"
    db.study(tasks=4, shown=4).save(key)
    values = json.loads(key.read_text())
    return key, values["study"], answered(values, careful_answer("similarity"))


def fault_of(key, *files: Path):
    with pytest.raises(DataError) as error:
        sl.study_results(key, files)
    return error.value


def test_answers_of_another_study_are_refused(study, tmp_path):
    key, _, rows = study
    other = write_answers(tmp_path / "a.csv", "0123456789ab", "x", rows)
    assert_says(fault_of(key, other), "0123456789ab", "the study of the key", "leave the file out")


def test_a_rater_in_two_files_is_refused(study, tmp_path):
    key, name, rows = study
    files = [write_answers(tmp_path / f"{n}.csv", name, "x", rows) for n in "ab"]
    assert_says(fault_of(key, *files), "'x'", "a.csv", "b.csv", "each rater once", "Leave one")


def test_missing_repeated_and_unknown_questions_are_refused(study, tmp_path):
    key, name, rows = study
    file = tmp_path / "a.csv"
    missing = fault_of(key, write_answers(file, name, "x", rows[:2]))
    assert_says(missing, "no question 3, 4", "4 questions once")
    assert_says(fault_of(key, write_answers(file, name, "x", [*rows, rows[0]])), "1 twice")
    for unknown in ("9", "one", "", "1.5"):
        bad = [{**rows[0], "question": unknown}, *rows[1:]]
        assert_says(fault_of(key, write_answers(file, name, "x", bad)), f"'{unknown}'", "1 to 4")


@pytest.mark.parametrize(
    ("column", "value"),
    [("answer", "D"), ("answer", ""), ("confidence", ""), ("confidence", "high"),
     ("similarity", "101"), ("similarity", "nan")],
)  # fmt: skip
def test_answers_that_do_not_exist_are_refused(study, tmp_path, column, value):
    key, name, rows = study
    rows[1] = {**rows[1], column: value}
    error = fault_of(key, write_answers(tmp_path / "a.csv", name, "x", rows))
    assert_says(error, f"'{value}' as {column} of question 2", "Expected", "Correct the cell")


def test_files_that_are_no_answers_are_refused(study, tmp_path):
    key, name, rows = study
    file = tmp_path / "a.csv"
    assert_says(fault_of(key), "No answers", "at least one")
    assert_says(fault_of(key, tmp_path / "none.csv"), "none.csv", "CSV file of the page")
    for text in (b"", b"study,rater\n", b"\xff\xfe", b"study;rater\nx;y\n", b'study\n"'):
        file.write_bytes(text)
        assert_says(fault_of(key, file), "a.csv", "cannot be read as answers", "columns study")
    assert_says(fault_of(key, write_answers(file, name, "", rows)), "'rater' is empty")


def test_a_file_that_excel_has_saved_is_read(study, tmp_path):
    key, name, rows = study
    file = write_answers(tmp_path / "a.csv", name, "x", rows)
    text = file.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    file.write_bytes(b"\xef\xbb\xbf" + text)
    assert sl.study_results(key, file).kept == 1


def test_a_key_that_is_none_is_refused(study, tmp_path):
    key, name, rows = study
    file = write_answers(tmp_path / "a.csv", name, "x", rows)
    values = json.loads(key.read_text())
    for bad in ("{}", "no json", json.dumps({**values, "measure": "colour"}),
                json.dumps({**values, "questions": []}),
                json.dumps({**values, "measure": "clarity"})):  # fmt: skip
        key.write_text(bad)
        assert_says(fault_of(key, file), "key.json", "semlens study")
