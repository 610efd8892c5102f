"""In a browser: all classes, artefacts, borders, errors, and the model without components."""

from __future__ import annotations

import re
import shlex

import pytest
from web_browser import axe, expect, fits, settle

import semlens as sl
from semlens.analysis.audit.model_test import model_test
from semlens.analysis.correct.ablation_preview import ablation_preview
from semlens.data.artefact import TextMark

AUDIT = "#/m/demo/audit"


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
    expect(page.locator(".said")).to_contain_text("no other class", timeout=60_000)
    assert p.startswith("<")
    expect(page.locator(".said")).to_contain_text(f"p {p}")
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


def test_borders_and_errors_without_words(page_at, served):
    """The planted class is detected by its borders; its errors colour the map."""
    base, db = served
    page = page_at(f"{base}{AUDIT}")
    page.get_by_role("button", name="Swap borders of all classes").click()
    expect(page.locator("[data-detected]")).to_have_attribute(
        "data-detected", "vegetable", timeout=240_000
    )
    rows = page.get_by_label("Gains of the classes").locator("tbody tr")
    expect(rows).to_have_count(12)
    swap = db.border_swap()
    gains = swap.frame[swap.frame["class"] == "vegetable"].sort_values("width")["gain"]
    for place, gain in enumerate(gains):
        expect(rows.first.locator("td.gain").nth(place)).to_contain_text(f"{gain:.2f}")
    expect(page.locator("figure img")).to_have_count(2 * len(swap.pasted))

    page.get_by_label("Class whose errors are compared").select_option("4")
    page.get_by_role("button", name="Compare errors on “vegetable”").click()
    result = db.contrast(errors="vegetable")
    expect(page.locator("[data-different]")).to_have_attribute(
        "data-different", str(result.different), timeout=120_000
    )
    components = page.get_by_label("Components that tell errors from correct predictions")
    first = components.locator("tbody tr").first
    expect(first).to_have_attribute("data-component", result.frame["component"][0])
    expect(first).to_contain_text(f"{result.frame['auroc'][0]:.3f}")
    expect(first.locator("img")).to_be_visible()
    assert axe(page) == []
    page.set_viewport_size({"width": 360, "height": 780})
    fits(page)
    page.set_viewport_size({"width": 1280, "height": 800})

    first.get_by_role("link").click()
    expect(page.locator("aside")).to_contain_text(result.frame["component"][0])
    page.get_by_role("link", name="Show on the map").first.click()
    expect(page.locator("main")).to_have_attribute("data-page", "map")
    expect(page.get_by_label("Colour by")).to_have_value("contrast", timeout=120_000)
    expect(page.locator(".legend")).to_contain_text("errors on vegetable", timeout=120_000)
    expect(page.get_by_label("Class", exact=True)).to_have_value("4")

    # a link to it works in a new window, too; without one the map does not offer it
    again = page_at(f"{base}#/m/demo/map?by=contrast&class=4")
    expect(again.locator(".legend")).to_contain_text("errors on vegetable", timeout=120_000)
    plain = page_at(f"{base}#/m/demo/map")
    expect(plain.get_by_label("Colour by").locator("option[value=contrast]")).to_have_count(0)
