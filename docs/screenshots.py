"""Take a screenshot of every page of the web application, for the documentation.

    python docs/screenshots.py --demo semlens-demo/demo.semlens [--real DB] [--other DB]

``--real`` is a database of a real classifier, and ``--other`` a second one built with the same
embedder, for the comparison. Screenshots are written to ``docs/images/web``. The databases are
copied first, because the script saves an audit.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from semlens.web.app import create_app

OUT = Path(__file__).parent / "images" / "web"
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--enable-unsafe-swiftshader"]


# the pictures in view: which are decoded, and where they are, in pixels of the window
PICTURES = """async () => {
  const seen = [...document.images].filter((one) => {
    const { left, right, top, bottom } = one.getBoundingClientRect();
    const [x, y] = [(left + right) / 2, (top + bottom) / 2];
    if (!(x > 0 && x < innerWidth && y > 0 && y < innerHeight)) return false;
    const passive = getComputedStyle(one).pointerEvents === "none"; // as the crops of a map
    return passive || document.elementsFromPoint(x, y).slice(0, 4).includes(one);
  });
  const decoded = await Promise.allSettled(seen.map((one) => one.decode()));
  return seen.map((one, i) => {
    const { left, top, right, bottom } = one.getBoundingClientRect();
    const done = decoded[i].status === "fulfilled" && one.naturalWidth > 0;
    return { done, box: [left, top, right, bottom].map(Math.round) };
  });
}"""
WAIT = 120
"""Seconds until a page must have its pictures."""
DESCRIPTION = 0x010E
"""EXIF tag in which a screenshot keeps the boxes of its pictures, for the test of all pictures."""


class View(NamedTuple):
    """One screenshot: its file name, the URL hash, the theme, and the window size in pixels."""

    name: str
    hash: str
    theme: str = "light"
    width: int = 1440
    height: int = 900
    click: tuple[str, ...] = ()
    """Names of buttons that are clicked first."""
    part: str = ""
    """Selector of the part that is shown; the whole window by default."""
    pictures: int = 1
    """Least number of pictures in it: fewer are an error."""


VEGETABLE = 4
"""Logit of the demo's planted class."""
MARKED = 2090
"""Sample of that class which the model gets right only by the mark."""


def demo_views(audit: int) -> list[View]:
    """Return the views of the demo database."""
    return [
        View("overview", "#/m/demo/overview", pictures=12),
        View("unexpected", f"#/m/demo/unexpected?class={VEGETABLE}", pictures=3),
        View("search", "#/m/demo/search?q=letter", pictures=3),
        View("search-nothing", "#/m/demo/search?q=watermark", pictures=3),
        View("card", "#/m/demo/search?q=letter&sel=layer2%3A30", click=("Heatmap",), pictures=6),
        View("map", "#/m/demo/map", pictures=120),
        View("map-verdicts", f"#/m/demo/map?by=verdict&class={VEGETABLE}", pictures=120),
        View("map-dark", "#/m/demo/map?q=text", "dark", pictures=120),
        View(
            "components",
            f"#/m/demo/components?class={VEGETABLE}&sort=relevance_mean&order=down",
            pictures=6,
        ),
        View("classes", f"#/m/demo/classes?class={VEGETABLE}", pictures=6),
        View("graph", f"#/m/demo/classes?class={VEGETABLE}&view=graph", pictures=4),
        View("explain", f"#/m/demo/explain?sample={MARKED}", click=("Leave out the",), pictures=6),
        View("audit-all", "#/m/demo/audit", pictures=4),
        View("hero", f"#/m/demo/audit?audit={audit}", height=2400, part=".hero", pictures=4),
        View("audit", f"#/m/demo/audit?audit={audit}", height=2000, part="main", pictures=4),
        View(
            "experiments",
            f"#/m/demo/audit?errors={VEGETABLE}",
            height=2200,
            click=("Swap borders of all classes", "Compare errors on “vegetable”"),
            part=".without",
            pictures=3,
        ),
        View("search-phone", "#/m/demo/search?q=watermark", "dark", 390, 844, pictures=2),
    ]


