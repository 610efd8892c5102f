"""The map in a browser: lasso, hover, links, keys, and what it does without WebGL."""

from __future__ import annotations

import csv
import io
import json
import re
from urllib.parse import unquote

import numpy as np
import pytest
from matplotlib.path import Path
from PIL import Image
from web_browser import axe, copy_of, expect, fits, serve, settle

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


LEFT = ((0.005, 0.005), (0.45, 0.005), (0.45, 0.995), (0.005, 0.995))
NOTHING = ((0.97, 0.9), (0.99, 0.9), (0.99, 0.95))


def colours(picture):
    return len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0))


def saved(page, button):
    with page.expect_download() as download:
        button.click()
    return download.value.path().read_bytes()


def names_of(page):
    """Names on the map with their boxes: left, top, width, height."""
    return json.loads(host(page).get_attribute("data-names"))


def boxes_of_crops(page):
    script = """(crops) => crops.map((crop) => {
      const stage = crop.parentElement.getBoundingClientRect();
      const box = crop.getBoundingClientRect();
      return [box.left - stage.left, box.top - stage.top, box.width, box.height];
    })"""
    return page.locator(".crop").evaluate_all(script)


def overlap(one, other):
    """The shorter side of what two boxes share."""
    sides = [
        min(one[axis] + one[axis + 2], other[axis] + other[axis + 2]) - max(one[axis], other[axis])
        for axis in (0, 1)
    ]
    return max(min(sides), 0)


@pytest.mark.parametrize(("width", "height", "least"), [(1440, 900, 185), (390, 844, 20)])
def test_the_first_view_has_crops_and_one_name_per_place(map_at, demo, width, height, least):
    page = map_at(width=width, height=height)
    names, crops = names_of(page), boxes_of_crops(page)
    assert len(crops) >= least
    found = sl.open(demo).concept_map().places
    labels = [", ".join(labels) for labels in found["labels"] if labels]
    texts = [name[0] for name in names]
    assert len(texts) == len(set(texts)) >= 0.8 * len(labels)
    # in a narrow window, a wide name is its first word, unless another begins with that
    first = [label.split(", ")[0] for label in labels]
    short = {word for word in first if first.count(word) == 1}
    assert set(texts) <= {*labels, *(short if width < 500 else ())}
    assert width > 500 or any(text in short - set(labels) for text in texts)
    stage = page.locator(".stage").bounding_box()
    for i, (_, *box) in enumerate(names):
        assert box[0] >= 0
        assert box[1] >= 0
        assert box[0] + box[2] <= stage["width"]
        assert box[1] + box[3] <= stage["height"]
        assert not any(overlap(box, other) for _, *other in names[:i])
        assert not any(overlap(box, crop) > 0.1 * crop[2] for crop in crops)
    for i, crop in enumerate(crops):
        assert not any(overlap(crop, other) > 0.15 * crop[2] for other in crops[:i])
    fits(page)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_each_place_has_a_colour_that_stands_out(map_at, demo, theme):
    page = map_at(theme=theme)
    found = sl.open(demo).concept_map()
    script = """(crops) => crops.map((crop) => [
      Number(crop.dataset.point), getComputedStyle(crop).borderTopColor])"""
    shown = {}
    for point, colour in page.locator(".crop").evaluate_all(script):
        place = int(found.frame["place"][point])
        hue = shown.setdefault(place, colour)
        assert hue == colour
    assert len(set(shown.values())) == len(shown) == len(found.places)
    for place, colour in shown.items():
        parts = [float(part) for part in re.findall(r"[\d.]+", colour)]
        expected = found.atlas.colours[place]
        wanted = expected.dark if theme == "dark" else expected.light
        assert "#" + "".join(f"{int(part):02x}" for part in parts[:3]) == wanted


