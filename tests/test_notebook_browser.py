"""The widgets' pages in Chromium, against the real widget in Python.

There is no notebook here: a few lines take the place of its model (``get``, ``set``,
``save_changes``, ``send``, ``on``, ``off``) and pass everything on to the widget of this process.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import VEGETABLES, LittleNet, build_vegetables, to_tensor
from web_browser import axe, expect

import semlens as sl
from semlens.models.subject import SubjectModel
from semlens.types import Component

PAGE = """
const decode = (value) => {
  if (value && value.base64 !== undefined)
    return new DataView(Uint8Array.from(atob(value.base64), (c) => c.charCodeAt(0)).buffer);
  if (value && typeof value === "object" && !Array.isArray(value))
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, decode(v)]));
  return value;
};
class Model {
  constructor(name) { Object.assign(this, { name, state: {}, changed: {}, listeners: [] }); }
  get(key) { return this.state[key]; }
  set(key, value) { this.state[key] = this.changed[key] = value; this.emit(`change:${key}`); }
  on(event, callback) { this.listeners.push([event, callback]); }
  off(event, callback) {
    this.listeners = this.listeners.filter(([e, c]) => e !== event || c !== callback);
  }
  emit(event, ...parts) { for (const [e, c] of [...this.listeners]) if (e === event) c(...parts); }
  update(state) {
    for (const [key, value] of Object.entries(decode(state))) {
      this.state[key] = value;
      this.emit(`change:${key}`);
    }
  }
  async save_changes() {
    const changed = this.changed;
    this.changed = {};
    models.forEach(async (model) => model.update(await python_state(model.name,
      model === this ? changed : {})));
  }
  async send(content) {
    for (const [answer, buffers] of await python_message(this.name, content))
      this.emit("msg:custom", answer, buffers.map(decode));
  }
}
globalThis.models = new Map();
globalThis.show = async (name, source, style) => {
  const { default: widget } = await import(URL.createObjectURL(
    new Blob([source], { type: "text/javascript" })));
  document.head.append(Object.assign(document.createElement("style"), { textContent: style }));
  const model = new Model(name);
  models.set(name, model);
  model.update(await python_state(name, {}));
  const el = document.getElementById(name);
  el.closeWidget = await widget.render({ model, el });
};
"""


def encoded(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return {"base64": base64.b64encode(value).decode()}
    return {k: encoded(v) for k, v in value.items()} if isinstance(value, dict) else value


class Kernel:
    """The widgets by name, and what the page sent to each."""

    def __init__(self, **widgets: Any) -> None:
        self.widgets, self.asked = widgets, []

    def state(self, name: str, changed: dict[str, Any]) -> Any:
        widget = self.widgets[name]
        if changed:
            widget.set_state(changed)
        state = {k: v for k, v in widget.get_state().items() if k not in ("_esm", "_css")}
        return json.loads(json.dumps(encoded(state)))

    def message(self, name: str, content: Any) -> list[Any]:
        widget, answers = self.widgets[name], []
        self.asked.append((name, content))
        widget.send = lambda content, buffers: answers.append(
            [content, list(map(encoded, buffers))]
        )
        widget._handle_custom_msg(content, [])
        return answers


@pytest.fixture(scope="module")
def db(tmp_path_factory) -> sl.ConceptDatabase:
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", VEGETABLES)
    database = build_vegetables(tmp_path_factory.mktemp("widgets"), model)
    labels = database.label(["red <b>", "blue"], threshold=-2.0, method="semantic-lens")
    labels.save_to_database("words")
    return database


@pytest.fixture(params=["light", "dark"])
def shown(db, browser, request) -> Iterator[tuple[Any, Kernel]]:
    view = db.map_widget("first", concepts=None, height=400)
    kernel = Kernel(map=view, card=view.card())
    context = browser.new_context(
        viewport={"width": 900, "height": 900}, color_scheme=request.param
    )
    page, faults = context.new_page(), []
    page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda r: faults.append(r.url) if not r.url.startswith("blob:") else None)
    page.expose_function("python_state", kernel.state)
    page.expose_function("python_message", kernel.message)
    page.set_content(
        f'<html lang="en" style="color-scheme: {request.param}"><title>x</title>'
        '<div id="map"></div><div id="card"></div></html>'
    )
    page.evaluate(PAGE + "null")  # a function as the value would be called
    for name, widget in kernel.widgets.items():
        page.evaluate("([n, s, c]) => show(n, s, c)", [name, widget._esm, widget._css])
    yield page, kernel
    context.close()
    assert faults == []


def place_of(page: Any, kernel: Kernel, index: int) -> tuple[float, float]:
    """Return where a component is on the screen when the whole map is shown."""
    import numpy as np

    points = kernel.widgets["map"].concept_map.atlas.points.astype(float)
    box = page.locator("canvas").bounding_box()
    low, high = points.min(0), points.max(0)
    scale = min(box["width"] / (high[0] - low[0] + 2), box["height"] / (high[1] - low[1] + 2))
    x, y = (points[index] - (low + high) / 2) * scale * np.array([1, -1])
    return box["x"] + box["width"] / 2 + x, box["y"] + box["height"] / 2 + y


def test_hover_click_and_card(shown, db):
    page, kernel = shown
    view, name = kernel.widgets["map"], kernel.widgets["map"]._names[2]
    expect(page.get_by_role("status")).to_have_text("0 of 6 selected")
    expect(page.locator("#card")).to_contain_text("Select a component")
    page.mouse.move(*place_of(page, kernel, 2))
    tip = page.locator(".tip")
    expect(tip.locator("code")).to_have_text(name)
    expect(tip.locator("b")).to_have_text(view._labels[2])  # as text: the label has "<b>" in it
    expect(tip.locator("img")).to_have_count(len(db.examples_of(2)))
    sizes = tip.locator("img").evaluate_all(
        "all => Promise.all(all.map((i) => i.decode().then(() => i.naturalWidth)))"
    )
    assert all(size > 30 for size in sizes)
    page.mouse.down()
    page.mouse.up()
    expect(page.get_by_role("status")).to_have_text("1 of 6 selected")
    assert view.selected == (Component("first", 2),)
    expect(page.locator("#card code")).to_have_text(name)
    expect(page.locator("#card")).to_contain_text("clarity")
    expect(page.locator("#card .strip img")).to_have_count(len(db.examples_of(2)))
    # the rest of the page is the notebook's
    assert axe(page, ("serious", "critical")) == []
    page.mouse.move(*place_of(page, kernel, 4))
    page.keyboard.down("Shift")
    page.mouse.down()
    page.mouse.up()
    page.keyboard.up("Shift")
    expect(page.get_by_role("status")).to_have_text("2 of 6 selected")
    assert view.selected[-1] == Component("first", 4)
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("status")).to_have_text("0 of 6 selected")
    assert view.selected == ()
    tips = [content for _, content in kernel.asked if content["count"] == 8]
    assert len(tips) == len({content["row"] for content in tips})  # each is asked for once


def test_a_rectangle_selects_and_dragging_moves(shown):
    page, kernel = shown
    view, box = kernel.widgets["map"], page.locator("canvas").bounding_box()
    page.keyboard.down("Shift")
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2, steps=4)
    page.mouse.up()
    page.keyboard.up("Shift")
    expect(page.get_by_role("status")).to_have_text("6 of 6 selected")
    assert len(view.selected) == 6
    # otherwise "d" twice deletes the cell in JupyterLab; it looks at the focused element only
    assert page.locator("canvas").get_attribute("data-lm-suppress-shortcuts") == "true"
    page.locator("canvas").focus()
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_have_text("0 of 6 selected")
    x, y = place_of(page, kernel, 2)
    corner = box["x"] + 3, box["y"] + 3
    page.mouse.move(*corner)
    page.mouse.down()
    page.mouse.move(corner[0] + 60, corner[1] + 25, steps=4)
    page.mouse.up()
    assert view.selected == ()
    page.mouse.click(x + 60, y + 25)  # the same component, moved along
    expect(page.get_by_role("status")).to_have_text("1 of 6 selected")
    assert view.selected == (Component("first", 2),)


def test_colours_search_and_zoom(shown):
    page, kernel = shown
    view = kernel.widgets["map"]
    before = page.locator("canvas").screenshot()
    page.get_by_label("Colour by").select_option("clarity")
    expect(page.locator(".legend")).to_contain_text("clarity")
    assert view.colour == "clarity"
    assert page.locator("canvas").screenshot() != before
    before = page.locator("canvas").screenshot()
    page.get_by_label("Find a label or name").fill(view._names[3])
    assert page.locator("canvas").screenshot() != before
    page.get_by_label("Find a label or name").press("Enter")
    expect(page.get_by_role("status")).to_have_text("1 of 6 selected")
    assert [str(c) for c in view.selected] == [view._names[3]]
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Find a label or name").fill("")
    assert page.locator("canvas").screenshot() == before
    for _ in range(8):
        page.get_by_role("button", name="+").click()
    page.get_by_role("button", name="Fit").click()
    page.mouse.move(0, 0)
    page.wait_for_timeout(200)
    single = {c["row"] for _, c in kernel.asked if c["count"] == 1}
    assert single <= set(view._rows)


def test_a_closed_widget_listens_no_more(shown):
    page, _ = shown
    left = page.evaluate(
        "() => [...models.values()].map((m) => {"
        " document.getElementById(m.name).closeWidget(); return m.listeners.length; })"
    )
    assert left == [0, 0]
