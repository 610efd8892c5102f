"""In a browser: the audit of all classes, the model against an artefact, and without components."""

from __future__ import annotations

import re
import shlex

import pytest
from web_browser import axe, copy_of, serve, settle

import semlens as sl
from semlens.analysis.audit.model_test import model_test
from semlens.analysis.correct.ablation_preview import ablation_preview
from semlens.data.artefact import TextMark

AUDIT = "#/m/demo/audit"


def expect(locator):
    from playwright.sync_api import expect as expected

    return expected(locator)


@pytest.fixture(scope="module")
def served(demo, tmp_path_factory):
    """A server of our own: these tests write audits."""
    database = copy_of(demo, tmp_path_factory.mktemp("trials"))
    with serve(database) as base:
        yield base, sl.open(database)


def fits(page):
    """Nothing is wider than the window."""
    main = page.locator("main")
    assert main.evaluate("node => node.scrollWidth <= node.clientWidth"), "it scrolls sideways"


def points(share):
    return f"{100 * share:.1f}\u00a0%"


def test_all_classes_at_a_glance(page_at, served):
    """The planted fault comes first, and its row begins the audit that says the same."""
    page = page_at(f"{served[0]}{AUDIT}")
    page.get_by_role("button", name="Audit all classes").click()
    expect(page.locator(".sweep[data-ready]")).to_be_visible(timeout=240_000)
    rows = page.locator(".sweep tbody tr")
    expect(rows).to_have_count(len(served[1].relevance_classes))
    expect(rows.first).to_contain_text("vegetable")
    expect(rows.first).to_contain_text("Alarm")
    alarms = sl.audit_all(served[1]).alarms
    assert "vegetable" in alarms
    expect(page.locator(".sweep .badge")).to_have_count(len(alarms))
    assert axe(page) == []
    p = rows.first.locator("td.number").nth(1).inner_text()
    with page.expect_download() as taken:
        page.locator(".sweep").get_by_role("button", name="CSV").click()
    lines = taken.value.path().read_text().splitlines()
    assert len(lines) == 1 + rows.count()
    assert lines[1].startswith("vegetable,4,")

    page.get_by_role("button", name="vegetable", exact=True).click()
    expect(page.locator(".said")).to_contain_text(f"p = {p}", timeout=60_000)
    # what was computed is there when one comes back; the row opens the audit now
    page.get_by_role("link", name="All audits").click()
    expect(page.locator(".sweep[data-ready]")).to_be_visible(timeout=240_000)
    settle(page)
    link = page.locator(".sweep").get_by_role("link", name="vegetable")
    expect(link).to_have_attribute("href", re.compile(r"audit=\d+"))
    page.set_viewport_size({"width": 360, "height": 780})
    fits(page)


def begin(page_at, served):
    page = page_at(f"{served[0]}{AUDIT}?class=4")
    page.get_by_role("button", name="Start audit").click()
    expect(page.locator(".badge")).to_be_visible(timeout=60_000)
    return page


def test_the_model_against_an_artefact_and_without_components(page_at, served):
    page = begin(page_at, served)
    _, db = served
    number = int(re.search(r"audit=(\d+)", page.url)[1])
    frame = db.audits.run(number).frame
    mark = TextMark("© stock", colour=(255, 255, 255))

    page.locator("summary", has_text="Test the model").click()
    page.get_by_role("button", name="Test the model").click()
    expect(page.locator("[data-set=text]")).to_be_visible(timeout=120_000)
    expected = model_test(db, 4, artefacts=[mark], count=100).worst
    found = float(page.locator("[data-set=text]").get_attribute("data-auroc"))
    assert found == pytest.approx(expected.auroc, abs=1e-3)

    page.locator("summary", has_text="Preview without").click()
    spurious = [one for one in frame.query("verdict == 'spurious'")["component"]]
    boxes = page.get_by_label("Components to remove").get_by_role("checkbox")
    expect(boxes).to_have_count(len(spurious))
    boxes.last.uncheck()
    left = spurious[:-1]
    page.get_by_label("Also with an artefact").select_option("0")
    page.get_by_role("button", name=f"Preview without these {len(left)}").click()
    table = page.get_by_label("Predictions with and without the components")
    expect(table).to_be_visible(timeout=120_000)

    plain = ablation_preview(db, 4, left, artefact=mark)
    for place, answers in enumerate(plain.sets):
        share = plain.accuracy(answers)
        row = table.locator("tbody").nth(place).locator("tr").nth(1)
        expect(row).to_contain_text(points(share.before))
        expect(row).to_contain_text(points(share.after))
        differ = int((answers.before != answers.after).sum())
        said = f"the prediction changes for {differ} of {len(plain.samples)} images"
        expect(page.locator(".experiments")).to_contain_text(said)
    expect(page.locator(".changed img").first).to_be_visible()
    command = shlex.split(page.locator("code", has_text="semlens prune").inner_text())
    assert command[:2] + command[3:-2] == ["semlens", "prune", *left]
    assert axe(page) == []

    # it is still there after a visit elsewhere
    page.get_by_role("link", name="Overview", exact=True).click()
    expect(page.locator("main")).to_have_attribute("data-page", "overview")
    page.go_back()
    expect(table).to_be_visible(timeout=60_000)
    page.set_viewport_size({"width": 360, "height": 780})
    fits(page)
