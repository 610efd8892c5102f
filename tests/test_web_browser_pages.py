"""What people do first, in a real browser: search, open a card, follow a link, look around."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image
from playwright.sync_api import expect
from web_browser import axe, copy_of, serve, settle

import semlens as sl

PAGES = (
    "overview",
    "search?q=fruit",
    "map",
    "components",
    "classes?class=4",
    "explain?sample=4",
    "audit",
    "compare",
)


@pytest.mark.parametrize("page_name", PAGES)
@pytest.mark.parametrize(("theme", "width"), [("light", 2560), ("dark", 360)])
def test_every_page_is_accessible_and_fits(page_at, page_name, theme, width):
    page = page_at(f"#/m/demo/{page_name}", theme=theme, width=width)
    assert axe(page) == []
    main = page.locator("main")
    expect(main).to_have_attribute("data-page", page_name.partition("?")[0])
    assert main.evaluate("box => box.scrollWidth <= box.clientWidth + 1"), "scrolls sideways"
    assert page.evaluate("() => document.body.scrollWidth <= innerWidth")


def hits(page):
    rows = page.locator("main li[data-component]")
    return [row.get_attribute("data-component") for row in rows.all()]


def test_search_by_text_from_any_page(page_at, demo):
    page = page_at("#/m/demo/classes")
    page.keyboard.press("/")
    page.keyboard.type("watermark")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_have_attribute("data-page", "search")
    settle(page)
    expected = [str(one) for one in sl.open(demo).search("watermark", top=10).components]
    expect(page.locator("main").get_by_text(expected[0], exact=True).first).to_be_visible()
    assert hits(page)[:10] == expected
    assert page.url.endswith("/search?q=watermark")


def test_a_minus_keeps_away_from_a_term(page_at, demo):
    page = page_at("#/m/demo/search?q=animal&without=text")
    assert page.locator("#search").input_value() == "animal - text"
    expected = sl.open(demo).search("animal", without=["text"], top=5).components
    assert hits(page)[:5] == [str(one) for one in expected]


def test_search_by_image(page_at, demo):
    page = page_at("#/m/demo/search")
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste((200, 30, 40), (12, 12, 52, 52))
    held = io.BytesIO()
    picture.save(held, "PNG")
    sent = {"name": "red.png", "mimeType": "image/png", "buffer": held.getvalue()}
    page.locator("header input[type=file]").set_input_files(sent)
    page.wait_for_url(re.compile("query_id="))
    settle(page)
    expected = sl.open(demo).search(images=[picture], top=5).components
    assert hits(page)[:5] == [str(one) for one in expected]


def test_what_is_no_image_is_told(page_at):
    page = page_at("#/m/demo/search")
    sent = {"name": "x.svg", "mimeType": "image/svg+xml", "buffer": b"<svg></svg>"}
    page.locator("header input[type=file]").set_input_files(sent)
    expect(page.get_by_role("alert").first).to_contain_text("PNG")


def test_a_link_is_a_view(page_at):
    page = page_at("#/m/demo/search?q=fruit&layer=layer3&sel=layer3%3A17")
    card = page.get_by_role("complementary", name="Component")
    expect(card).to_contain_text("layer3:17")
    assert all(name.startswith("layer3:") for name in hits(page))
    page.keyboard.press("Escape")
    expect(card).to_have_count(0)
    page.go_back()
    expect(card).to_contain_text("layer3:17")


def test_an_unknown_model_and_component_are_told(page_at):
    page = page_at("#/m/demo/overview?sel=layer9%3A1")
    expect(page.get_by_role("complementary", name="Component")).to_contain_text("layer9:1")
    page.goto(page.url.split("#")[0] + "#/m/elsewhere/map")
    page.reload()
    expect(page.locator("main")).to_contain_text("Unknown model “elsewhere”")
    page.locator("main").get_by_role("link", name="demo").click()
    expect(page.locator("main")).to_have_attribute("data-model", "demo")


def test_keys_go_everywhere_and_are_listed(page_at):
    page = page_at()
    for letter, name in zip("smtceaxo", PAGES[1:] + PAGES[:1], strict=True):
        page.keyboard.press("g")
        page.keyboard.press(letter)
        expect(page.locator("main")).to_have_attribute("data-page", name.partition("?")[0])
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(dialog).to_contain_text("search")
    assert axe(page) == []
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_the_theme_is_chosen_and_remembered(page_at):
    page = page_at(theme="dark")
    root = page.locator("html")
    colour = "element => getComputedStyle(element).backgroundColor"
    assert root.evaluate(colour) == "rgb(19, 23, 28)"
    page.get_by_role("button", name=re.compile("Theme")).click()
    assert root.evaluate(colour) == "rgb(255, 255, 255)"
    page.reload()
    settle(page)
    assert root.evaluate(colour) == "rgb(255, 255, 255)"


def test_two_models_are_compared(page_at, demo, tmp_path):
    one = copy_of(demo, tmp_path / "a")
    two = one.parent / "other.semlens"
    copy_of(demo, tmp_path / "b").rename(two)
    with serve(one, two) as base:
        page = page_at(f"{base}#/m/demo/compare")
        settle(page, 200)
        expect(page.locator("main")).to_contain_text("192")  # all are each other's nearest
        maps = page.get_by_role("application")
        expect(maps).to_have_count(2)
        assert axe(page) == []
        maps.first.focus()
        first = maps.first
        for _ in range(40):  # the zoom ends where neighbours are told apart
            page.keyboard.press("+")
        scale = float(first.get_attribute("data-zoom"))
        page.keyboard.press("+")
        assert float(first.get_attribute("data-zoom")) == scale < 1.4**40
        page.keyboard.press("0")
        expect(first).to_have_attribute("data-zoom", "1")
        name = page.locator("main li a").nth(1).inner_text().split()[0]
        page.locator("main li a").nth(1).click()
        card = page.get_by_role("complementary", name="Component")
        expect(card).to_contain_text(name)
        assert "of=other" in page.url
        page.get_by_role("tab", name=re.compile("Only other")).click()
        expect(page.locator("main")).to_contain_text("0 components of other")
        page.close()
    alone = page_at("#/m/demo/compare")
    expect(alone.locator("main")).to_contain_text("semlens serve demo.semlens OTHER.semlens")


def test_it_works_below_the_prefix_of_a_proxy(page_at, demo, tmp_path):
    with serve(copy_of(demo, tmp_path), below="/lab/semlens") as base:
        page = page_at(f"{base}#/m/demo/search?q=fruit")
        strip = page.locator("main img").first
        assert strip.evaluate("image => image.decode().then(() => image.naturalWidth > 0)")
        assert "/lab/semlens/api/v1/" in strip.evaluate("image => image.src")
        page.keyboard.press("g")
        page.keyboard.press("t")
        settle(page)
        expect(page.locator("main")).to_contain_text("192")
        page.close()


def test_the_server_may_go_and_come_back(page_at, demo, tmp_path):
    with serve(copy_of(demo, tmp_path)) as base:
        page = page_at(f"{base}#/m/demo/search?q=fruit", allowed=("Failed to load resource",))
    page.locator("#search").fill("drink")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").first).to_contain_text("server cannot be reached")
