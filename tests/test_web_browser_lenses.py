"""The page of any lens: a lens of another package with a figure of each form, in a real browser."""

from __future__ import annotations

import sys

import pytest
from playwright.sync_api import expect
from web_browser import axe, fits, settle

from semlens.lens import registered

SOURCE = '''
from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pandas as pd
from PIL import Image

from semlens import figures as f
from semlens.lens import lens
from semlens.lenses.arguments import AnyClass
from semlens.lenses.result import Result, Section
from semlens.progress import report_progress
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Component, Layers


@dataclass(frozen=True, eq=False, repr=False)
class Forms(Result):
    """One panel of each form."""

    suffixes = (".csv", ".json")
    frame: pd.DataFrame

    def figure(self) -> f.FigureSpec:
        names = list(self.frame["component"])
        rows = [
            f.ComponentRow(Component.parse(n), v, low=v - 1, high=v + 1, tone="for", note="p 0.01")
            for n, v in zip(names, self.frame["value"])
        ]
        points = [
            f.Point(v, -v, name=n, component=Component.parse(n), group="valid")
            for n, v in zip(names, self.frame["value"])
        ] + [f.Point(0.5, 1.5, name="other", group="rest")]
        nodes = [f.Node(n, i % 2, component=Component.parse(n)) for i, n in enumerate(names)]
        picture = Image.new("RGB", (40, 30), "teal")
        return f.FigureSpec("All forms", [
            f.Components("Components", rows, "value", reference=0.0),
            f.Values("Values", ["one", "two"], [
                f.Series([1.0, 2.0], "before", low=[0.5, 1.5], high=[1.5, 2.5]),
                f.Series([2.0, None], "after", notes=["p 0.2", ""]),
            ], "logit"),
            f.Scatter("Scatter", points, "x", "y", y_reference=0.0),
            f.Matrix("Matrix", ["a", "b"], ["c", "d"], [[1.0, -2.0], [None, 0.25]], "cosine"),
            f.Distributions("Distributions", [
                f.Distribution("group", [0, 1, 2, 3], [5, 2, 1], median=0.7, note="n is small")
            ], "score"),
            f.Graph("Graph", nodes, [f.Edge(0, 1, 0.5), f.Edge(2, 1, -0.25)]),
            f.Pictures("Pictures", [f.PictureRow([picture, picture], "row", "a text")]),
        ])

    def section(self, target: str | None = None) -> Section:
        return Section(["All forms were drawn."], self.figure(), self.frame, "Nothing is shown.")

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.frame.to_dict("records")}

    def __rich__(self) -> str:
        return "forms"


@lens(group="Study", command="")
def all_forms(
    database: Database,
    target: AnyClass = None,
    *,
    layers: Layers = None,
    shade: Annotated[Literal["plain", "dark"], setting("How it looks.")] = "plain",
    number: Annotated[int, setting("Number of components.", ge=1, le=50)] = 4,
    slow: Annotated[bool, setting("Take a minute.")] = False,
) -> Forms:
    """Draw one panel of each form.

    A second paragraph says more.
    """
    for step in range(600 * slow):
        report_progress("waiting", step, 600)
        time.sleep(0.1)
    rows = range(number)
    return Forms(pd.DataFrame({
        "component": [str(database.component(row)) for row in rows],
        "value": [float((7 * row) % 5) - 1 for row in rows],
        "word": [f"{shade} {target}" for _ in rows],
    }))
'''

FORMS = ["components", "values", "scatter", "matrix", "distributions", "graph", "pictures"]


