"""What a page keeps, and what it does not: filters, the card, Escape, and the way back."""

from __future__ import annotations

import re

import pytest
from web_browser import expect, fits

import semlens as sl

WIDE, PHONE = (1440, 900), (390, 844)


def card_of(page):
    return page.get_by_role("complementary", name="Component")


def test_a_page_keeps_its_query_layers_and_card_to_itself(page_at):
    page = page_at("#/m/demo/search?q=fruit&layer=layer3&sel=layer3:97", width=1440, height=900)
    expect(card_of(page)).to_be_visible()
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Components").click()
    expect(page.locator("main")).to_have_attribute("data-page", "components")
    expect(card_of(page)).to_have_count(0)
    expect(page.locator("#search")).to_have_value("")
    expect(page.locator(".components")).to_have_attribute("data-total", "192")
    assert page.url.endswith("#/m/demo/components")
    page.go_back()
    expect(card_of(page)).to_be_visible()
    expect(page.locator("#search")).to_have_value("fruit")
    assert "layer=layer3" in page.url
    page.go_forward()
    expect(card_of(page)).to_have_count(0)


def test_the_map_takes_the_query_and_the_layers_of_a_search(page_at):
    page = page_at("#/m/demo/search?q=fruit&layer=layer3&sel=layer3:97")
    card_of(page).get_by_role("button", name="Close the card").click()
    page.get_by_role("link", name="Show on map").click()
    page.wait_for_url(re.compile(r"/map\?q=fruit&layer=layer3$"))


def test_the_map_opens_the_card_it_was_asked_for(page_at):
    page = page_at("#/m/demo/components?sel=layer3:97&text=fruit")
    card_of(page).get_by_role("link", name="Show on map").click()
    page.wait_for_url(re.compile(r"/map\?sel=layer3%3A97$"))
    expect(card_of(page)).to_be_visible()


@pytest.mark.parametrize(("width", "height"), [WIDE, PHONE])
def test_escape_closes_the_suggestion_and_then_the_card(page_at, width, height):
    page = page_at("#/m/demo/search?q=fruit&sel=layer3:97", width=width, height=height)
    box = page.locator("#search")
    box.fill("layer2:42")
    expect(page.locator("header .below")).to_contain_text("layer2:42")
    box.press("Escape")
    expect(page.locator("header .below")).to_have_count(0)
    expect(box).to_have_value("fruit")
    expect(card_of(page)).to_be_visible()
    expect(box).to_be_focused()
    box.press("Escape")
    expect(card_of(page)).to_have_count(0)
    expect(box).to_have_value("fruit")
    assert "q=fruit" in page.url


@pytest.mark.parametrize(("width", "height"), [WIDE, PHONE])
def test_the_card_keeps_its_name_and_its_button_in_sight(page_at, width, height):
    page = page_at("#/m/demo/overview?sel=layer3:97", width=width, height=height)
    card = card_of(page)
    expect(card.locator("h2").first).to_contain_text("layer3:97")
    card.get_by_role("heading", name="Interpretability").scroll_into_view_if_needed()
    card.evaluate("node => node.scrollBy(0, 200)")
    assert card.evaluate("node => node.scrollTop") > 100
    top = card.bounding_box()["y"]
    for part in (card.locator("h2").first, card.get_by_role("button", name="Close the card")):
        box = part.bounding_box()
        assert top <= box["y"] < top + 60
    card.get_by_role("button", name="Close the card").click()
    expect(card).to_have_count(0)


