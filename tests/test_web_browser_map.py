"""The map in a browser: lasso, hover, links, keys, and what it does without WebGL."""

from __future__ import annotations

import csv
import io
import re
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from web_browser import axe, expect, settle

import semlens as sl

MAP = "#/m/demo/map"
# the browser of the tests draws WebGL on the processor; the page then draws by hand instead
GRAPHICS = """
const ask = WebGL2RenderingContext.prototype.getParameter;
WebGL2RenderingContext.prototype.getParameter = function (what) {
  const found = ask.call(this, what);
  return typeof found === "string" ? "a graphics processor" : found;
};
"""
# pixels that differ from the ground, in all three colours together by so much
SEEN = """(canvas) => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
  copy.drawImage(canvas, 0, 0);
  const bytes = copy.getImageData(0, 0, canvas.width, canvas.height).data;
  let seen = 0;
  for (let i = 0; i < bytes.length; i += 4)
    seen += Math.abs(bytes[i] - bytes[0]) + Math.abs(bytes[i + 1] - bytes[1]) +
      Math.abs(bytes[i + 2] - bytes[2]) > 150;
  return seen;
}"""
ACCENT = """(canvas) => {
  const probe = document.createElement("i");
  probe.style.color = "var(--accent)";
  document.body.append(probe);
  const [r, g, b] = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
  probe.remove();
  const bytes = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let seen = 0;
  for (let i = 0; i < bytes.length; i += 4)
    seen += bytes[i + 3] > 250 && Math.abs(bytes[i] - r) + Math.abs(bytes[i + 1] - g) +
      Math.abs(bytes[i + 2] - b) < 6;
  return seen;
}"""


@pytest.fixture
def map_at(page_at):
    """Open the map, and wait until its points are drawn."""

    def open_map(query="", *, script=None, **options):
        page = page_at(MAP + query, **options)
        if script:
            page.add_init_script(script)
            page.reload()
            settle(page)
        page.locator("[data-styled='true'] [data-frames]").wait_for()
        return page

    return open_map


def host(page):
    return page.locator("[data-frames]")


def lasso(page, *places):
    """Draw with Shift, in shares of the plot's width and height."""
    box = page.locator(".plot").bounding_box()
    spots = [(box["x"] + h * box["width"], box["y"] + v * box["height"]) for h, v in places]
    page.keyboard.down("Shift")
    page.mouse.move(*spots[0])
    page.mouse.down()
    for spot in [*spots[1:], spots[0]]:
        page.mouse.move(*spot, steps=5)
    page.mouse.up()
    page.keyboard.up("Shift")


LEFT = ((0.005, 0.15), (0.45, 0.15), (0.45, 0.995), (0.005, 0.995))
NOTHING = ((0.97, 0.9), (0.99, 0.9), (0.99, 0.95))


def colours(picture):
    return len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0))


def saved(page, button):
    with page.expect_download() as download:
        button.click()
    return download.value.path().read_bytes()


def test_the_map_shows_all_components_and_their_clusters(map_at, demo):
    page = map_at()
    expect(page.locator("[data-points]")).to_have_attribute("data-points", "192")
    found = sl.open(demo).concept_map()
    clusters = page.get_by_label("Map contents").get_by_role("listitem")
    expect(clusters).to_have_count(len(found.clusters))
    expect(clusters.first).to_contain_text(", ".join(found.clusters["labels"][0]))
    expect(clusters.first).to_contain_text(str(found.clusters["size"][0]))
    assert page.locator(".host canvas").first.evaluate(SEEN) > 1000
    text = page.get_by_role("img", name=re.compile("components of demo")).get_attribute(
        "aria-label"
    )
    assert text is not None
    assert text.startswith("192 components")


def test_a_lasso_lists_what_is_inside_and_saves_it(map_at, demo):
    page = map_at()
    lasso(page, *LEFT)
    heading = page.get_by_role("heading", name=re.compile("selected$"))
    expect(heading).to_be_visible()
    content = saved(page, page.get_by_role("button", name="CSV"))
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert heading.inner_text() == f"{len(rows)} selected"
    # the lasso is the left part of the plot, so the selected ones are those farthest left
    frame = sl.open(demo).concept_map(concepts=None).frame.set_index("component")
    names = [row["component"] for row in rows]
    rest = frame.drop(index=names)
    assert 0 < len(names) < len(frame)
    assert frame.loc[names, "x"].max() < rest["x"].min()
    chips = page.get_by_label("Map contents").locator("a.chip .mono")
    assert chips.all_inner_texts() == names
    expect(page.get_by_text(re.compile(r"^\d+ of \d+$")).first).to_be_visible()
    page.keyboard.press("Escape")
    expect(heading).to_have_count(0)
    lasso(page, *NOTHING)
    expect(heading).to_have_count(0)