def test_the_map_shows_all_components_and_their_places(map_at, demo):
    page = map_at()
    expect(page.locator("[data-points]")).to_have_attribute("data-points", "192")
    found = sl.open(demo).concept_map()
    places = page.get_by_label("Map contents").get_by_role("listitem")
    named = [labels for labels in found.places["labels"] if labels]
    expect(places).to_have_count(len(named))
    expect(places.first).to_contain_text(", ".join(found.places["labels"][0]))
    expect(places.first).to_contain_text(str(found.places["size"][0]))
    expect(places.first.get_by_role("img")).to_be_visible()
    page.get_by_text("without a label").click()
    expect(places).to_have_count(len(found.places))
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
    concept_map = sl.open(demo).concept_map()
    frame = concept_map.frame.assign(x=concept_map.atlas.points[:, 0]).set_index("component")
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


def test_a_place_is_selected_by_keyboard_zoomed_to_and_kept_by_a_reload(map_at):
    page = map_at()
    first = page.get_by_label("Map contents").get_by_role("listitem").first
    count = first.locator(".number").inner_text()
    before = first.bounding_box()
    first.get_by_role("button").press("Enter")
    expect(first.get_by_role("button")).to_have_attribute("aria-pressed", "true")
    assert first.bounding_box() == before  # the list does not jump
    page.wait_for_url(re.compile(r"place=0.*at="))
    dimmed = page.locator(".crop.dim").count()
    assert page.locator(".crop").count() - dimmed == int(count)
    assert dimmed > 0  # nothing is hidden
    page.reload()
    settle(page)
    expect(first.get_by_role("button")).to_have_attribute("aria-pressed", "true")
    tab = page.get_by_role("button", name=f"Selection {count}")
    tab.press("Enter")
    expect(page.get_by_role("heading", name=f"{count} selected")).to_be_visible()


def test_high_zoom_shows_pictures_and_hover_tells_the_right_ones(map_at):
    page = map_at("?sel=layer3:42")
    page.get_by_role("button", name="Close the card").click()
    for _ in range(4):
        page.get_by_role("button", name="Zoom in").click()
    crops = page.locator(".stage > .crop")
    expect(crops.first).to_be_visible()
    middle = page.locator(".plot").bounding_box()
    told = 0
    for crop in crops.all():
        if told == 5:
            break
        box = crop.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        inside = middle["x"] + 20 < x < middle["x"] + middle["width"] - 80
        if not inside or not middle["y"] + 20 < y < middle["y"] + middle["height"] - 20:
            continue
        source = crop.locator("img").get_attribute("src")
        place = re.search(r"components/([^/]+)/", source)[1]
        page.mouse.move(x, y)
        tip = page.get_by_role("tooltip")
        expect(tip.locator(".mono")).to_have_text(unquote(place))
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
    expect(corner.locator(".stage > .crop").first).to_be_visible()
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


def test_the_zoom_ends_where_there_is_something_to_see(map_at):
    page = map_at()
    zoom_in = page.get_by_role("button", name="Zoom in")
    for _ in range(25):
        zoom_in.click()
    page.wait_for_url(re.compile("at="))
    deep = float(re.search(r"at=([\d.]+)", page.url)[1])
    assert deep < 10
    largest = max(box[2] for box in boxes_of_crops(page))
    assert 90 < largest <= 122
    box = page.locator(".stage").bounding_box()
    for _ in range(4):  # to a corner without components
        page.mouse.move(box["x"] + 60, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 60, box["y"] + box["height"] - 60, steps=3)
        page.mouse.up()
    assert len(boxes_of_crops(page)) >= 1
    for _ in range(40):
        page.get_by_role("button", name="Zoom out").click()
    page.wait_for_url(lambda url: "at=" not in url or "at=1%40" in url)
    assert len(names_of(page)) > 10


