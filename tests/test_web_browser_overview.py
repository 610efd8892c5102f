"""The first minute in a real browser: the finding, the guided steps, classes, unexpected ones."""

from __future__ import annotations

import re

import pytest
from conftest import write_pictures
from test_web_overview import make
from web_browser import axe, expect, fits, serve, settle

SIZES = pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.shifted += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""


@pytest.fixture
def overview(page_at):
    def open_overview(width, height, theme="light"):
        page = page_at("#/m/demo/overview", width=width, height=height, theme=theme)
        finding = page.locator("[data-finding]")
        expect(finding).to_be_visible(timeout=60_000)
        return page

    return open_overview


@SIZES
def test_the_finding_comes_first_with_crops_that_open_the_card(overview, width, height):
    page = overview(width, height)
    finding = page.locator("[data-finding=alarm]")
    expect(finding.get_by_role("heading")).to_contain_text("1 of 12 classes raises the alarm")
    expect(finding.get_by_role("heading")).to_contain_text("vegetable relies on")
    assert finding.locator("[data-verdict=spurious]").count() == 3
    crops = finding.get_by_role("link", name=re.compile("Open layer"))
    name = crops.first.get_attribute("aria-label").removeprefix("Open ")
    crops.first.click()
    expect(page.get_by_role("complementary", name="Component")).to_contain_text(name)


@SIZES
def test_three_steps_follow_from_the_finding(overview, width, height):
    page = overview(width, height)
    steps = page.get_by_role("navigation", name="Where to start").get_by_role("link")
    expect(steps).to_have_count(3)
    finding = page.locator("[data-finding] h2").inner_text()
    search, why, fix = (steps.nth(i).get_attribute("href") for i in range(3))
    word = re.search(r"[?&]q=([^&]+)", search)[1]
    assert word in finding
    assert re.search(r"/explain\?sample=\d+", why)
    assert re.search(r"/audit\?(class=4|audit=\d+)", fix)
    steps.first.click()
    expect(page.locator("main")).to_have_attribute("data-page", "search")


@SIZES
def test_a_class_picture_leads_to_its_page(overview, width, height):
    page = overview(width, height)
    tile = page.locator("li[data-class='4'] a")
    expect(tile).to_contain_text("vegetable")
    expect(tile).to_contain_text("Alarm")
    image = tile.locator("img")
    image.scroll_into_view_if_needed()
    expect(image).to_have_js_property("complete", True)
    assert image.evaluate("node => node.naturalWidth === 3 * node.naturalHeight")
    fits(page)
    tile.click()
    expect(page.locator("main")).to_have_attribute("data-page", "classes")


@SIZES
def test_nothing_moves_while_it_loads(page_at, browser, demo_server, width, height):
    context = browser.new_context(viewport={"width": width, "height": height})
    context.add_init_script(SHIFTS)
    page = context.new_page()
    page.goto(f"{demo_server}#/m/demo/overview")
    settle(page)
    page.locator("[data-finding]").wait_for()
    page.wait_for_timeout(500)
    shifted = page.evaluate("() => window.shifted")
    context.close()
    assert shifted < 0.02  # below 0.1 is good (Web Vitals)


@SIZES
def test_verdicts_that_arrive_late_move_nothing(browser, demo_server, width, height):
    context = browser.new_context(viewport={"width": width, "height": height})
    context.add_init_script(SHIFTS)
    page, held = context.new_page(), []
    page.route(re.compile(r"/(sweep|verdicts/\d+)$"), lambda one: held.append(one))
    page.goto(f"{demo_server}#/m/demo/classes?class=4")
    page.locator("main tbody tr").first.wait_for()
    expect(page.locator("main")).to_contain_text("Auditing all classes")
    page.wait_for_timeout(1500)
    before = page.evaluate("() => window.shifted")
    assert len(held) == 2
    for route in held:
        route.continue_()
    expect(page.locator("main [data-standing=alarm]")).to_be_visible()
    page.locator("main tbody [data-verdict=spurious]").first.wait_for()
    page.wait_for_timeout(500)
    shifted = page.evaluate("() => window.shifted") - before
    context.close()
    assert shifted < 0.01


@SIZES
def test_unexpected_components_with_classes_and_files(page_at, width, height):
    page = page_at("#/m/demo/unexpected?class=4", width=width, height=height, theme="dark")
    entries = page.locator("li[data-component]")
    expect(entries).to_have_count(6, timeout=60_000)
    expect(page.locator("main")).to_contain_text("78 of the 104 components")
    first = entries.first
    expect(first).to_contain_text("Nearest:")
    expect(first.get_by_role("link", name="vegetable", exact=True)).to_be_visible()
    first.locator("summary").click()
    expect(first.get_by_role("link", name="Explain this image").first).to_be_visible()
    fits(page)
    assert axe(page) == []
    page.get_by_role("button", name=re.compile("Show more")).click()
    expect(entries).to_have_count(12)
    page.locator("main header select").select_option(label="fruit")
    expect(page.locator("main")).to_contain_text("matter for 'fruit'")


def test_the_finding_links_to_the_unexpected_components(overview):
    page = overview(1440, 900)
    page.get_by_role("link", name=re.compile("What no concept describes")).click()
    expect(page.locator("main")).to_have_attribute("data-page", "unexpected")
    assert axe(page) == []


@SIZES
def test_without_relevance_the_overview_says_how_to_add_it(tmp_path, page_at, width, height):
    make(tmp_path / "plain", write_pictures(tmp_path / "images", 12), relevance=False)
    with serve(tmp_path / "plain") as address:
        page = page_at(f"{address}#/m/plain/overview", width=width, height=height)
        expect(page.locator("#finding")).to_have_text("What does each class rely on?")
        expect(page.locator("main")).to_contain_text("has no class relevance")
        expect(page.get_by_role("navigation", name="Where to start")).to_contain_text(
            "needs class relevance"
        )
        fits(page)
        assert axe(page) == []
