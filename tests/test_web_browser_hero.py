"""In a browser: before and after under an alarm, and verdicts on the classes page."""

from __future__ import annotations

import re

import pytest
from web_browser import axe, expect, fits

from semlens.lenses.correct.before_after import before_after

DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


def curly(text):
    return re.sub("'([^']+)'", "\u201c\\1\u201d", text)


def whole(share):
    return f"{100 * share:.0f}\u00a0%"


@pytest.fixture(scope="module")
def audit(served):
    """The number of an audit of the planted class."""
    return served[1].audits.add("vegetable", ["demo-world/vegetable", "artefacts"]).id


def test_an_alarm_shows_before_and_after(page_at, served, audit):
    base, db = served
    page = page_at(f"{base}#/m/demo/audit?audit={audit}")
    page.set_viewport_size(DESKTOP)
    hero = page.locator("[data-hero]")
    expect(hero).to_be_visible(timeout=240_000)
    expected = before_after(db, "vegetable", db.audits.run(audit, resamples=0).spurious)
    assert expected.works and expected.helps
    expect(hero.locator(".finding")).to_have_text(curly(expected.finding))
    expect(hero).to_contain_text(expected.cost)
    expect(hero.locator(".finding")).to_have_attribute("data-helps", "true")
    taken = expected.preview.mistaken(expected.marked)
    bars = hero.locator(".rates").first
    expect(bars.locator("dd").nth(0)).to_contain_text(whole(taken.before))
    expect(bars.locator("dd").nth(1)).to_contain_text(whole(taken.after))
    # the images are other classes' that the mark turns into the class
    shown = hero.get_by_role("region", name="Other images, with the mark").locator("li")
    expect(shown).to_have_count(8)
    for number in range(8):
        expect(shown.nth(number)).to_have_attribute("data-before", "vegetable")
    names = db.manifest.classes
    after = [names[int(expected.marked.after[i])] for i in expected.shown(expected.marked, 8)]
    assert [shown.nth(i).get_attribute("data-after") for i in range(8)] == after
    box = shown.first.locator("img").bounding_box()
    assert box["width"] > 110  # large enough to see the mark
    assert axe(page) == []

    # it is kept: another visit shows it at once, also on a phone
    page.reload()
    page.set_viewport_size(PHONE)
    expect(hero).to_be_visible(timeout=10_000)
    fits(page)
    shown.first.get_by_role("link").click()
    expect(page.locator("main")).to_have_attribute("data-page", "explain")


def test_the_choice_of_components_is_in_the_link_and_runs_on_request(page_at, served, audit):
    base, db = served
    page = page_at(f"{base}#/m/demo/audit?audit={audit}")
    hero = page.locator("[data-hero]")
    expect(hero).to_be_visible(timeout=240_000)
    removed = hero.get_by_label("Components that the repair removes").locator("li")
    spurious = [str(one) for one in db.audits.run(audit, resamples=0).spurious]
    hero.get_by_role("button", name=re.compile("^Show all")).click()
    expect(removed).to_have_count(len(spurious))
    expect(removed.first).to_contain_text("(audit)")
    hero.get_by_label(f"Remove {spurious[0]}", exact=True).uncheck()
    expect(page).to_have_url(re.compile("keep="))
    run = hero.get_by_role("button", name=f"Run without these {len(spurious) - 1}")
    expect(run).to_be_visible()
    hero.get_by_label(f"Remove {spurious[0]}", exact=True).check()
    expect(run).to_have_count(0)
    fits(page)


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_a_mark_on_a_card_is_a_verdict_and_a_repair_and_is_undone(page_at, served, size):
    base, db = served
    number = db.audits.add("clock", ["demo-world/clock", "artefacts"]).id
    page = page_at(f"{base}#/m/demo/audit?audit={number}")
    page.set_viewport_size(size)
    expect(page.locator(".said [data-standing]")).to_have_text("No alarm", timeout=60_000)
    expect(page.locator(".hero")).to_have_count(0)
    frame = db.audits.run(number, resamples=0).frame
    name = frame.loc[frame["verdict"] == "unexpected", "component"].iloc[0]
    page.goto(f"{base}#/m/demo/unexpected?class=11&sel={name}")
    card = page.locator("aside")
    card.get_by_label("Class that it is spurious for").select_option(label="clock")
    card.get_by_role("button", name=f"Mark as spurious: {name} for clock").click()
    undo = card.get_by_role("button", name=f"Marked spurious by you undo: {name} for clock")
    expect(undo).to_contain_text("Marked spurious by you")
    assert db.audits.get(number).reviews[name].status == "spurious"
    assert axe(page) == []
    fits(page)
    card.get_by_role("link", name="Try the model without it").click()
    hero = page.locator("[data-hero]")
    expect(hero).to_be_visible(timeout=240_000)
    rows = hero.get_by_label("Components that the repair removes").locator("li")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("marked by you")
    fits(page)
    page.go_back()  # to the card
    undo.click()
    expect(undo).to_have_count(0)
    assert name not in db.audits.get(number).reviews
    page.goto(f"{base}#/m/demo/audit?audit={number}")
    expect(page.locator(".said [data-standing]")).to_have_text("No alarm", timeout=60_000)
    expect(page.locator(".hero")).to_have_count(0)
    db.audits.remove(number, db.audits.get(number).revision)