def test_a_lasso_by_the_button_and_more_like_these(map_at):
    page = map_at()
    button = page.get_by_role("button", name="Select with a lasso")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    box = page.locator(".plot").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 60)
    page.mouse.down()
    for h, v in ((0.6, 0.1), (0.6, 0.99), (0.01, 0.99)):
        page.mouse.move(box["x"] + h * box["width"], box["y"] + v * box["height"], steps=4)
    page.mouse.up()
    expect(button).to_have_attribute("aria-pressed", "false")
    page.get_by_role("button", name="More like these").click()
    expect(page.locator("[data-by]")).to_have_attribute("data-by", "query")
    assert "query_id=" in page.url
    expect(page.get_by_label("Map contents").locator("ol > li")).to_have_count(12)


def test_a_cluster_is_selected_by_keyboard(map_at):
    page = map_at()
    first = page.get_by_label("Map contents").get_by_role("listitem").first
    count = first.locator(".number").inner_text()
    first.get_by_role("button").press("Enter")
    expect(first.get_by_role("button")).to_have_attribute("aria-pressed", "true")
    tab = page.get_by_role("button", name=f"Selection {count}")
    tab.press("Enter")
    expect(page.get_by_role("heading", name=f"{count} selected")).to_be_visible()


def test_high_zoom_shows_pictures_and_hover_tells_the_right_ones(map_at):
    page = map_at("?at=6@4.5,5.8&sel=layer3:42")
    page.get_by_role("button", name="Close the card").click()
    crops = page.locator(".stage > img")
    expect(crops.first).to_be_visible()
    middle = page.locator(".plot").bounding_box()
    told = 0
    for crop in crops.all()[:8]:
        box = crop.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        inside = middle["x"] + 20 < x < middle["x"] + middle["width"] - 80
        if not inside or not middle["y"] + 70 < y < middle["y"] + middle["height"] - 120:
            continue
        place = re.search(r"components/([^/]+)/", crop.get_attribute("src"))[1]
        page.mouse.move(x, y)
        tip = page.get_by_role("tooltip")
        expect(tip.locator("strong")).to_have_text(unquote(place))
        source = tip.locator("img").get_attribute("src")
        assert f"components/{place}/strip.webp?count=4" in source
        told += 1
    assert told
    page.mouse.click(x, y)
    expect(page.locator("aside [data-component]")).to_be_visible()


def test_a_link_marks_its_component_and_brings_it_into_view(map_at):
    over = ".host canvas:nth-of-type(2)"
    assert map_at().locator(over).evaluate(ACCENT) == 0
    page = map_at("?sel=layer3:42")
    expect(page.locator("aside [data-component]")).to_have_attribute("data-component", "layer3:42")
    assert page.locator(over).evaluate(ACCENT) > 20
    # a view that does not hold it is left
    corner = map_at("?at=30@-50,-50&sel=layer3:42")
    expect(corner.locator(".stage > img").first).to_be_visible()
    assert corner.locator(over).evaluate(ACCENT) > 20
    assert map_at("?sel=nothing:1").locator(over).evaluate(ACCENT) == 0


def test_the_keys_zoom_and_pan_and_the_link_follows(map_at):
    page = map_at()
    page.locator(".stage").focus()
    for _ in range(3):
        page.keyboard.press("+")
    expect(page.locator("main")).to_be_visible()
    page.wait_for_url(re.compile(r"at=2\.46"))
    page.keyboard.press("ArrowRight")
    before = page.url
    page.wait_for_url(lambda url: url != before)
    assert "at=2.46" in page.url
    page.keyboard.press("0")
    page.wait_for_url(lambda url: "at=" not in url)
    page.get_by_role("button", name="Zoom in").click()
    page.wait_for_url(re.compile(r"at=1\.35"))
    page.get_by_role("button", name="Show the whole map").click()
    page.wait_for_url(lambda url: "at=" not in url)


