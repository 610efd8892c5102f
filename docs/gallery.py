"""Write a gallery: static exports of four databases, and a page that links to them.

    pip install '.[gallery]'
    python docs/gallery.py --out gallery --work databases

Databases that are not yet in ``--work`` are built there: the demo, and three of two ImageNet
classifiers. That takes about an hour on two slow cores and downloads 830 MB with ``apt-get
download``. ``--database KEY=FOLDER`` uses an existing one instead, and ``--only KEY`` writes some
of the sites. The folder opens from disk or any web server. Pictures are screenshots of the exports,
made with Playwright and Chromium, which also check that they open.
"""

from __future__ import annotations

import argparse
import html
import io
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from gallery_entries import ENTRIES, RECIPES, Entry
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import semlens as sl
from semlens.web.static_export import StaticExport, export_site

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 1280, 800
PROGRAMS = {"python": [sys.executable], "semlens": [sys.executable, "-m", "semlens.cli"]}
"""Programs of this environment, also if it is not activated."""
SHOWN = 640
"""Width of a picture on the page, in pixels."""


def main() -> None:
    """Build what is missing, export each site, take the pictures and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gallery"))
    parser.add_argument("--work", type=Path, default=Path("databases"))
    parser.add_argument("--database", action="append", default=[], metavar="KEY=FOLDER")
    parser.add_argument("--only", action="append", choices=[entry.key for entry in ENTRIES])
    options = parser.parse_args()
    given = dict(text.split("=", 1) for text in options.database)
    if unknown := sorted(set(given) - set(RECIPES)):
        parser.error(f"unknown database {unknown[0]}: one of {list(RECIPES)}")
    chosen = [entry for entry in ENTRIES if options.only is None or entry.key in options.only]
    needed = list(dict.fromkeys(key for entry in chosen for key in entry.databases))
    if missing := missing_tools([key for key in needed if key not in given]):
        parser.error(f"missing: {', '.join(missing)}; install with pip install '.[gallery]'")
    options.out.mkdir(parents=True, exist_ok=True)
    folders = {key: database_of(key, options.work.resolve(), given) for key in needed}
    sites: dict[str, StaticExport] = {}
    for entry in chosen:
        site = export_site(
            [sl.open(folders[key]) for key in entry.databases], options.out / entry.key,
            cards=entry.cards, components=entry.components, crops=entry.crops, graphs=entry.graphs,
        )  # fmt: skip
        sites[entry.key] = site
        print(f"{entry.key}: {site.files} files, {site.bytes / 1e6:.1f} MB")  # noqa: T201
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        links = {entry.key: picture_of(browser, options.out, entry) for entry in chosen}
        browser.close()
    page = index_page(chosen, sites, links)
    (options.out / "index.html").write_text(page, "utf-8")
    total = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out / 'index.html'}: {total / 1e6:.1f} MB in all")  # noqa: T201


def missing_tools(databases: Sequence[str]) -> list[str]:
    """Return what the databases need and is not installed: found before an hour of builds."""
    modules = {package for key in databases for package in RECIPES[key].packages}
    programs = ["apt-get", "dpkg-deb"] if modules else []
    return [
        *(name for name in sorted(modules) if find_spec(name) is None),
        *(name for name in programs if shutil.which(name) is None),
    ]


def database_of(key: str, work: Path, given: Mapping[str, str]) -> Path:
    """Return the folder of a database, which is built if it is missing."""
    if key in given:
        return Path(given[key])
    database = work / RECIPES[key].folder
    if not (database / "manifest.json").is_file():
        work.mkdir(parents=True, exist_ok=True)
        for command in RECIPES[key].commands:
            print("$", *command, flush=True)  # noqa: T201
            words = [word.replace("{work}", str(work)) for word in command]
            subprocess.run([*PROGRAMS[words[0]], *words[1:]], check=True, cwd=ROOT)
    return database


def picture_of(browser: Browser, out: Path, entry: Entry) -> str:
    """Open an export from disk, write its picture, and return the link to what it shows."""
    page = browser.new_page(
        viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce", color_scheme="light"
    )
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda told: faults.append(told.text) if told.type == "error" else None)
    page.goto((out / entry.key / "index.html").resolve().as_uri())
    settle(page)
    name = page.locator("main").get_attribute("data-model") or ""
    link = f"{entry.key}/index.html#/m/{name}/{entry.page}"
    page.goto(f"{out.resolve().as_uri()}/{link}")
    page.reload()
    settle(page)
    if faults:
        raise RuntimeError(f"The export '{entry.key}' does not open: {faults[0]}")
    picture = Image.open(io.BytesIO(page.screenshot()))
    page.close()
    picture.thumbnail((2 * SHOWN, HEIGHT))
    picture.save(out / f"{entry.key}.webp", "WEBP", quality=80, method=6)
    return link


def settle(page: Page) -> None:
    """Wait until a model is shown and nothing is being loaded."""
    page.locator("main[data-model]").wait_for()
    page.wait_for_timeout(500)  # placeholders appear after 200 ms
    page.locator("main .waiting").first.wait_for(state="detached")
    page.wait_for_timeout(1500)  # images


STYLE = """
:root { color-scheme: light dark; --paper: light-dark(#fff, #13171c);
  --line: light-dark(#dfe4eb, #2b333d);
  --ink: light-dark(#1b2430, #e6eaf0); --soft: light-dark(#556170, #a0abb9);
  --link: light-dark(#2563cf, #7fabff); }
body { max-width: 78rem; margin: 0 auto; padding: 2rem 1.25rem 3rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.15rem; margin: .8rem 0 .2rem; }
p { margin: .3rem 0; max-width: 44rem; }
.soft { color: var(--soft); font-size: .875rem; }
a { color: var(--link); }
ul { display: grid; gap: 2.5rem 2rem; list-style: none; padding: 0; margin: 2rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); }
img { display: block; width: 100%; height: auto; border: 1px solid var(--line);
  border-radius: 8px; }
"""


def index_page(
    entries: Sequence[Entry], sites: Mapping[str, StaticExport], links: Mapping[str, str]
) -> str:
    """Return the page with a picture, a sentence, the size and a link of each export."""
    items = [
        f"""<li>
<a href="{html.escape(links[entry.key])}"><img src="{entry.key}.webp" loading="lazy"
width="{WIDTH}" height="{HEIGHT}" alt="{html.escape(entry.title)}: the application"></a>
<h2><a href="{entry.key}/index.html">{html.escape(entry.title)}</a></h2>
<p>{html.escape(entry.text)}</p>
<p class="soft">{sites[entry.key].components:,} components, {sites[entry.key].cards:,} with a card;
{sites[entry.key].bytes / 1e6:.1f} MB. Images: {html.escape(entry.images)}.</p>
</li>"""
        for entry in entries
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>semlens gallery</title>
<style>{STYLE}</style>
</head>
<body>
<h1>semlens gallery</h1>
<p>What databases show about vision models. Each one is a static copy of the web application:
overview, map, component cards, classes and audits work; searching uses saved labels.</p>
<ul>
{chr(10).join(items)}
</ul>
<p class="soft">Made with semlens {sl.__version__} by <code>python docs/gallery.py</code>.</p>
</body>
</html>
"""


if __name__ == "__main__":
    main()