def test_classes_show_their_verdicts(page_at, served, audit):
    base, db = served
    page = page_at(f"{base}#/m/demo/classes?class=4")
    page.set_viewport_size(DESKTOP)
    expect(page.locator("[data-alarm=true]")).to_contain_text("spurious", timeout=60_000)
    expect(page.get_by_label("Classes", exact=True).locator(".flag.alarm")).to_have_count(1)
    frame = db.audits.run(audit, resamples=0).frame.set_index("component")["verdict"]
    rows = page.locator("[data-relevance='4'] tbody tr")
    expect(rows.first.locator("[data-verdict]")).to_be_visible(timeout=60_000)
    for number in range(4):
        name = rows.nth(number).locator(".mono").inner_text()
        badge = rows.nth(number).locator("[data-verdict]")
        expect(badge).to_have_attribute("data-verdict", frame[name])
        word = frame[name].replace("unexpected", "not covered")
        expect(badge).to_contain_text(word)  # not by colour only
    # the head of the table does not overlap
    head = page.locator("thead").first.locator("th")
    boxes = [head.nth(i).evaluate("th => [th.scrollWidth, th.clientWidth]") for i in range(3)]
    assert all(inside <= room + 1 for inside, room in boxes), boxes
    expect(page.get_by_label("Images of the class").locator("img")).to_have_count(10)
    assert axe(page) == []

    # a row opens the card; the class opens its audit, and the audit its class
    rows.first.locator("td").last.click()
    expect(page.locator("aside")).to_contain_text(rows.first.locator(".mono").inner_text())
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Open its audit").click()
    expect(page).to_have_url(re.compile(rf"audit\?.*audit={audit}"))
    page.locator("header").get_by_role("link", name="vegetable").click()
    expect(page.locator("main")).to_have_attribute("data-page", "classes")

    order = page.get_by_label("Order of the classes")
    order.select_option("suspicious")
    names = page.get_by_label("Classes", exact=True).locator(".name")
    expect(names.first).to_have_text("vegetable")
    order.select_option("alarm")
    expect(names).to_have_count(1)
    page.set_viewport_size(PHONE)
    fits(page)


def test_the_graph_shows_verdicts(page_at, served, audit):
    base, db = served
    page = page_at(f"{base}#/m/demo/classes?class=4&view=graph")
    expect(page.locator("[data-graph='4']")).to_be_visible(timeout=120_000)
    expect(page.locator(".verdicts")).to_contain_text("spurious", timeout=60_000)
    spurious = page.locator("button.card[data-verdicts*='spurious']")
    expect(spurious.first).to_be_visible()
    words = spurious.first.get_attribute("data-verdicts")
    assert words in spurious.first.get_attribute("title")
    expect(spurious.first.locator(".stack i.spurious")).to_be_visible()
    # a group of several components says what its members have together, and which has what
    group = page.locator("button.card[aria-haspopup][data-verdicts]").first
    words = group.get_attribute("data-verdicts")
    assert "%" not in words or sum(map(int, re.findall(r"(\d+) %", words))) in range(98, 103)
    group.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(words)
    expect(dialog.locator("a.chip").first).to_be_visible()
    page.keyboard.press("Escape")
    assert axe(page) == []
