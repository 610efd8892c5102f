"""The card in a browser: what it shows, its keys, its files, and that each part fails alone."""

from __future__ import annotations

import csv
import io
import re
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image
from web_browser import axe, expect, serve, settle

import semlens as sl

CLOCK = "#/m/demo/search?sel=layer3:42"


def card(page):
    return page.locator("aside [data-component]")


def region(page, name):
    return page.locator("aside").get_by_role("group", name=re.compile(name))


def test_a_link_opens_a_card(page_at, demo):
    page = page_at(CLOCK)
    db = sl.open(demo)
    expect(card(page)).to_have_attribute("data-component", "layer3:42")
    crops = region(page, "strongest examples").get_by_role("button", name=re.compile("^Example"))
    expect(crops).to_have_count(12)
    first = db.examples_of(db.row(sl.Component("layer3", 42)))[0]
    expect(crops.first).to_have_attribute("aria-label", f"Example 1: {first.path}. Enlarge")
    page.get_by_role("button", name="Show all 30").click()
    expect(crops).to_have_count(30)
    assert crops.locator("img").first.evaluate("(img) => img.complete && img.naturalWidth > 0")
    expect(region(page, "Label candidates").locator("li").first).to_contain_text("clock")
    expect(region(page, "Relevant for").locator("li").first).to_contain_text("clock")
    shown = db.scores(["layer3"]).to_pandas()["clarity"][42]
    expect(region(page, "Interpretability").locator("li").first).to_contain_text(f"{shown:.3f}")
    expect(region(page, "On all images")).to_contain_text("2,280 images")


def test_keys_step_and_show_heatmaps(page_at):
    page = page_at(CLOCK)
    page.keyboard.press("]")
    expect(card(page)).to_have_attribute("data-component", "layer3:43")
    assert page.url.endswith("sel=layer3%3A43")
    page.keyboard.press("[")
    page.keyboard.press("[")
    expect(card(page)).to_have_attribute("data-component", "layer3:41")
    step = page.get_by_role("button", name="Next component")
    step.click()
    expect(step).to_be_focused()
    heat = page.locator("aside .crop img[src*=heatmaps]")
    expect(page.locator("aside .crop")).to_have_count(12)
    expect(heat).to_have_count(0)
    page.keyboard.press("m")
    expect(page.get_by_role("button", name="Heatmap")).to_have_attribute("aria-pressed", "true")
    expect(heat).to_have_count(12, timeout=60_000)
    page.keyboard.press("]")
    expect(heat).to_have_count(12, timeout=60_000)
    page.keyboard.press("m")
    expect(heat).to_have_count(0)


def test_an_example_is_enlarged_by_the_keyboard_alone(page_at):
    page = page_at(CLOCK)
    crop = page.get_by_role("button", name=re.compile("^Example 2:"))
    page.get_by_role("button", name=re.compile("^Example 1:")).focus()
    page.keyboard.press("Tab")
    expect(crop).to_be_focused()
    peek = page.get_by_role("tooltip").filter(has=page.locator("img"))
    expect(peek).to_contain_text("rank 2")
    expect(peek.locator("img")).to_have_attribute("src", re.compile("view=whole"))
    page.keyboard.press("Enter")
    large = page.get_by_role("dialog")
    expect(large).to_contain_text("example 2 of 30")
    page.keyboard.press("ArrowRight")
    expect(large).to_contain_text("example 3 of 30")
    assert axe(page) == []
    page.keyboard.press("Escape")
    expect(large).to_have_count(0)
    expect(card(page)).to_have_count(1)
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(card(page)).to_have_count(0)


def test_a_neighbour_opens_its_own_card(page_at, demo):
    page = page_at(CLOCK)
    nearest = region(page, "Most similar components").get_by_role("link").first
    name = nearest.locator(".mono").inner_text().strip()
    nearest.click()
    expect(card(page)).to_have_attribute("data-component", name)
    settle(page)
    for source in page.locator("aside .crop img").evaluate_all("(all) => all.map((i) => i.src)"):
        assert f"/components/{quote(name, safe='')}/" in source
    page.go_back()
    expect(card(page)).to_have_attribute("data-component", "layer3:42")
    region(page, "Most similar components").get_by_role("button", name="layer3").click()
    for link in region(page, "Most similar components").locator(".mono").all():
        expect(link).to_contain_text("layer3:")


def test_the_twin_opens_in_the_other_model(page_at, demo, tmp_path):
    other = shutil.copytree(demo, tmp_path / "other.semlens")
    with serve(demo, other) as address:
        page = page_at(address + CLOCK)
        twin = region(page, "Counterpart in the other model").get_by_role("link")
        expect(twin).to_contain_text("mutual")
        expect(twin).to_contain_text("1.000")
        twin.click()
        # the page stays where it is: the card says whose it is
        expect(page.locator("main")).to_have_attribute("data-model", "demo")
        expect(card(page)).to_have_attribute("data-component", "layer3:42")
        expect(card(page)).to_contain_text("of other")
        region(page, "Most similar components").get_by_role("link").first.click()
        assert "of=other" in page.url
        page.close()  # before the server: it would go on asking


