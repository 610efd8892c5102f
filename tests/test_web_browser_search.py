"""Search and cards in a browser: labels first, the floor of noise, typing, and what goes wrong."""

from __future__ import annotations

import io
import re
import threading

import pytest
from PIL import Image
from web_browser import axe, copy_of, expect, fits, serve, settle

import semlens as sl
from semlens.lenses.labelling.component_labels import saved_labels
from semlens.lenses.labelling.confidence import as_shown
from semlens.lenses.search.made_up import measured_reach
from semlens.lenses.search.query import make_query
from semlens.lenses.search.search import rank

SIZES = [(1440, 900), (390, 844)]
ALL_PICTURES = """() => Promise.all([...document.images].map((image) => {
  image.loading = "eager";  // also those below the window, which are wide once they are there
  return image.decode();
}))"""
BOXES = """() => [...document.querySelectorAll("main *")].map((node) => {
  const box = node.getBoundingClientRect();
  return [box.x, box.y, box.width, box.height].join();
})"""
DROP = """([name, type]) => {
  const data = new DataTransfer();
  data.items.add(new File(["hello"], name, { type }));
  for (const kind of ["dragenter", "dragover", "drop"])
    document.querySelector("main").dispatchEvent(
      new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


def png(size=64):
    held = io.BytesIO()
    Image.new("RGB", (size, size), (200, 30, 40)).save(held, "PNG")
    return held.getvalue()


def send(page, name, kind, content):
    sent = {"name": name, "mimeType": kind, "buffer": content}
    page.locator("header input[type=file]").set_input_files(sent)


@pytest.fixture
def db(demo):
    return sl.open(demo)


@pytest.fixture
def saved(db):
    """The labels of the demo, which are saved in it, by row."""
    return saved_labels(db)


def shown(one):
    return as_shown(one["label"], one["confidence"], one["rival"])


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_where_nothing_stands_out_it_says_so(page_at, db, width, height):
    page = page_at("#/m/demo/search?q=watermark", width=width, height=height)
    hits = db.search("watermark", top=20)
    assert hits.above_noise == 0
    expect(page.get_by_role("heading", name="No component stands out from noise")).to_be_visible()
    expect(page.locator("[data-above-noise]")).to_have_attribute("data-above-noise", "0")
    expect(page.locator("main")).to_contain_text("Closest anyway")
    expect(page.locator("li.noise")).to_have_count(20)
    first = page.locator("li[data-row]").first
    track = first.locator(".track")
    assert track.get_attribute("data-noise") == f"{hits[0].noise:.3f}"
    full = track.bounding_box()["width"]
    for part, value in (("fill", hits[0].alignment), ("zone", hits[0].noise)):
        drawn = first.locator(f".{part}").bounding_box()["width"]
        assert drawn / full == pytest.approx(value / hits.scale, abs=0.02)
    fits(page)
    assert axe(page) == []


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_hits_have_labels_first_and_share_a_scale(page_at, db, saved, width, height):
    page = page_at("#/m/demo/search?q=letter", width=width, height=height)
    hits = db.search("letter", top=20)
    expect(page.locator("[data-above-noise]")).to_have_text(str(hits.above_noise))
    for hit, row in zip(hits.hits[:6], page.locator("li[data-row]").all()[:6], strict=True):
        expect(row.locator(".label")).to_have_text(shown(saved.iloc[hit.row]))
        expect(row.locator(".mono")).to_have_text(str(hit.component))
        expect(row).not_to_have_class(re.compile("noise"))
        share = hit.alignment / hits.scale
        drawn, full = (row.locator(p).bounding_box()["width"] for p in (".fill", ".track"))
        assert drawn / full == pytest.approx(share, abs=0.02)
    assert "ercentile" not in page.content()
    fits(page)


def test_words_are_searched_as_they_are_typed(page_at, db):
    page = page_at("#/m/demo/classes")
    before = page.evaluate("history.length")
    page.keyboard.press("/")
    page.keyboard.type("clock face, eye", delay=60)
    page.wait_for_url(re.compile(r"search\?q=clock\+face&q=eye$"))
    assert page.locator("#search").input_value() == "clock face, eye"
    settle(page)
    first = str(db.search("clock face", "eye", top=1)[0].component)
    expect(page.locator("li[data-row]").first).to_have_attribute("data-component", first)
    page.keyboard.type("s", delay=20)
    page.wait_for_url(re.compile("eyes$"))
    assert page.evaluate("history.length") == before + 1, "all typing is one entry"
    # Enter keeps it: the next word is an entry of its own
    page.keyboard.press("Enter")
    page.keyboard.type(", fruit", delay=20)
    page.wait_for_url(re.compile("fruit$"))
    assert page.evaluate("history.length") == before + 2
    page.go_back()
    expect(page.locator("#search")).to_have_value("clock face, eyes")


def test_results_stay_while_the_next_are_searched(page_at):
    page = page_at("#/m/demo/search?q=fruit")
    waiting = []
    page.route("**/search?*q=clock*", lambda route: waiting.append(route))
    page.locator("#search").fill("clock")
    page.wait_for_url(re.compile("q=clock$"))
    page.wait_for_timeout(300)
    expect(page.locator("li[data-row]")).to_have_count(20)
    waiting[0].continue_()
    expect(page.locator("li[data-row]").first.locator(".label")).to_contain_text("clock")


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_first_search_is_ranked_before_noise_is_measured(
    page_at, demo, tmp_path, monkeypatch, width, height
):
    measure = threading.Event()

    def held(*args):
        measure.wait(60)
        return measured_reach(*args)

    monkeypatch.setattr("semlens.web.routes.search.measured_reach", held)
    db = sl.open(copy_of(demo, tmp_path))
    ranked = rank(db, make_query(db, "letter"), top=20, compare=False).components
    full = db.search("letter", top=20)
    with serve(db.path) as address:
        page = page_at(address + "#/m/demo/components", width=width, height=height)
        page.goto(address + "#/m/demo/search?q=letter")  # not settled before noise is measured
        rows = page.locator("li[data-row]")
        expect(rows).to_have_count(20)
        expect(page.locator("main")).to_contain_text("Ranked by alignment.")
        expect(
            page.get_by_role("status").filter(has_text="Measuring what noise reaches")
        ).to_be_visible()
        names = [row.get_attribute("data-component") for row in rows.all()]
        assert names == [str(one) for one in ranked]
        assert page.locator("[data-noise]").count() == 0  # nothing is said to stand out
        fits(page)
        measure.set()
        expect(page.locator("[data-hits]")).to_have_attribute("data-hits", "20")
        expect(page.locator("[data-above-noise]")).to_have_text(str(full.above_noise))
        names = [row.get_attribute("data-component") for row in rows.all()]
        assert names == [str(one) for one in full.components]
        page.close()


@pytest.mark.parametrize(
    ("line", "opened"), [("layer2:42", "layer2:42"), ("3:17", "layer3:17"), ("100", "layer3:100")]
)
def test_an_id_leads_to_its_card(page_at, line, opened):
    page = page_at("#/m/demo/search?q=fruit", width=390, height=844)
    page.locator("#search").fill(line)
    expect(page.locator("header .below")).to_contain_text(opened)
    page.keyboard.press("Enter")
    card = page.get_by_role("complementary", name="Component")
    expect(card.locator("[data-component]")).to_have_attribute("data-component", opened)
    assert page.locator("#search").input_value() == "fruit", "the search stays"


def test_a_layer_filters_and_what_does_not_exist_says_what_does(page_at):
    page = page_at("#/m/demo/overview")
    box, told = page.locator("#search"), page.locator("header .below")
    for line, parts in {
        "layer9": ["no layer “layer9”", "layer2 (64 components), layer3 (128)"],
        "layer9:1": ["no layer “layer9”", "layer3 (128)"],
        "layer2:64": ["layer2 has 64 components: 0 to 63"],
        "42": ["2 layers", "layer2:42", "layer3:42"],
        "999": ["No layer has a component 999", "0 to 127"],
    }.items():
        box.fill(line)
        box.press("Enter")
        for part in parts:
            expect(told).to_contain_text(part)
        assert "overview" in page.url
    box.fill("layer2")
    box.press("Enter")
    page.wait_for_url(re.compile(r"components\?layer=layer2$"))
    expect(page.locator(".components")).to_have_attribute("data-total", "64")


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_card_moves_nothing(page_at, width, height):
    page = page_at("#/m/demo/search?q=letter", width=width, height=height)
    link = page.locator("li[data-row] a.chip").nth(1)
    name = page.locator("li[data-row]").nth(1).get_attribute("data-component")
    page.evaluate(ALL_PICTURES)
    before = page.evaluate(BOXES)
    link.click()
    card = page.get_by_role("complementary", name="Component")
    expect(card.locator("h2")).to_contain_text(name)
    settle(page)
    assert page.evaluate(BOXES) == before
    if width > 1000:  # the list leaves the room of the card
        results = page.get_by_role("list", name="Search results").bounding_box()
        assert results["x"] + results["width"] <= card.bounding_box()["x"]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_card_has_its_label_first_and_heatmaps_beside_crops(page_at, db, saved, width, height):
    page = page_at("#/m/demo/search?sel=layer2:30", width=width, height=height)
    card = page.get_by_role("complementary", name="Component")
    mine = saved.iloc[30]
    expect(card.locator("h2 .label")).to_have_text(shown(mine))
    sure = card.locator("[data-confidence]")
    expect(sure).to_contain_text(f"{round(100 * mine['confidence'])} %")
    expect(card.locator(".crop")).to_have_count(12)
    page.keyboard.press("m")
    pairs = card.locator(".crop:has(img[src*=heatmaps])")
    expect(pairs).to_have_count(12, timeout=60_000)
    crop, whole = (pairs.first.locator("img").nth(n).bounding_box() for n in (0, 1))
    assert crop["y"] == pytest.approx(whole["y"], abs=2)
    assert whole["x"] >= crop["x"] + crop["width"] - 1
    heat = pairs.first.locator("img").nth(1)
    assert heat.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 90
    pairs.first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("img").first).to_have_attribute("src", re.compile("heatmaps/0"))
    sample = db.examples_of(db.row(sl.Component("layer2", 30)))[0].sample
    link = dialog.get_by_role("link", name="Explain this image")
    assert re.search(rf"/explain\?.*sample={sample}\b", link.get_attribute("href"))
    assert axe(page) == []


def test_without_its_model_the_stored_masks_are_shown(page_at, demo, tmp_path, monkeypatch):
    import semlens.web.routes.pictures as pictures
    from semlens.errors import ModelError

    def lost(*_):
        raise ModelError("The model is gone.", "Expected a model.", "Pass one.")

    monkeypatch.setattr(pictures, "example_heatmaps", lost)
    with serve(copy_of(demo, tmp_path)) as address:
        page = page_at(address + "#/m/demo/search?sel=layer2:30")
        card = page.get_by_role("complementary", name="Component")
        expect(card.locator(".crop")).to_have_count(12)
        page.keyboard.press("m")
        expect(card.locator(".crop img[src*=heatmaps]")).to_have_count(12, timeout=30_000)
        expect(card).to_contain_text("The model is gone.")
        assert page.get_by_role("alert").count() == 0
        page.close()


@pytest.mark.parametrize(
    ("name", "kind", "content", "said"),
    [
        ("x.svg", "image/svg+xml", b"<svg></svg>", "Expected PNG, JPEG, WebP or GIF"),
        ("x.png", "image/png", b"no image", "is damaged, or no image"),
        ("big.png", "image/png", b"0" * 11_000_000, "has 11 MB"),
    ],
)
def test_what_is_no_image_is_told_in_place(page_at, name, kind, content, said):
    page = page_at("#/m/demo/classes")
    send(page, name, kind, content)
    expect(page.locator("header").get_by_role("alert")).to_contain_text(said)
    assert "classes" in page.url
    page.get_by_role("button", name="Dismiss").click()
    expect(page.locator("header").get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize("where", ["overview", "search", "map", "components", "audit"])
def test_a_file_dropped_anywhere_is_taken_or_told(page_at, where):
    page = page_at(f"#/m/demo/{where}")
    page.evaluate(DROP, ["paper.pdf", "application/pdf"])
    expect(page.locator("header").get_by_role("alert")).to_contain_text("“paper.pdf”")
    assert where in page.url


def test_a_lost_network_is_told_in_place(page_at):
    page = page_at("#/m/demo/search", allowed=("Failed to load resource",))
    page.route("**/search/image*", lambda route: route.abort())
    send(page, "x.png", "image/png", png())
    expect(page.locator("header").get_by_role("alert")).to_contain_text("cannot be reached")


def test_a_reload_keeps_the_picture_of_the_search(page_at):
    page = page_at("#/m/demo/search")
    send(page, "x.png", "image/png", png())
    page.wait_for_url(re.compile("query_id="))
    page.reload()
    settle(page)
    picture = page.get_by_role("img", name="What was searched for")
    assert picture.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 64


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("#/nonsense", ["no page “#/nonsense”", "Components"]),
        ("#/m/demo/nonsense", ["no page “#/m/demo/nonsense”"]),
        ("#/m/demo/search?q=" + "a" * 10_000, ["10,000 characters", "at most 200"]),
        ("#/m/demo/search?q=fruit&layer=layer9", ["no layer “layer9”", "layer3 (128)"]),
        ("#/m/demo/search?q=\N{GIRAFFE FACE}", ["knows nothing in “\N{GIRAFFE FACE}”", "image"]),
        ("#/m/demo/search?query_id=987654", ["no longer known", "Search again"]),
    ],
)
def test_an_address_that_leads_nowhere_says_so(page_at, where, said):
    # the browser itself logs that a server has refused
    page = page_at("#/m/demo/search", allowed=("status of 40",))
    page.goto(page.url.split("#")[0] + where)
    page.reload()
    for part in said:
        expect(page.locator("main")).to_contain_text(part)
    assert page.get_by_role("alert").count() == 0, "it is no failure"


def test_the_start_opens_the_first_model(page_at):
    page = page_at("#/")
    expect(page.locator("main")).to_have_attribute("data-model", "demo")
    assert page.url.endswith("#/m/demo/overview")


def test_ten_thousand_characters_in_the_box_are_told(page_at):
    page = page_at("#/m/demo/overview")
    page.locator("#search").fill("a" * 10_000)
    page.keyboard.press("Enter")
    expect(page.locator("header .below")).to_contain_text("10,000 characters")
    assert page.url.endswith("overview")


def test_without_class_relevance_the_card_has_the_command(page_at, demo, tmp_path):
    bare = copy_of(demo, tmp_path)
    with serve(bare) as address:
        page = page_at(address)
        # the same answers of a database without relevance
        page.route(
            "**/api/v1/models",
            lambda route: route.fulfill(
                json=[
                    {**one, "relevance": False, "relevance_command": "semlens build x --relevance"}
                    for one in route.fetch().json()
                ]
            ),
        )
        page.goto(address + "#/m/demo/components?sel=layer2:30")
        page.reload()
        settle(page)
        hint = page.get_by_role("complementary", name="Component").get_by_role("note")
        expect(hint).to_contain_text("no class relevance yet")
        expect(hint.locator("code")).to_have_text("semlens build x --relevance")
        expect(hint.get_by_role("button", name="Copy the command")).to_be_visible()
        assert page.get_by_role("alert").count() == 0
        page.close()
