"""Photograph every page of the web application, for the documentation.

    python docs/screenshots.py --demo semlens-demo/demo.semlens [--other DB] [--real DB]

``--other`` is a second database of the demo's embedder, for the comparison. Pictures go to
``docs/images/web``; the audit that is shown is made in a copy of the database.
"""

from __future__ import annotations

import argparse
import io
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import httpx
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from semlens.web.app import create_app

HERE = Path(__file__).parent / "images" / "web"
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--enable-unsafe-swiftshader"]


class View(NamedTuple):
    """One picture: its name, the hash, and how the page is looked at."""

    name: str
    hash: str
    theme: str = "light"
    width: int = 1440
    height: int = 900


VEGETABLE = 4
"""The demo's planted class."""


def demo_views(audit: int, other: str | None) -> list[View]:
    """Return views of the demo database."""
    views = [
        View("overview", "#/m/demo/overview"),
        View("search", "#/m/demo/search?q=watermark"),
        View("card", "#/m/demo/search?q=watermark&sel=layer2%3A56"),
        View("map", "#/m/demo/map?q=text"),
        View("map-dark", "#/m/demo/map?by=cluster", "dark"),
        View("components", f"#/m/demo/components?class={VEGETABLE}&sort=relevance_mean&order=down"),
        View("classes", f"#/m/demo/classes?class={VEGETABLE}"),
        View("graph", f"#/m/demo/classes?class={VEGETABLE}&view=graph"),
        View("audit", f"#/m/demo/audit?audit={audit}"),
        View("search-phone", "#/m/demo/search?q=watermark", "dark", 390, 844),
    ]
    if other is not None:
        views.append(View("compare", f"#/m/demo/compare?with={other}"))
    return views


def real_views(name: str) -> list[View]:
    """Return views of a classifier that nobody has planted anything in."""
    return [
        View("real-search", f"#/m/{name}/search?q=dog", "dark"),
        View("real-map", f"#/m/{name}/map"),
    ]


def main() -> None:
    """Serve, photograph, and write WebP files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, required=True)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--only", help="names of views, joined by commas")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="semlens-") as folder:
        paths = [path for path in (given.demo, given.other, given.real) if path]
        copies = [Path(shutil.copytree(path, Path(folder) / path.name)) for path in paths]
        address = _serve(copies)
        views = demo_views(_make_audit(address), given.other and given.other.stem)
        views += real_views(given.real.stem) if given.real else []
        wanted = given.only.split(",") if given.only else [view.name for view in views]
        given.out.mkdir(parents=True, exist_ok=True)
        with sync_playwright() as playwright:
            path = shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
            for view in views:
                if view.name in wanted:
                    size = _photograph(browser, address, view, given.out / f"{view.name}.webp")
                    print(f"{view.name}: {size // 1024} kB")  # noqa: T201
            browser.close()


def _serve(databases: list[Path]) -> str:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(databases), log_level="warning"))
    run = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    run.start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/"


def _make_audit(address: str) -> int:
    """Save the audit that is shown: what vegetables should rest on, and artefacts."""
    given = {"target": VEGETABLE, "from_sets": ["demo-world/vegetable", "artefacts"]}
    answer = httpx.post(f"{address}api/v1/models/0/audits", json=given, timeout=120)
    return int(answer.raise_for_status().json()["id"])


def _photograph(browser: Browser, address: str, view: View, path: Path) -> int:
    """Wait until nothing of a page is under way, and write its picture; returns its bytes."""
    context = browser.new_context(
        viewport={"width": view.width, "height": view.height},
        color_scheme=view.theme,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(address + view.hash)
    settle(page)
    picture = Image.open(io.BytesIO(page.screenshot()))
    context.close()
    picture.save(path, "WEBP", quality=82, method=6)
    return path.stat().st_size


def settle(page: Page) -> None:
    """Wait until a model is shown, and nothing waits for the server any more."""
    page.locator("main[data-model]").wait_for()
    page.wait_for_timeout(500)  # after 200 ms skeletons are there
    while (waiting := page.locator(".waiting")).count():
        waiting.first.wait_for(state="detached", timeout=300_000)
        page.wait_for_timeout(300)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(300)


if __name__ == "__main__":
    main()