def test_the_split_is_shown_where_it_means_something(page_at):
    page = page_at("#/m/demo/overview?sel=layer3:79")
    senses = region(page, "Senses")
    expect(senses).to_contain_text("Two senses")
    expect(senses.locator(".sense")).to_have_count(2)
    page = page_at(CLOCK)
    senses = region(page, "Senses")
    expect(senses).to_contain_text("One sense")
    expect(senses.locator(".sense")).to_have_count(0)
    senses.get_by_role("button").click()
    expect(senses.locator(".sense")).to_have_count(2)


def test_examples_are_saved(page_at, demo):
    page = page_at(CLOCK)
    examples = sl.open(demo).examples_of(64 + 42)
    save = page.locator("aside summary")
    save.click()
    with page.expect_download() as table:
        page.get_by_role("button", name="Examples as CSV").click()
    assert table.value.suggested_filename == "layer3-42.csv"
    rows = list(csv.DictReader(io.StringIO(Path(table.value.path()).read_text("utf-8"))))
    assert [row["path"] for row in rows] == [example.path for example in examples]
    assert [float(row["activation"]) for row in rows] == [e.activation for e in examples]
    assert [int(row["right"]) for row in rows] == [e.box.right for e in examples]
    save.click()
    with page.expect_download() as picture:
        page.get_by_role("button", name="Examples as PNG").click()
    drawn = Image.open(picture.value.path())
    assert drawn.width == 2 * (2 * 20 + 6 * 112 + 5 * 8), "six columns, twice as fine"
    cell = drawn.crop((40, 136, 40 + 224, 136 + 224)).convert("RGB")
    assert len(cell.getcolors(224 * 224) or []) > 100, "the first crop is drawn"
    save.click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Examples as CSV")).to_be_hidden()
    expect(card(page)).to_have_count(1)


def test_two_cards_stand_side_by_side(page_at):
    page = page_at(CLOCK, width=1500)
    page.get_by_role("button", name="Pin this card").click()
    page.keyboard.press("]")
    expect(card(page)).to_have_count(2)
    assert [one.get_attribute("data-component") for one in card(page).all()] == [
        "layer3:42",
        "layer3:43",
    ]
    settle(page)
    assert axe(page) == []
    page.set_viewport_size({"width": 1100, "height": 800})
    expect(card(page)).to_have_count(1)


@pytest.mark.parametrize("lost", ["labels", "measures", "relevances", "senses", "neighbours"])
def test_a_part_fails_alone(page_at, lost):
    page = page_at("#/m/demo/overview", allowed=("status of 500",))
    page.route(f"**/{lost}*", lambda route: route.fulfill(status=500, body="{}"))
    page.goto(page.url.split("#")[0] + CLOCK)
    settle(page)
    failure = page.locator("aside").get_by_role("alert")
    expect(failure).to_have_count(1)
    expect(failure).to_contain_text("500")
    for name in (
        "strongest examples",
        "On all images",
        "Label",
        "Relevant",
        "Senses",
        "Most similar",
    ):
        expect(region(page, name)).to_have_count(1)
    page.unroute(f"**/{lost}*")
    failure.get_by_role("button", name="Try again").click()
    expect(failure).to_have_count(0)


def test_a_slow_card_never_shows_another_ones_pictures(page_at):
    page = page_at(CLOCK)
    waiting = []
    page.route("**/components/layer3%3A43", lambda route: waiting.append(route))
    page.keyboard.press("]")
    expect(page.locator("aside .waiting").first).to_be_visible()
    expect(page.locator("aside .crop")).to_have_count(0)
    expect(card(page).locator("h2")).to_contain_text("layer3:43")
    waiting[0].continue_()
    expect(page.locator("aside .crop")).to_have_count(12)


@pytest.mark.parametrize(("width", "theme"), [(360, "light"), (1440, "dark"), (2560, "light")])
def test_it_fits_and_axe_finds_nothing(page_at, width, theme):
    page = page_at(CLOCK, width=width, theme=theme)
    drawer = page.get_by_role("complementary", name="Component")
    box = drawer.bounding_box()
    assert box and box["x"] >= 0 and box["x"] + box["width"] <= width
    assert drawer.evaluate("(e) => e.scrollWidth <= e.clientWidth")
    assert axe(page) == []


def test_an_unknown_component_says_what_there_is(page_at):
    page = page_at("#/m/demo/overview?sel=layer3:999")
    expect(card(page)).to_contain_text("Unknown component “layer3:999”")
    expect(card(page)).to_contain_text("0 to 127")


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("where", ["components", "unexpected?class=4"])
def test_a_card_beside_a_list_moves_and_covers_nothing(page_at, where, width):
    page = page_at(f"#/m/demo/{where}", width=width, height=900)
    first = page.locator("main a[href*='sel=']").first
    first.wait_for(timeout=60_000)
    settle(page)
    link = first.element_handle()  # once a card is open, more links have one in their address
    link.scroll_into_view_if_needed()
    before = link.bounding_box(), page.locator("main").bounding_box()
    assert before[1]["x"] + before[1]["width"] == width, "no room is kept for a card"
    link.click()
    opened = page.get_by_role("complementary", name="Component").bounding_box()
    settle(page)
    now = link.bounding_box(), page.locator("main").bounding_box()
    for box, former in zip(now, before, strict=True):
        assert box["y"] == former["y"]
    if width > 1000:
        assert now[1]["x"] + now[1]["width"] <= opened["x"]
    else:
        assert opened["width"] == width