def real_views(name: str, other: str | None) -> list[View]:
    """Return the views of a real classifier, alone and beside another."""
    views = [
        View("real-search", f"#/m/{name}/search?q=car"),
        View("real-map", f"#/m/{name}/map"),
    ]
    if other is not None:
        views.append(View("compare", f"#/m/{name}/compare?with={other}"))
    return views


def main() -> None:
    """Start the server, take the screenshots and write them as WebP."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, required=True)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", help="names of views, separated by commas")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="semlens-") as folder:
        paths = [path for path in (options.demo, options.other, options.real) if path]
        copies = [Path(shutil.copytree(path, Path(folder) / path.name)) for path in paths]
        address = _serve(copies)
        views = demo_views(_make_audit(address))
        other = options.other and options.other.stem
        views += real_views(options.real.stem, other) if options.real else []
        wanted = options.only.split(",") if options.only else [view.name for view in views]
        options.out.mkdir(parents=True, exist_ok=True)
        with sync_playwright() as playwright:
            path = shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
            faults: list[str] = []
            for view in views:
                if view.name in wanted:
                    try:
                        path = options.out / f"{view.name}.webp"
                        size = _screenshot(browser, address, view, path)
                        print(f"{view.name}: {size // 1024} kB", flush=True)  # noqa: T201
                    except ValueError as error:
                        faults.append(str(error))
            browser.close()
        if faults:
            sys.exit("\n".join(faults))


def _serve(databases: list[Path]) -> str:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(databases), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/"


def _make_audit(address: str) -> int:
    """Save the audit to show, of vegetables against artefacts; returns its number."""
    body = {"target": VEGETABLE, "from_sets": ["demo-world/vegetable", "artefacts"]}
    response = httpx.post(f"{address}api/v1/models/0/audits", json=body, timeout=120)
    return int(response.raise_for_status().json()["id"])


def _screenshot(browser: Browser, address: str, view: View, path: Path) -> int:
    """Wait until a page is complete and write its screenshot; returns the size in bytes."""
    context = browser.new_context(
        viewport={"width": view.width, "height": view.height},
        color_scheme=view.theme,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(address + view.hash)
    settle(page)
    for button in view.click:
        page.get_by_role("button", name=button).click()
        settle(page)
    if view.part:
        page.locator(view.part).scroll_into_view_if_needed()
    area = page.locator(view.part).bounding_box() if view.part else None
    left, top = (round(area["x"]), round(area["y"])) if area else (0, 0)
    boxes = [
        (box[0] - left, box[1] - top, box[2] - left, box[3] - top) for box in filled(page, view)
    ]
    shown = page.locator(view.part) if view.part else page
    picture = Image.open(io.BytesIO(shown.screenshot()))
    context.close()
    exif = Image.Exif()
    exif[DESCRIPTION] = json.dumps(boxes)
    picture.save(path, "WEBP", quality=82, method=6, exif=exif)
    return path.stat().st_size


def settle(page: Page) -> None:
    """Wait until a model is shown, all responses have arrived and nothing changes."""
    page.locator("html[data-settled] main[data-model]").wait_for(timeout=300_000)
    page.wait_for_timeout(500)


def filled(page: Page, view: View) -> list[tuple[int, int, int, int]]:
    """Wait until all pictures of a view are there and decoded; return their boxes.

    Raises
    ------
    ValueError
        If there are fewer than the view must have, or one does not load.
    """
    until = time.monotonic() + WAIT
    found: list[dict[str, Any]] = []
    while time.monotonic() < until:
        before, found = found, page.evaluate(PICTURES)
        if found == before and len(found) >= view.pictures and all(one["done"] for one in found):
            return [tuple(one["box"]) for one in found]
        page.wait_for_timeout(500)
    done = sum(one["done"] for one in found)
    raise ValueError(
        f"{view.name}: {done} of {len(found)} pictures are there, of {view.pictures} or more."
    )


if __name__ == "__main__":
    main()