@pytest.fixture(scope="module", autouse=True)
def lens_of_another_package(tmp_path_factory):
    """Install a package with a lens: a module, and the metadata that an installer writes."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "lens_of_forms.py").write_text(SOURCE)
    metadata = folder / "lens_of_forms-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lens-of-forms\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[semlens.lenses]\nall_forms = lens_of_forms:all_forms\n"
    )
    sys.path.insert(0, str(folder))
    registered.cache_clear()
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("lens_of_forms", None)
    registered.cache_clear()


def test_it_is_listed_among_all_lenses(page_at):
    page = page_at("#/m/demo/lens")
    page.get_by_role("link", name="All forms", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("All forms")
    page.get_by_role("link", name="All lenses").click()
    for group in ("Search", "Explain", "Compare", "Audit", "Study"):
        expect(page.get_by_role("heading", name=group, exact=True)).to_be_visible()
    assert axe(page) == []


def test_an_address_without_a_model_is_of_the_first_also_while_the_page_is_open(page_at):
    page = page_at("#/lens/all_forms")
    for address, heading in (("#/lens/scores", "Scores"), ("#/lens/all_forms", "All forms")):
        page.evaluate("address => (location.hash = address)", address)
        expect(page.get_by_role("heading", level=1)).to_have_text(heading)
        expect(page.locator("main")).to_have_attribute("data-model", "demo")
        assert "/m/demo/lens/" in page.url


def test_a_form_asks_and_the_address_holds_the_settings(page_at):
    page = page_at("#/lens/all_forms")
    expect(page.locator("main")).to_have_attribute("data-model", "demo")
    page.get_by_label("Target").select_option("vegetable")
    page.get_by_label("Shade").select_option("dark")
    page.get_by_text("More settings").click()
    page.get_by_label("Number").fill("6")
    page.get_by_role("button", name="Ask").click()
    table = page.get_by_role("region", name="Table")
    expect(table.locator("tbody tr")).to_have_count(6)
    expect(table.locator("tbody tr").first).to_contain_text("dark 4")
    assert "set-number=6" in page.url and "set-shade=dark" in page.url
    page.reload()
    expect(table.locator("tbody tr")).to_have_count(6)
    # a bound is that of the setting
    page.get_by_label("Number").fill("51")
    assert not page.get_by_label("Number").evaluate("box => box.checkValidity()")


def test_a_table_is_sorted_and_components_open_their_cards(page_at):
    page = page_at("#/m/demo/lens/all_forms?run=1")
    table = page.get_by_role("region", name="Table")
    values = table.locator("tbody td:nth-child(2)")
    expect(values).to_have_count(4)
    table.get_by_role("button", name="value").click()
    expect(table.get_by_role("columnheader", name="value")).to_have_attribute(
        "aria-sort", "descending"
    )
    expect(values.first).to_have_text("3")
    table.get_by_role("link").first.click()
    expect(page.get_by_role("complementary")).to_be_visible()
    expect(values.first).to_have_text("3")  # the card asks nothing again
    with page.expect_download() as saved:
        page.get_by_role("button", name="CSV").click()
    assert saved.value.path().read_text().splitlines()[0] == "component,value,word"


@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("dark", 390)])
def test_every_form_is_drawn(page_at, theme, width):
    page = page_at("#/m/demo/lens/all_forms?run=1", theme=theme, width=width)
    forms = page.locator("figure[data-form]")
    expect(forms).to_have_count(7)
    expect(page.get_by_text("All forms were drawn.")).to_be_visible()
    panel = {one.get_attribute("data-form"): one for one in forms.all()}
    assert list(panel) == FORMS
    for item in panel["components"].get_by_role("listitem").all():
        item.scroll_into_view_if_needed()  # pictures are loaded near the screen
    expect(panel["components"].locator("img")).to_have_count(4)
    expect(panel["components"].get_by_text("p 0.01")).to_have_count(4)
    expect(panel["values"].get_by_role("listitem").filter(has_text="one")).to_contain_text("1")
    expect(panel["scatter"].locator("circle")).to_have_count(5)
    expect(panel["scatter"].get_by_role("link")).to_have_count(4)
    expect(panel["matrix"].get_by_role("cell", name="-2")).to_be_visible()
    expect(panel["distributions"]).to_contain_text("n = 8")
    expect(panel["graph"].get_by_role("link")).to_have_count(4)
    expect(panel["graph"].locator("path")).to_have_count(2)
    expect(panel["pictures"].locator("img")).to_have_count(2)
    settle(page)
    assert axe(page) == []
    fits(page)


def test_a_lens_that_runs_can_be_cancelled(page_at):
    page = page_at("#/m/demo/lens/all_forms")
    page.get_by_text("More settings").click()
    page.get_by_label("Slow").check()
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("progressbar")).to_have_count(0)
    expect(page.get_by_role("button", name="Ask")).to_be_enabled()


def test_an_unknown_lens_leads_to_the_others(page_at):
    page = page_at("#/m/demo/lens/nonsense")
    expect(page.get_by_text("There is no lens “nonsense”")).to_be_visible()
    expect(page.locator("main").get_by_role("link", name="All lenses")).to_be_visible()
