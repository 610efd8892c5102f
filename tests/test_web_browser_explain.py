"""The Explain page as people use it: an image, its components, the prediction without some."""

from __future__ import annotations

import base64
import re

import pytest
from conftest import encoded
from PIL import Image
from web_browser import axe, copy_of, expect, fits, serve, settle

import semlens as sl
from semlens.lenses.explain import explain_without

EXAMPLE = "ul[aria-label='Images of the database'] a"
CLASSES = "ul[aria-label='Classes with the largest probability'] a"
SIZES = pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])


@pytest.fixture(scope="module")
def database(demo):
    return sl.open(demo)


def percent(share):
    """Write a share as the page does."""
    value = 100 * share
    if 0 < value < 0.1:
        return "< 0.1 %"
    return f"{value:.{1 if value < 10 or value > 99 else 0}f} %"


@SIZES
def test_an_image_of_the_database_is_explained(page_at, database, width, height):
    page = page_at("#/m/demo/explain", width=width, height=height)
    fits(page)
    page.locator(EXAMPLE, has_text="vegetable").click()
    page.locator(".explained").wait_for(timeout=120_000)
    settle(page)
    sample = int(re.search(r"sample=(\d+)", page.url)[1])
    image = database.images.read(sample)
    found = database.explain(image, concepts=None)
    heading = page.get_by_role("region", name="Prediction").get_by_role("heading")
    expect(heading).to_contain_text(found.predicted.name)
    rows = page.locator(CLASSES)
    for row, score in zip(rows.all_inner_texts(), found.scores, strict=True):
        assert row.split("\n")[0] == score.name
        assert percent(score.probability) in row
    strongest = str(found.layers["layer3"][0].component)
    first = page.locator("[data-component]").first
    expect(first).to_have_attribute("data-component", strongest)
    fits(page)
    assert axe(page) == []

    # without the strongest component
    box = page.get_by_role("checkbox", name=f"Leave out {strongest}")
    box.check()
    page.locator("[data-without='1']").wait_for(timeout=60_000)
    without = explain_without(database, image, strongest, found.target.target)
    for row, change in zip(rows.all_inner_texts(), without.changes, strict=True):
        assert row.split("\n")[0] == change.name
        assert percent(change.before) in row and percent(change.after) in row
    assert f"removed={strongest.replace(':', '%3A')}" in page.url
    # nothing jumps under the pointer: the list is ranked again on demand
    expect(first).to_have_attribute("data-component", strongest)
    page.get_by_role("button", name=f"Rank again without {strongest}").click()
    heading = page.get_by_role("heading", name=f"without {strongest}?")
    heading.wait_for(timeout=60_000)
    ranked = database.explain(image, found.target.target, concepts=None, without=strongest)
    parts = ranked.layers["layer3"]
    group = page.locator(".group").first.locator("[data-component]")
    names = group.evaluate_all("nodes => nodes.map((node) => node.dataset.component)")
    assert names == [*(str(part.component) for part in parts), strongest]
    expect(group.first.locator(".number")).to_have_text(f"+{percent(parts[0].share)}")
    assert "was " in group.last.inner_text()
    assert axe(page) == []
    page.reload()
    heading.wait_for(timeout=60_000)
    expect(box).to_be_checked()
    fits(page)
    page.get_by_role("button", name="Put back").click()
    expect(box).not_to_be_checked()
    expect(first).to_have_attribute("data-component", strongest)
    assert "removed" not in page.url


def test_without_the_spurious_components(page_at, database):
    sample = int(database.samples.query("target == 'vegetable'").index[0])
    page = page_at(f"#/m/demo/explain?sample={sample}", width=1440, height=900)
    button = page.get_by_role("button", name=re.compile("^Leave out the .* spurious"))
    button.wait_for(timeout=120_000)
    spurious = page.locator("[data-component]:has([data-verdict=spurious]) input")
    assert spurious.count() > 0
    button.click()
    page.locator("[data-without]").wait_for(timeout=60_000)
    assert all(box.is_checked() for box in spurious.all())
    removed = page.evaluate(
        "() => new URLSearchParams(location.hash.split('?')[1]).getAll('removed')"
    )
    after = explain_without(database, database.images.read(sample), removed).predicted_after
    expect(page.get_by_role("region", name="Prediction")).to_contain_text(after.name)
    button.click()
    expect(page.locator("[data-without]")).to_have_count(0)


def test_components_stay_removed_from_image_to_image(page_at, database):
    page = page_at("#/m/demo/explain?removed=layer3%3A1&removed=layer3%3A2", width=390)
    expect(page.locator("main")).to_contain_text("without these 2 components")
    page.locator(EXAMPLE).nth(1).click()
    page.locator("[data-without='2']").wait_for(timeout=60_000)
    first = page.url
    page.locator(EXAMPLE).nth(2).click()
    page.wait_for_url(lambda url: url != first)
    page.locator("[data-without='2']").wait_for(timeout=60_000)
    sample = int(re.search(r"sample=(\d+)", page.url)[1])
    image = database.images.read(sample)
    after = explain_without(database, image, ["layer3:1", "layer3:2"]).predicted_after
    expect(page.get_by_role("region", name="Prediction")).to_contain_text(after.name)


