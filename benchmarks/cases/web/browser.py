"""Browser parts of the web benchmark: first paint, and panning of the map."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases.web.parts import serving
from benchmarks.worlds.served import database, save_random_layout

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--enable-unsafe-swiftshader"]
# records the time at which the counts of the overview are painted
PAINT_TIME = """
window.seen = null;
new MutationObserver(() => {
  if (window.seen === null && document.querySelector('main h1') &&
      /\\d/.test(document.querySelector('main .counts')?.textContent ?? '')) {
    window.seen = 0;
    requestAnimationFrame(() => requestAnimationFrame(() => { window.seen = performance.now(); }));
  }
}).observe(document, {childList: true, subtree: true, characterData: true});
"""
# records the start of each frame and whether the pointer moved, so that points are drawn in it;
# with WebGL, reading a pixel waits until they are drawn
FRAMES = """
() => {
  const host = document.querySelector('main [data-layer]');
  const gl = host.dataset.layer === 'webgl'
    ? host.querySelector('canvas').getContext('webgl2') : null;
  const pixel = new Uint8Array(4);
  let moved = false;
  addEventListener('pointermove', () => { moved = true; }, true);
  window.seenFrames = [];
  const step = () => {
    gl?.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
    window.seenFrames.push([performance.now(), moved]);
    moved = false;
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}
"""
RENDERER = """
() => {
  const gl = document.createElement('canvas').getContext('webgl2');
  gl?.getExtension('WEBGL_debug_renderer_info');
  return gl?.getParameter(0x9246) ?? 'Canvas2D';
}
"""


def browser_problem() -> str | None:
    """Return why no browser can be started, or None."""
    try:
        import playwright.sync_api  # noqa: F401
    except ModuleNotFoundError:
        return "Playwright is not installed: pip install playwright"
    if _chromium() is None:
        return f"none of {', '.join(CHROMIUM)} is on PATH"
    return None


def _chromium() -> str | None:
    return next((path for name in CHROMIUM if (path := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Any]:
    """Start Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_chromium(), args=ARGUMENTS)
        try:
            yield chromium
        finally:
            chromium.close()


def paint(path: Path, page: Path, rounds: int = 5) -> dict[str, Any]:
    """Open the overview of a database in a new browser context, several times."""
    painted: list[float] = []
    contentful: list[float] = []
    with serving(path, wide=False, page=page) as server, browser() as chromium:
        for _ in range(rounds + 1):
            context = chromium.new_context()
            tab = context.new_page()
            tab.add_init_script(PAINT_TIME)
            tab.goto(server.url)
            tab.locator("main .counts").first.wait_for(timeout=60_000)
            while not (value := tab.evaluate("() => window.seen")):
                tab.wait_for_timeout(20)
            painted.append(value)
            contentful.append(
                tab.evaluate(
                    "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
                )
            )
            context.close()
    return {
        "first_visit_ms": painted[0],  # the server has just chromium
        "meaningful_ms": statistics.median(painted[1:]),
        "slowest_ms": max(painted[1:]),
        "contentful_ms": statistics.median(contentful[1:]),
    }


def pan(work: Path, page: Path, components: int, quick: bool) -> dict[str, Any]:
    """Drag the map of ``components`` components back and forth, and count the frames."""
    path = database(work, components, 400 if quick else 50_000, quick)
    save_random_layout(path)
    with serving(path, page=page) as server, browser() as chromium:
        tab = chromium.new_page(viewport={"width": 1440, "height": 900})
        tab.goto(f"{server.url}#/m/{path.stem}/map")
        plot = tab.locator("[data-points]")
        plot.wait_for(timeout=300_000)
        points = int(plot.get_attribute("data-points") or 0)
        tab.locator("[data-styled=true]").wait_for(timeout=60_000)
        box = tab.locator("main canvas").first.bounding_box()
        if box is None:
            raise RuntimeError("the map is not visible")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        tab.mouse.move(x, y)
        tab.mouse.down()
        tab.evaluate(FRAMES)
        for leg in range(4 if quick else 12):
            side = 1 if leg % 2 else -1
            tab.mouse.move(x + side * 200, y + 20 * leg - 100, steps=25)
        frames = tab.evaluate("() => window.seenFrames")
        tab.mouse.up()
        layer = tab.locator("main [data-layer]").get_attribute("data-layer")
        renderer = tab.evaluate(RENDERER)
    times = np.array([time for time, _ in frames])
    drawn = np.array([moved for _, moved in frames])[:-1]
    durations = np.diff(times)[drawn]
    return {
        "points": points,
        "drawn_by": layer,
        "webgl": renderer,
        "drawn_frames": int(drawn.sum()),
        "drawn_frames_per_s": float(1000 * drawn.sum() / (times[-1] - times[0])),
        "frame_median_ms": float(np.median(durations)),
        "frame_p95_ms": float(np.percentile(durations, 95)),
        "frames_per_s": float(1000 / durations.mean()),
    }
