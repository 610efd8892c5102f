"""In a browser: all classes, artefacts, borders, errors, and the model without components."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from web_browser import axe, expect, fits, settle

from semlens.data.artefact import TextMark
from semlens.lenses.audit.model_test import model_test
from semlens.lenses.swap.kept import keep_swap
from semlens.lenses.swap.swap_result import Swap

AUDIT = "#/m/demo/audit"


def points(share):
    return f"{100 * share:.1f}\u00a0%"


def test_all_classes_at_a_glance(page_at, served):
    """The planted fault comes first, unasked, and its row begins the audit that says the same."""
    page = page_at(f"{served[0]}{AUDIT}")
    expect(page.locator(".sweep[data-ready]")).to_be_visible(timeout=240_000)
    rows = page.locator(".sweep tbody tr")
    expect(rows).to_have_count(len(served[1].relevance_classes))
    expect(rows.first).to_contain_text("vegetable")
    expect(rows.first).to_contain_text("Alarm")
    alarms = served[1].audit_all(resamples=0).alarms
    assert "vegetable" in alarms
    expect(page.locator(".sweep table [data-standing=alarm]")).to_have_count(len(alarms))
    expect(page.locator(".sweep > .sentence")).to_contain_text(
        "raises the alarm: “vegetable” relies on “text”"
    )
    finding = page.locator("[data-finding='4']")
    expect(finding.locator("li")).to_have_count(6)
    crop = finding.locator("li a").first
    component = crop.get_attribute("aria-label").removeprefix("Card of ")
    crop.click()
    expect(page.locator("aside")).to_contain_text(component)
    page.keyboard.press("Escape")
    settle(page)
    assert axe(page) == []
    p = rows.first.locator("td.number").nth(1).inner_text()
    with page.expect_download() as taken:
        page.locator(".sweep").get_by_role("button", name="CSV").click()
    lines = taken.value.path().read_text().splitlines()
    assert len(lines) == 1 + rows.count()
    assert lines[1].startswith("vegetable,4,")

    page.get_by_role("button", name="vegetable", exact=True).click()
    expect(page.locator(".said")).to_contain_text("than the other classes do", timeout=60_000)
    assert p.startswith("<")
    expect(page.locator(".said")).to_contain_text(f"p {p}")
    # what was computed is there when one comes back; the row opens the audit now
    page.get_by_role("link", name="All audits").click()
    expect(page.locator(".sweep[data-ready]")).to_be_visible(timeout=240_000)
    settle(page)
    expect(page.locator("[data-summary]").first).to_contain_text("Alarm")
    expect(page.locator("[data-summary]").first).to_contain_text("relies on “text”")
    link = page.locator(".sweep table").get_by_role("link", name="vegetable")
    expect(link).to_have_attribute("href", re.compile(r"audit=\d+"))
    page.set_viewport_size({"width": 360, "height": 780})
    fits(page)


def begin(page_at, served):
    page = page_at(f"{served[0]}{AUDIT}?class=4")
    page.get_by_role("button", name="Start audit").click()
    expect(page.locator(".said [data-standing]")).to_be_visible(timeout=60_000)
    return page


def test_the_model_against_artefacts(page_at, served):
    page = begin(page_at, served)
    _, db = served
    mark = TextMark("© stock", colour=(255, 255, 255))

    page.locator("summary", has_text="Test the model").click()
    # first the mark behind the alarm, which is not safe; then words
    page.get_by_role("button", name="Test the model").click()
    expect(page.locator("[data-set=mark]")).to_be_visible(timeout=120_000)
    assert float(page.locator("[data-set=mark]").get_attribute("data-auroc")) < 0.85
    page.get_by_label("Kind of artefact 1").select_option("text")
    page.get_by_role("button", name="Test the model").click()
    expect(page.locator("[data-set=text]")).to_be_visible(timeout=120_000)
    expected = model_test(db, 4, artefacts=[mark], count=100).worst
    found = float(page.locator("[data-set=text]").get_attribute("data-auroc"))
    assert found == pytest.approx(expected.auroc, abs=1e-3)

    assert axe(page) == []

    # it is still there after a visit elsewhere
    page.get_by_role("link", name="Overview", exact=True).click()
    expect(page.locator("main")).to_have_attribute("data-page", "overview")
    page.go_back()
    expect(page.locator("[data-set=text]")).to_be_visible(timeout=60_000)
    page.set_viewport_size({"width": 360, "height": 780})
    fits(page)


@pytest.mark.timeout(900)
def test_borders_and_errors_without_words(page_at, served):
    """The planted class is detected by its borders; its errors colour the map."""
    base, db = served
    page = page_at(f"{base}{AUDIT}")
    page.get_by_role("button", name="Swap borders of all classes").click()
    expect(page.locator("[data-detected]")).to_have_attribute(
        "data-detected", "vegetable", timeout=240_000
    )
    rows = page.locator("figure[data-form=values] li:has(.value)")
    expect(rows).to_have_count(12)
    swap = db.swap(part="border")
    gains = swap.frame[swap.frame["class"] == "vegetable"].sort_values("size")["gain"]
    for place, gain in enumerate(gains):
        expect(rows.first.locator(".value").nth(place)).to_contain_text(f"{gain:.3g}")
    expect(page.locator("figure[data-form=pictures] img")).to_have_count(
        2 * len(swap.pasted["border"])
    )

    page.get_by_label("Class whose errors are compared").select_option("4")
    page.get_by_role("button", name="Compare errors on “vegetable”").click()
    result = db.contrast(errors="vegetable")
    expect(page.locator("[data-different]")).to_have_attribute(
        "data-different", str(result.different), timeout=120_000
    )
    first = page.locator("figure[data-form=components] li").first
    expect(first.get_by_role("link")).to_contain_text(result.frame["component"][0])
    expect(first).to_contain_text(f"{result.frame['auroc'][0]:.3g}")
    first.scroll_into_view_if_needed()  # pictures are loaded near the screen
    expect(first.locator("img")).to_be_visible()
    assert axe(page) == []
    page.set_viewport_size({"width": 360, "height": 780})
    fits(page)
    page.set_viewport_size({"width": 1280, "height": 800})

    first.get_by_role("link").click()
    expect(page.locator("aside")).to_contain_text(result.frame["component"][0])
    page.keyboard.press("Escape")  # the card lies over the right of the page
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


def test_a_finding_without_words_changes_the_standing_everywhere(page_at, served):
    """What an experiment finds is kept: the audit, the list of audits and the classes say it."""
    base, db = served
    keep_swap(db, planted_swap(db, "clock"))
    target = db.model.classes.index("clock")
    number = db.audits.add("clock", ["demo-world/clock", "artefacts"]).id
    try:
        said = db.audits.run(number, resamples=0).standing
        assert said.kind == "suspicion"
        page = page_at(f"{base}#/m/demo/audit?audit={number}")
        verdict = page.get_by_label("Verdict", exact=True)
        expect(verdict).to_contain_text("but the border swap finds that", timeout=60_000)
        expect(verdict).to_contain_text("corrected for 24 tests in 1 experiment")
        # where no concept raises the alarm, the experiments come before the components
        section = page.get_by_role("region", name="Look without words")
        expect(section.locator("[data-detected=clock]")).to_be_visible(timeout=60_000)
        components = page.get_by_label("Components", exact=True).first
        assert section.bounding_box()["y"] < components.bounding_box()["y"]
        page.goto(f"{base}#/m/demo/classes?class={target}")
        expect(page.locator("[data-alarm] [data-standing=suspicion]")).to_be_visible(timeout=60_000)
        page.goto(f"{base}{AUDIT}")
        summary = page.locator(f"[data-summary='{number}']")
        expect(summary).to_contain_text("relies on the borders of its images", timeout=60_000)
        fits(page)
    finally:
        (db.path / "analysis" / "swap.parquet").unlink()
        db.audits.remove(number, 1)


def planted_swap(db, name):
    """A border swap of all classes that finds one."""
    rows = [
        {
            "class": one, "logit": logit, "part": "border", "size": width,
            "gain": float(one == name),
            "p_value": 1e-4 if one == name else 0.5, "adjusted": 1.0, "detected": False,
        }
        for logit, one in enumerate(db.model.classes) for width in (0.15, 0.25)
    ]  # fmt: skip
    frame = pd.DataFrame(rows).sort_values(["p_value", "logit"], ignore_index=True)
    components = frame[["class", "part", "size"]].assign(
        component="layer2:0", rise=1.0, effect=1.0, relevance=0.1, carried=float("nan"), named=False
    )
    return Swap(frame, components, {"border": 64}, len(rows) // 2)