def test_a_query_rings_its_matches_and_lists_them(map_at, demo):
    page = map_at("?q=clock")
    expect(page.locator("[data-by]")).to_have_attribute("data-by", "query")
    items = page.get_by_label("Map contents").locator("ol > li")
    expect(items).to_have_count(12)
    hits = sl.open(demo).search("clock", top=12)
    shown = page.get_by_label("Map contents").locator("a.chip .mono").all_inner_texts()
    assert shown == [str(component) for component in hits.components]
    assert float(items.first.locator(".number").last.inner_text()) == pytest.approx(
        hits[0].alignment, abs=6e-4
    )
    page.keyboard.press("j")
    expect(page.locator("aside [data-component]")).to_have_attribute("data-component", shown[0])
    page.keyboard.press("j")
    expect(page.locator("aside [data-component]")).to_have_attribute("data-component", shown[1])


@pytest.mark.parametrize("by", ["layer", "clarity", "relevance"])
def test_colours_are_chosen_and_explained(map_at, by):
    page = map_at()
    page.get_by_role("combobox", name=re.compile("^Colour")).select_option(by)
    expect(page.locator("[data-styled='true'][data-by]")).to_have_attribute("data-by", by)
    legend = page.locator(".legend")
    expect(legend).to_contain_text({"layer": "layer2", "clarity": "≥", "relevance": "mammal"}[by])
    assert f"by={by}" in page.url
    if by == "relevance":
        page.get_by_role("combobox", name="Class").select_option("vegetable")
        expect(legend).to_contain_text("vegetable")


def test_layers_dim_and_never_hide(map_at):
    page = map_at("?layer=layer2")
    canvas = page.locator(".host canvas").first
    strong = canvas.evaluate(SEEN)
    assert strong > 0
    faint = SEEN.replace("> 150", "> 20")
    page.goto(page.url.replace("?layer=layer2", ""))
    page.reload()
    settle(page)
    page.locator("[data-styled='true'] [data-frames]").wait_for()
    whole = canvas.evaluate(faint)
    assert canvas.evaluate(SEEN) > strong
    page.goto(page.url + "?layer=layer2")
    page.reload()
    settle(page)
    page.locator("[data-styled='true'] [data-frames]").wait_for()
    assert canvas.evaluate(faint) == pytest.approx(whole, rel=0.1)


def test_the_picture_has_twice_the_size_and_a_legend(map_at):
    page = map_at("?by=clarity")
    content = saved(page, page.get_by_role("button", name="Download the map as PNG"))
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    box = page.locator(".plot").bounding_box()
    assert picture.width == 2 * round(box["width"])
    assert picture.height > 2 * box["height"]
    foot = picture.crop((0, picture.height - 120, picture.width, picture.height))
    assert colours(foot) > 100  # the ramp, and text


def test_without_webgl_points_are_drawn_by_hand(map_at):
    page = map_at(webgl=False)
    expect(host(page)).to_have_attribute("data-layer", "2d")
    assert page.locator(".host canvas").first.evaluate(SEEN) > 1000
    lasso(page, *LEFT)
    expect(page.get_by_role("heading", name=re.compile("selected$"))).to_be_visible()


def test_a_lost_context_is_drawn_by_hand_until_it_is_back(map_at):
    page = map_at(script=GRAPHICS)
    expect(host(page)).to_have_attribute("data-layer", "webgl")
    assert colours(Image.open(io.BytesIO(host(page).screenshot()))) > 50
    held = page.evaluate_handle("document.querySelector('.host canvas')")
    lose = held.evaluate_handle("(c) => c.getContext('webgl2').getExtension('WEBGL_lose_context')")
    lose.evaluate("(extension) => extension.loseContext()")
    expect(host(page)).to_have_attribute("data-layer", "2d")
    frames = int(host(page).get_attribute("data-frames"))
    page.locator(".stage").press("+")
    expect(host(page)).not_to_have_attribute("data-frames", str(frames))
    assert page.locator(".host canvas").first.evaluate(SEEN) > 1000
    lose.evaluate("(extension) => extension.restoreContext()")
    expect(host(page)).to_have_attribute("data-layer", "webgl")
    page.locator(".stage").press("0")
    assert colours(Image.open(io.BytesIO(host(page).screenshot()))) > 50


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_serious_for_axe(map_at, theme):
    page = map_at("?q=clock", theme=theme)
    assert axe(page) == []
    lasso(page, *LEFT)
    expect(page.get_by_role("heading", name=re.compile("selected$"))).to_be_visible()
    settle(page)
    assert axe(page) == []


def test_a_narrow_screen_shows_map_and_list(map_at):
    page = map_at("?q=clock", width=360, height=740)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    plot = page.locator(".plot").bounding_box()
    assert plot["width"] > 340
    assert plot["height"] > 300
    expect(page.get_by_label("Map contents").locator("ol > li").first).to_be_visible()
