"""The audit in a browser: begun, edited, reloaded; thresholds, reviews, files, two tabs."""

from __future__ import annotations

import json
import re
import urllib.request

import pytest
from web_browser import axe, expect, settle, still

from semlens.lenses.concepts import ConceptSet
from semlens.wording import CURLY

AUDIT = "#/m/demo/audit"


def saved(page):
    expect(page.locator("[data-status]")).to_have_attribute("data-status", "saved")


def begin(page_at, served, **options):
    """Begin the audit of the docs: vegetables, with what they show and with artefacts."""
    page = page_at(f"{served[0]}{AUDIT}?class=4", **options)
    page.get_by_role("button", name="Start audit").click()
    expect(page.locator(".said [data-standing]")).to_be_visible(timeout=60_000)
    return page, int(re.search(r"audit=(\d+)", page.url)[1])


def lists(record):
    return [one.text for one in record.valid], [one.text for one in record.spurious]


def count(page, side):
    return page.locator(f"#list-{side} .number")


def test_the_planted_fault_raises_the_alarm(page_at, served):
    page, number = begin(page_at, served)
    found = served[1].audits.run(number)
    assert found.alarm
    expect(page.locator(".said [data-standing]")).to_have_text("Alarm")
    expect(page.locator(".said")).to_contain_text(found.standing.sentence(CURLY))
    expect(page.locator("h2#components + span")).to_contain_text(f"{len(found.frame)} relevant")
    expect(page.locator(".plot path.dot")).to_have_count(len(found.frame))
    counts = found.frame["verdict"].value_counts()
    page.locator("td button", has_text="spurious").click()
    expect(page.locator("tbody tr[data-name]")).to_have_count(int(counts["spurious"]))
    page.get_by_role("button", name="Show all", exact=True).click()
    page.get_by_role("button", name="Relevance").click()  # now the least relevant first
    last = found.frame.sort_values("mean")["component"].iloc[0]
    expect(page.locator("tbody tr[data-name]").first).to_have_attribute("data-name", last)


def test_edits_survive_a_reload(page_at, served):
    page, number = begin(page_at, served, height=1100)
    _, db = served
    before = lists(db.audits.get(number))
    field = page.get_by_label("Add a valid concept")
    field.fill("tomato")
    field.press("Enter")
    page.get_by_role("button", name="Remove snow").click()
    chip = page.get_by_role("button", name=re.compile("^carrot"))
    chip.focus()
    page.keyboard.press("m")  # to the other list
    saved(page)
    valid, spurious = lists(db.audits.get(number))
    assert valid == [*(one for one in before[0] if one != "carrot"), "tomato"]
    assert spurious == [*(one for one in before[1] if one != "snow"), "carrot"]
    # before and after stands above the lists: both must be in the window
    page.locator("#list-valid").evaluate("list => list.scrollIntoView()")
    page.locator("li.chip", has_text="carrot").drag_to(page.locator("#list-valid"))
    expect(count(page, "valid")).to_have_text(str(len(before[0]) + 1))
    saved(page)
    assert "carrot" in lists(db.audits.get(number))[0]

    first = db.audits.run(number).frame["component"].iloc[0]
    row = page.locator(f"tr[data-name='{first}']")
    row.get_by_placeholder("Note").fill("a line of print")
    row.get_by_label("Review of").select_option("confirmed")
    saved(page)
    page.reload()
    settle(page)
    expect(count(page, "valid")).to_have_text(str(len(before[0]) + 1))
    expect(count(page, "spurious")).to_have_text(str(len(before[1]) - 1))
    expect(row.get_by_placeholder("Note")).to_have_value("a line of print")
    expect(row.get_by_label("Review of")).to_have_value("confirmed")
    assert db.audits.get(number).reviews[first].status == "confirmed"


def test_pasted_lines_and_undo(page_at, served):
    page, number = begin(page_at, served)
    _, db = served
    before = lists(db.audits.get(number))
    field = page.get_by_label("Add a spurious concept")
    field.evaluate(
        """(field) => {
          const data = new DataTransfer();
          data.setData("text/plain", "- barcode\\nprice tag\\n\\nletters\\n");
          field.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true,
            cancelable: true}));
        }"""
    )
    saved(page)
    assert lists(db.audits.get(number))[1] == [*before[1], "barcode", "price tag"]
    page.locator("h2#plot").click()
    page.keyboard.press("u")
    saved(page)
    assert lists(db.audits.get(number)) == before


def test_ids_of_components_stand_in_one_line(page_at, served):
    page, _ = begin(page_at, served, width=1440)
    name = page.locator("tbody tr[data-name] th .mono").first
    name.evaluate("node => (node.textContent = 'blocks.6:319')")
    assert name.bounding_box()["height"] < 20  # two lines are 28 pixels


