"""The report of the demo in a real browser: its length, and what is folded."""

from __future__ import annotations

from pathlib import Path

import pytest
from web_browser import axe, copy_of

import semlens as sl

SCREENS = 8
"""Most screens of a report in which all sections but the tests of other models are made."""


@pytest.fixture(scope="module")
def report(seen_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    db = sl.open(copy_of(seen_demo, folder))
    swap = db.swap("vegetable", part="border", count=20)  # few images: it is drawn alike
    made = db.report(
        "vegetable", ["demo-world", "artefacts"], results={"swap": swap}, run=["contrast"],
        date="2026-01-31",
    )  # fmt: skip
    missing = {entry.key for entry in made.page.sections if entry.missing}
    assert missing == {"test", "correction"}
    made.save(folder / "report.html")
    return folder / "report.html"


@pytest.fixture
def opened(report, browser):
    contexts = []

    def open_report(width, height):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}))
        page = contexts[-1].new_page()
        page.goto(report.as_uri())
        return page

    yield open_report
    for context in contexts:
        context.close()


def test_it_is_read_on_eight_screens_and_no_evidence_is_folded(opened):
    page = opened(1440, 900)
    assert page.evaluate("() => document.documentElement.scrollHeight") <= 900 * SCREENS
    hidden = page.locator("details figure, details .verdict, details .changed, details pre")
    assert hidden.count() == 0
    assert page.locator("header .strip img").count() > 0
    assert page.locator("header .changed img").count() == 8
    assert axe(page) == []


def test_it_fits_a_phone(opened):
    page = opened(390, 844)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
