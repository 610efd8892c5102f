"""Pages of a database without true classes: what needs them says so, with the command."""

from __future__ import annotations

import numpy as np
import pytest
from web_browser import axe, expect, fits, serve, settle

import semlens as sl

SIZES = [(1440, 900), (390, 844)]
IMAGES = 72


@pytest.fixture(scope="module")
def flat(demo, tmp_path_factory):
    """The address of a server of a database of the demo's model, on images in one folder."""
    folder = tmp_path_factory.mktemp("flat")
    source = sl.open(demo)
    (folder / "images").mkdir()
    for sample in np.linspace(0, len(source.images) - 1, IMAGES).astype(int).tolist():
        source.images.read(sample).save(folder / f"images/{sample}.png")
    db = sl.build(
        folder / "flat.semlens", "semlens/demo", folder / "images", "semlens/demo", ["layer2"],
        examples=4, crop="none", relevance=True,
    )  # fmt: skip
    with serve(db.path) as address:
        yield address, db


def told(page, what):
    hint = page.get_by_role("note").filter(has_text=f"{what} need images whose true class is known")
    expect(hint).to_be_visible()
    expect(hint.locator("code").last).to_contain_text("--targets classes.csv")
    assert page.get_by_role("alert").count() == 0
    fits(page)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_audit_page_offers_no_experiment(page_at, flat, width, height):
    page = page_at(flat[0] + "#/m/flat/audit", width=width, height=height)
    told(page, "These experiments")
    assert page.get_by_role("button", name="of all classes").count() == 0
    assert axe(page) == []


def test_an_audit_offers_no_test_and_no_repair(page_at, flat):
    address, db = flat
    target = int(db.relevance_classes["class"][0])
    name = db.manifest.classes[target]
    component = str(
        db.component(int(db.relevance(target).nlargest(1, "mean")["component"].iloc[0]))
    )
    page = page_at(address + f"#/m/flat/audit?class={target}")
    page.get_by_role("button", name="Start audit").click()
    page.wait_for_url("**audit=*")
    settle(page)
    told(page, "Experiments with the model")
    assert page.get_by_text("Test the model").count() == 0
    page.goto(page.url + f"&add={component}")
    settle(page)
    told(page, "Repairs")
    assert page.get_by_role("button", name="Run without").count() == 0
    page.goto(address + f"#/m/flat/classes?class={target}")
    settle(page)
    expect(page.locator("main header").first).to_contain_text("images that the model takes for it")
    expect(page.get_by_role("heading", name=name).first).to_be_visible()
