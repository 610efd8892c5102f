"""The page of a study in a real browser: all tasks, by mouse and by keys, to the results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ColourEmbedder, LittleNet, to_tensor, write_pictures
from web_browser import axe, expect

import semlens as sl
from semlens.models.subject import SubjectModel

TASKS = 4


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page and the key of each study."""
    folder = tmp_path_factory.mktemp("studies")
    images = sl.ImageFolder(write_pictures(folder / "images", 40))
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little")
    layers = ["first", "second"]
    db = sl.build(folder / "db", model, images, ColourEmbedder(), layers, examples=8)
    for measure in ("similarity", "clarity", "polysemanticity"):
        study = db.study(measure, tasks=TASKS, shown=4)
        study.save(folder / f"{measure}.html")
        study.save(folder / f"{measure}.json")
    return folder


@pytest.fixture
def opened(studies, browser):
    contexts, faults, requested = [], [], []

    def open_page(measure, width=1280, height=860, after="", theme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme
        )
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        page.on("request", lambda request: requested.append(request.url))
        page.goto((studies / f"{measure}.html").as_uri() + after)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
    assert {url.partition(":")[0] for url in requested} <= {"file", "data", "blob"}


def questions(studies, measure):
    return json.loads((studies / f"{measure}.json").read_text())["questions"]


def begin(page, rater="P07"):
    page.get_by_label("Your participant code").fill(rater)
    page.get_by_role("button", name="Start").click()


def answer(page, asked):
    """Give a right answer by mouse, and the third point on every scale."""
    if asked["kind"] == "odd" or asked["kind"].startswith("clearer"):
        page.locator(f"label.set:has(input[value={asked['right'] or asked['pick']}])").click()
    elif asked["kind"].startswith("count"):
        text = {"one": "One", "two": "Two", None: "No common theme"}[asked["right"]]
        page.locator("label.pill", has_text=text).first.click()
    for scale in page.locator("#scales .pills").all():
        scale.locator("label").nth(2).click()


def downloaded(page, folder):
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the answers").click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


@pytest.mark.parametrize("measure", ["similarity", "clarity", "polysemanticity"])
def test_a_rater_answers_all_tasks_and_the_file_is_read(studies, opened, tmp_path, measure):
    page = opened(measure)
    begin(page)
    for number, asked in enumerate(questions(studies, measure), start=1):
        expect(page.locator("#count")).to_contain_text(f"Question {number} of")
        expect(page.locator("#next")).to_be_disabled()
        answer(page, asked)
        page.locator("#next").click()
    expect(page.locator("#end h1")).to_be_visible()
    file = downloaded(page, tmp_path)
    assert file.name.endswith("-P07.csv")
    assert page.locator("#text").input_value() == file.read_text()
    results = sl.study_results(studies / f"{measure}.json", file)
    assert results.raters["rater"].tolist() == ["P07"]
    assert (results.kept, results.accuracy) == (1, 1)
    frame = results.to_pandas()
    if measure == "similarity":
        assert (frame[["confidence", "similarity"]].to_numpy() == 50).all()
    if measure == "clarity":
        assert (frame["rating"].dropna() == 50).all()
        assert (frame.loc[frame["kind"] == "clearer", "chose_a"]
                == (frame.loc[frame["kind"] == "clearer", "pick"] == "A")).all()  # fmt: skip
    if measure == "polysemanticity":
        assert (frame.loc[frame["kind"] == "count", "themes"] == 0.5).all()


def test_it_works_by_keys_alone(studies, opened, tmp_path):
    page = opened("similarity")
    page.keyboard.press("Tab")
    page.keyboard.type("key user")
    page.keyboard.press("Enter")
    for number, asked in enumerate(questions(studies, "similarity"), start=1):
        expect(page.locator("#count")).to_contain_text(f"Question {number} of")
        page.keyboard.press("Enter")  # not before all is answered
        expect(page.locator("#count")).to_contain_text(f"Question {number} of")
        page.keyboard.press(asked["right"].lower())
        for _ in range(2):  # on to the next scale, whose first and second point are chosen
            page.keyboard.press("Tab")
            page.keyboard.press("Space")
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
    results = sl.study_results(studies / "similarity.json", downloaded(page, tmp_path))
    assert results.raters["rater"].tolist() == ["key user"]
    assert results.accuracy == 1
    assert (results.to_pandas()[["confidence", "similarity"]].to_numpy() == 25).all()


def test_nothing_is_lost_when_the_page_is_closed(studies, opened, tmp_path):
    page = opened("polysemanticity", after="?rater=P11")
    expect(page.get_by_label("Your participant code")).to_have_value("P11")
    page.get_by_role("button", name="Start").click()
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    page.keyboard.press("4")
    page.reload()
    expect(page.locator("#count")).to_contain_text("Question 2 of")
    expect(page.locator("input[value=none]")).to_be_checked()
    page.get_by_role("button", name="Back").click()
    expect(page.locator("input[value=two]")).to_be_checked()
    page.keyboard.press("1")  # to change one's mind is allowed
    for number in range(2, 2 * TASKS + 1):
        page.locator("#next").click()
        expect(page.locator("#count")).to_contain_text(f"Question {number} of")
        page.keyboard.press("3")
    page.locator("#next").click()
    page.reload()  # the end is kept, too
    file = downloaded(page, tmp_path)
    rows = [line.split(",") for line in file.read_text().splitlines()[1:]]
    assert [row[3] for row in rows] == ["one", *["more"] * (2 * TASKS - 1)]
    assert {row[1] for row in rows} == {"P11"}
    assert all(float(row[6]) >= 0 for row in rows)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Clear the answers").click()
    expect(page.locator("#start h1")).to_be_visible()
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#question input:checked")).to_have_count(0)


def test_a_code_with_commas_and_quotes_survives(studies, opened, tmp_path):
    page = opened("similarity")
    begin(page, 'a "b", c')
    for asked in questions(studies, "similarity"):
        answer(page, asked)
        page.locator("#next").click()
    results = sl.study_results(studies / "similarity.json", downloaded(page, tmp_path))
    assert results.raters["rater"].tolist() == ['a "b", c']


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 860), (390, 844)])
def test_it_fits_desktop_and_phone_and_is_accessible(studies, opened, width, height, theme):
    for measure in ("similarity", "clarity", "polysemanticity"):
        page = opened(measure, width, height, theme=theme)
        assert axe(page) == []
        begin(page)
        for asked in questions(studies, measure)[:3]:
            assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
            assert axe(page) == []
            answer(page, asked)
            page.locator("#next").click()
        if width > 1000:
            assert page.evaluate("() => document.documentElement.scrollHeight <= innerHeight")