def test_verdicts_colour_the_map_with_marks_and_words(map_at, demo):
    page = map_at("?by=verdict&class=4")
    expect(page.locator("[data-styled='true'][data-by]")).to_have_attribute("data-by", "verdict")
    legend = page.locator(".legend")
    for word in ("valid", "spurious", "both", "not covered", "none"):
        expect(legend).to_contain_text(word)
    response = page.request.get(page.url.split("#")[0] + "api/v1/models/0/verdicts/4").json()
    marked = page.locator(".crop i.spurious").count()
    spurious = [item for item in response["components"] if item["verdict"] == "spurious"]
    assert 0 < marked <= len(spurious)
    assert len(spurious) - marked <= 2  # one may have no room for a crop
    expect(legend).to_contain_text(str(len(spurious)))


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
def test_a_lasso_is_kept_by_a_reload_and_lands_in_an_audit(page_at, demo, tmp_path, width, height):
    with serve(copy_of(demo, tmp_path)) as address:
        page = page_at(address + MAP, width=width, height=height)
        page.locator("[data-styled='true'] [data-frames]").wait_for()
        lasso(page, *LEFT)
        heading = page.get_by_role("heading", name=re.compile("selected$"))
        expect(heading).to_be_visible()
        count = int(heading.inner_text().split()[0])
        page.reload()
        settle(page)
        expect(heading).to_have_text(f"{count} selected")
        page.get_by_label("Class that they are spurious for").select_option(label="vegetable")
        page.get_by_role("button", name=f"Mark all {count} as spurious for vegetable").click()
        undo = page.get_by_role("button", name="Marked spurious by you undo for vegetable")
        expect(undo).to_contain_text("Marked spurious by you")
        saved = page.request.get(f"{address}api/v1/models/0/audits").json()["audits"]
        assert len(saved) == 1
        audit = saved[0]["audit"]
        assert audit["target_name"] == "vegetable"
        assert len(audit["reviews"]) == count
        assert {review["status"] for review in audit["reviews"].values()} == {"spurious"}
        fits(page)
        # its most frequent label as a concept, in the same audit
        page.get_by_label("Add its concept to an audit").click()
        page.get_by_role("button", name="Spurious", exact=True).click()
        link = page.get_by_role("link", name=re.compile("^Open"))
        expect(page.get_by_role("status").filter(has_text="now a spurious concept")).to_be_visible()
        again = page.request.get(f"{address}api/v1/models/0/audits").json()["audits"]
        assert [entry["audit"]["id"] for entry in again] == [audit["id"]]
        assert len(again[0]["audit"]["spurious"]) == len(audit["spurious"]) + 1
        link.click()
        expect(page.locator("main")).to_have_attribute("data-page", "audit")
        settle(page)
        page.goto("about:blank")  # nothing is requested once the server has stopped


def test_a_selection_of_nearly_everything_is_kept_as_the_path_of_the_lasso(map_at, demo):
    page = map_at()
    lasso(page, (0.001, 0.001), (0.9, 0.001), (0.999, 0.3), (0.999, 0.999), (0.001, 0.999))
    heading = page.get_by_role("heading", name=re.compile("selected$"))
    expect(heading).to_be_visible()
    count = int(heading.inner_text().split()[0])
    assert 150 < count <= 192  # more than the link lists
    assert "lasso=" in page.url
    assert "picked=" not in page.url
    assert len(page.url) < 1500
    # what the path holds, by another implementation
    corners = [tuple(map(float, c.split(","))) for c in
               unquote(re.search(r"lasso=([^&]+)", page.url)[1]).split(";")]  # fmt: skip
    points = sl.open(demo).concept_map().atlas.points
    assert int(Path(corners).contains_points(points).sum()) == count
    page.reload()
    settle(page)
    expect(heading).to_have_text(f"{count} selected")
    # one is taken out again
    box = page.locator(".crop:not(.dim)").first.bounding_box()
    page.keyboard.down("Control")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.keyboard.up("Control")
    expect(heading).to_have_text(f"{count - 1} selected")
    page.reload()
    settle(page)
    expect(heading).to_have_text(f"{count - 1} selected")


def test_a_click_with_a_key_adds_to_the_selection(map_at):
    page = map_at()
    points = [page.locator(".crop").nth(index).get_attribute("data-point") for index in (10, 11)]
    for point in (*points, points[0]):
        box = page.locator(f".crop[data-point='{point}']").bounding_box()
        middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.keyboard.down("Control")
        page.mouse.click(*middle)
        page.keyboard.up("Control")
    expect(page.get_by_role("heading", name="1 selected")).to_be_visible()
    assert "picked=" in page.url


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