def test_a_bar_of_a_histogram_is_wide_and_its_filter_can_be_removed(page_at, demo):
    page = page_at("#/m/demo/overview", width=1440, height=900)
    histogram = page.get_by_role("slider", name=re.compile("clarity in layer3"))
    bars = histogram.locator("rect.bar")
    counts = [int(n) for n in bars.evaluate_all("all => all.map((bar) => bar.dataset.count)")]
    assert sum(counts) == 128
    widths = bars.evaluate_all("all => all.map((bar) => bar.getBoundingClientRect().width)")
    assert min(widths[:-1]) >= 11, "with the gap of a pixel, 12"
    tallest = counts.index(max(counts))
    bars.nth(tallest).click()
    expect(page.locator("main")).to_have_attribute("data-page", "components")
    expect(page.locator(".components")).to_have_attribute("data-total", str(max(counts)))
    low, high = (float(re.search(rf"{key}=([\d.]+)", page.url)[1]) for key in ("low", "high"))
    db = sl.open(demo)
    clarity = db.scores().frame["clarity"].to_numpy(float)[db.rows("layer3")]
    assert ((clarity >= low) & (clarity < high)).sum() == max(counts)
    filters = page.get_by_role("group", name="Filters")
    expect(filters).to_contain_text("clarity")
    filters.get_by_role("button", name="Show all values of clarity").click()
    expect(page.locator(".components")).to_have_attribute("data-total", "128")
    filters.get_by_role("button", name="Remove the filter layer3").click()
    expect(page.locator(".components")).to_have_attribute("data-total", "192")
    expect(filters).to_have_count(0)


def test_filters_fit_a_phone_and_are_all_removed_at_once(page_at):
    where = "#/m/demo/components?measure=clarity&low=0.2&high=0.4&layer=layer3&text=an"
    page = page_at(where, width=390, height=844)
    filters = page.get_by_role("group", name="Filters")
    expect(filters.get_by_role("button")).to_have_count(4)
    fits(page)
    filters.get_by_role("button", name="Show all", exact=True).click()
    expect(page.locator(".components")).to_have_attribute("data-total", "192")


@pytest.mark.parametrize("where", ["search", "overview"])
def test_suggested_searches_stand_out(page_at, demo, where):
    page = page_at(f"#/m/demo/{where}")
    links = page.get_by_role("region", name="Try a search").get_by_role("link")
    expect(links).to_have_count(8)
    db = sl.open(demo)
    for word in links.all_inner_texts():
        assert db.search(word, top=1).above_noise, word
    links.first.click()
    expect(page.locator("[data-above-noise]")).not_to_have_attribute("data-above-noise", "0")


def test_hits_that_stand_out_come_first(page_at):
    page = page_at("#/m/demo/search?q=bird")
    rows = page.locator("li[data-row]")
    expect(rows).to_have_count(20)
    muted = rows.evaluate_all("all => all.map((row) => row.classList.contains('noise'))")
    assert muted == sorted(muted) and not muted[0] and muted[-1]


def test_arrows_lead_from_the_search_box_through_the_hits(page_at):
    page = page_at("#/m/demo/search?q=fruit")
    names = page.locator("li[data-row]").evaluate_all("all => all.map((e) => e.dataset.component)")
    links = page.locator("li[data-row] a.chip")
    page.keyboard.press("/")
    page.keyboard.press("ArrowDown")
    expect(links.nth(0)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(links.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(card_of(page).locator("h2").first).to_contain_text(names[1])
    page.keyboard.press("Escape")
    expect(card_of(page)).to_have_count(0)
    expect(links.nth(1)).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#search")).to_be_focused()


def test_nonsense_has_no_hit(page_at):
    page = page_at("#/m/demo/search?q=vodizu")
    expect(page.get_by_role("heading", name="No component stands out from noise")).to_be_visible()
    expect(page.locator("[data-above-noise]")).to_have_attribute("data-above-noise", "0")


def test_the_most_polysemantic_have_two_senses(page_at):
    page = page_at("#/m/demo/overview", width=1440, height=900)
    listed = page.get_by_role("region", name="Most polysemantic").locator("li")
    expect(listed).to_have_count(5, timeout=20_000)
    listed.first.get_by_role("link").first.click()
    expect(card_of(page)).to_contain_text("Two senses")