def test_thresholds_are_moved_by_mouse_and_keyboard(page_at, served):
    page, number = begin(page_at, served)
    _, db = served
    page.get_by_label("Threshold for spurious concepts:").select_option("fixed")
    saved(page)
    start = db.audits.get(number).settings.threshold
    assert start[0] is None
    settle(page)
    line = page.get_by_role("slider", name="Threshold for spurious concepts")
    box = still(line)
    across, middle = box["x"] + box["width"] / 3, box["y"] + box["height"] / 2
    page.mouse.move(across, middle)
    line_at = line.get_attribute("aria-valuenow")
    page.mouse.down()
    page.mouse.move(across, middle - 40, steps=4)
    shown = page.locator("td button", has_text="spurious").locator("xpath=../../td[last()]")
    expect(line).not_to_have_attribute("aria-valuenow", line_at)
    value = float(line.get_attribute("aria-valuenow"))
    assert value > start[1]
    frame = db.audits.run(number).frame
    wanted = ((frame["spurious"] > value) & (frame["verdict"] != "valid")).sum()
    expect(shown).to_have_text(str(wanted))  # at once, before the server is asked
    page.mouse.up()
    saved(page)
    assert db.audits.get(number).settings.threshold == (None, pytest.approx(value))
    line.focus()
    page.keyboard.press("ArrowDown")
    saved(page)
    moved = db.audits.get(number).settings.threshold[1]
    assert moved == pytest.approx(value - 0.005, abs=1e-9)
    found = db.audits.run(number)
    settle(page)
    expect(page.locator(".said")).to_contain_text(found.standing.sentence(CURLY))


def test_a_suspect_that_nobody_listed_is_added_to_a_list(page_at, served):
    page, number = begin(page_at, served)
    _, db = served
    page.get_by_role("button", name="Rank all words").click()
    row = page.locator("tr[data-suspect='letter']")
    expect(row).to_contain_text("layer", timeout=60_000)
    row.get_by_role("button", name="+ spurious").click()
    expect(row).to_contain_text("listed")
    saved(page)
    assert lists(db.audits.get(number))[1][-1] == "letter"


def test_a_component_is_opened_from_the_plot_and_reviewed_by_a_key(page_at, served):
    page, number = begin(page_at, served)
    _, db = served
    mark = page.locator(".plot path.dot.spurious").last
    settle(page)
    box = still(mark)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    name = page.locator("[role=tooltip] .mono").inner_text()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("aside [data-component]")).to_have_attribute("data-component", name)
    page.keyboard.press("r")
    saved(page)
    assert list(db.audits.get(number).reviews) == [name]
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("r")
    saved(page)
    first = db.audits.run(number).frame["component"].iloc[0]
    assert set(db.audits.get(number).reviews) == {name, first}


def test_files_are_taken_away(page_at, served, tmp_path):
    page, number = begin(page_at, served)
    _, db = served
    with page.expect_download() as found:
        page.get_by_role("button", name="TOML").click()
    found.value.save_as(tmp_path / "back.toml")
    back = ConceptSet.load(tmp_path / "back.toml")
    assert back.concepts == db.audits.get(number).concepts.concepts
    with page.expect_download() as found:
        page.get_by_role("button", name="CSV").click()
    lines = found.value.path().read_text("utf-8").splitlines()
    assert len(lines) == 1 + len(db.audits.run(number).frame)
    with page.expect_download(timeout=300_000) as found:
        page.get_by_role("button", name="Report").click()
    assert "Review by people" in found.value.path().read_text("utf-8")


def test_an_older_tab_is_told_and_can_load_the_newer(page_at, served):
    page, number = begin(page_at, served, allowed=(r"status of 409",))
    base, db = served
    request = urllib.request.Request(
        f"{base}api/v1/models/0/audits/{number}",
        json.dumps({"revision": 1, "name": "of another tab"}).encode(),
        {"Content-Type": "application/json"},
        method="PUT",
    )
    urllib.request.urlopen(request).close()
    page.get_by_role("button", name="Remove snow").click()
    expect(page.locator("[data-status]")).to_have_attribute("data-status", "failed")
    expect(page.get_by_role("alert")).to_contain_text("edited elsewhere")
    page.get_by_role("button", name="Load the newer version").click()
    saved(page)
    expect(page.get_by_label("Name of the audit")).to_have_value("of another tab")
    expect(page.get_by_role("button", name="Remove snow")).to_be_visible()
    assert db.audits.get(number).name == "of another tab"


def test_empty_lists_say_what_to_do(page_at, served):
    page = page_at(f"{served[0]}{AUDIT}?class=0")
    page.get_by_role("button", name="Start with empty lists").click()
    expect(page.locator("main")).to_contain_text("Both concept lists are empty")
    field = page.get_by_label("Add a spurious concept")
    field.fill("letters")
    field.press("Enter")
    expect(page.locator(".said [data-standing]")).to_be_visible(timeout=60_000)


@pytest.mark.parametrize(("width", "theme"), [(1440, "light"), (360, "dark")])
def test_everybody_can_use_it(page_at, served, width, theme):
    page, _ = begin(page_at, served, width=width, theme=theme)
    assert axe(page) == []
    assert page.locator("main").evaluate("(main) => main.scrollWidth <= main.clientWidth")
    page.goto(f"{served[0]}{AUDIT}")
    settle(page)
    assert axe(page) == []