def test_pointing_at_a_component_shows_where_it_counts(page_at):
    page = page_at("#/m/demo/explain?sample=4", width=1440, height=900)
    picture = page.locator("[data-heatmap]")
    expect(picture).to_have_attribute("data-heatmap", "class")
    pixels = "node => node.toDataURL()"
    canvas = picture.locator("canvas")
    of_class = canvas.evaluate(pixels)
    component = page.locator("[data-component]").nth(2)
    name = component.get_attribute("data-component")
    component.hover()
    expect(picture).to_have_attribute("data-heatmap", name)
    assert canvas.evaluate(pixels) != of_class
    page.locator("h1").hover()
    expect(picture).to_have_attribute("data-heatmap", "class")
    assert canvas.evaluate(pixels) == of_class
    page.get_by_role("button", name="Image", exact=True).click()
    expect(picture).to_have_count(0)
    for _ in range(2):
        page.keyboard.press("j")
    second = page.locator("[data-component]").nth(1).get_attribute("data-component")
    expect(picture).to_have_attribute("data-heatmap", second)
    page.keyboard.press("w")
    expect(page.get_by_role("checkbox", name=f"Leave out {second}")).to_be_checked()
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary", name="Component")).to_contain_text(second)


def test_another_class_is_explained(page_at):
    page = page_at("#/m/demo/explain?sample=4", width=1440, height=900)
    row = page.locator(CLASSES).nth(1)
    name = row.inner_text().split("\n")[0]
    row.click()
    expect(page.get_by_role("heading", name=f"Why “{name}”?")).to_be_visible(timeout=60_000)
    assert re.search(r"target=\d+", page.url)
    page.get_by_role("button", name="Together").click()
    assert "by=share" in page.url
    shares = page.locator("[data-component] .number").all_inner_texts()
    sizes = [float(re.search(r"[\d.]+", share)[0]) for share in shares]
    assert sizes == sorted(sizes, reverse=True)


def drop(page, content, name="image.png", kind="drop"):
    """Drop or paste a file, as a browser does."""
    page.evaluate(
        """([content, name, kind]) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name, { type: "image/png" }));
            const [Kind, key] =
                kind === "drop" ? [DragEvent, "dataTransfer"] : [ClipboardEvent, "clipboardData"];
            const options = { bubbles: true, cancelable: true, [key]: data };
            document.querySelector("main").dispatchEvent(new Kind(kind, options));
        }""",
        [base64.b64encode(content).decode(), name, kind],
    )


@SIZES
@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_an_image_from_elsewhere_is_explained(page_at, database, width, height, kind):
    page = page_at("#/m/demo/explain", width=width, height=height)
    picture = database.images.read(7).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    drop(page, encoded(picture, "png"), kind=kind)
    page.wait_for_url(re.compile("explain.*image="))
    heading = page.get_by_role("region", name="Prediction").get_by_role("heading")
    predicted = database.explain(picture, concepts=None, top=1).predicted.name
    expect(heading).to_contain_text(predicted, timeout=60_000)
    page.reload()
    expect(heading).to_contain_text(predicted, timeout=60_000)
    shown = page.locator("figure img")
    assert shown.evaluate("image => image.complete && image.naturalWidth") == picture.width
    fits(page)


def test_what_cannot_be_explained_is_told(page_at):
    page = page_at("#/m/demo/explain", allowed=("status of 4",))
    drop(page, b"no image")
    expect(page.get_by_role("alert")).to_contain_text("PNG")
    main = page.locator("main")
    for query, part in (
        ("sample=999999", "samples 0 to"),
        ("image=u0123", "Choose the image again"),
        ("sample=4&target=99", "index from 0 to"),
    ):
        page.goto(page.url.split("#")[0] + f"#/m/demo/explain?{query}")
        expect(main).to_contain_text(part, timeout=60_000)
    page.get_by_role("link", name="Explain the prediction").click()
    page.locator(".explained").wait_for(timeout=60_000)
    assert "target" not in page.url


def test_a_moved_model_and_moved_images_name_the_command(page_at, demo, tmp_path):
    path = copy_of(demo, tmp_path)
    moved = sl.open(path, model=str(tmp_path / "gone.py:make"), images=str(tmp_path / "gone"))
    with serve(moved) as base:
        page = page_at(f"{base}#/m/demo/explain", allowed=("status of 4",))
        main = page.locator("main")
        expect(main).to_contain_text("not on this machine")
        drop(page, encoded(Image.new("RGB", (64, 64), "red"), "png"))
        expect(main.locator("code").first).to_contain_text(f"semlens serve {path} --model")
        expect(page.get_by_role("alert")).to_have_count(0)
        assert axe(page) == []


def test_links_to_the_page_keep_the_model(page_at):
    page = page_at("#/m/demo/overview")
    page.keyboard.press("g")
    page.keyboard.press("e")
    expect(page.locator("main")).to_have_attribute("data-page", "explain")
    expect(
        page.get_by_role("navigation", name="Pages").get_by_role("link", name="Explain")
    ).to_have_attribute("aria-current", "page")
