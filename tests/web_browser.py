"""The real server and a real browser, for the tests of the page.

Write browser tests in ``tests/test_web_browser_NAME.py``, with these fixtures::

    def test_a_search_shows_crops(page_at):
        page = page_at("#/m/demo/search?q=fruit")       # the demo database
        page.get_by_role("link", name="layer3:17").click()
        expect(page.locator("main")).to_have_attribute("data-page", "search")

- ``page_at(where, ...)`` opens the page and returns Playwright's ``Page`` once it has settled
  (``settle``).  ``where`` is a hash at the served demo database, or a whole address (another
  server of ``serve``, a ``file:`` address).  Options: ``width``, ``height`` (CSS pixels),
  ``theme`` (``light`` or ``dark``), ``webgl=False``, ``allowed`` (see below).
- ``demo_server`` is the address of a server of the whole session over one copy of the demo
  database.
- ``served`` is the address of a server of the module's own, and its database: for tests that write.
- ``expect(locator)`` is Playwright's, imported on first use; ``fits(page)`` asserts that nothing
  is wider than the window.
- ``still(locator)`` returns the box of an element once it stands still: for drags by the mouse.
- ``axe(page)`` returns what axe-core finds, of any impact: assert that it is ``[]``.

A test fails by itself, at its end, when the page logged an error, threw, broke the content
security policy or asked any host but the one it was opened from.  What a test provokes on
purpose is named in ``allowed``: regular expressions, such as ``r"status of 404"``.

The page is the built one: ``npm run build`` in ``web/`` first.  ``SEMLENS_DEMO=FOLDER`` takes
the database from a folder that ``semlens demo`` has made, to save a minute.

Wait on attributes and elements (``expect(locator)``), never on ``wait_for_function`` with a
string: the policy forbids it.  Without a Chromium on PATH the tests are skipped; with
``CI=true`` they fail.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from playwright.sync_api import (
        Browser,
        ConsoleMessage,
        FloatRect,
        Locator,
        LocatorAssertions,
        Page,
        Request,
    )

    from semlens.concept_database import ConceptDatabase

ROOT = Path(__file__).resolve().parents[1]
AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# no request of the browser's own, none of a page to another host leaves this machine
ARGUMENTS = [
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--enable-unsafe-swiftshader",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost",
]
NO_WEBGL = """
const get = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
  return kind.includes("webgl") ? null : get.call(this, kind, ...rest);
};
"""
# the pages of the demo ask these of the server, and it keeps the answers
COMPUTED = ("sweep", "map", "places", "suggested-queries", "verdicts/4/before-after")
PageAt = Callable[..., "Page"]


def absent(what: str) -> None:
    """Skip, or fail on CI: there everything has to run."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} On CI the tests in a browser have to run.")
    pytest.skip(what)


@contextmanager
def serve(*databases: Path, below: str = "", **options: Any) -> Iterator[str]:
    """Serve databases in a thread on a free port; gives the address, with a slash at its end.

    ``below`` is a prefix that a proxy in front would take away, such as ``/lab/semlens``.
    ``options`` are those of ``create_app``.
    """
    import uvicorn

    from semlens.web.app import create_app
    from semlens.web.page_build import STATIC, static_folder

    static_folder(options.get("static", STATIC))  # says what to do where the page was not built
    listening = socket.create_server(("127.0.0.1", 0))
    app: Any = create_app(list(databases), **options)
    if below:
        app = behind_prefix(app, below)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}{below}/"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


def behind_prefix(app: Any, prefix: str) -> Any:
    """Return an application that takes a prefix off the path, as a proxy does."""

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if not scope["path"].startswith(f"{prefix}/"):
                raise ValueError(f"outside the prefix: {scope['path']}")
            path = scope["path"].removeprefix(prefix)
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await app(scope, receive, send)

    return proxy


def copy_of(database: Path, folder: Path) -> Path:
    """Copy a database to ``folder`` under its own name; its images stay where they are."""
    unfinished = shutil.ignore_patterns("*.part", ".lock")
    return shutil.copytree(database, folder / database.name, ignore=unfinished)


@pytest.fixture(scope="session")
def seen_demo(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo database that holds what its pages compute.  Read only.

    The workers of pytest-xdist share one, and each module's own server need not compute it again.
    """
    from conftest import when_done
    from fastapi.testclient import TestClient

    from semlens.web.app import API, create_app

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / "seen.lock"):
        if not (shared / "seen").is_dir():
            (shared / "seeing").mkdir()
            database = copy_of(demo, shared / "seeing")
            with TestClient(create_app([database]), base_url="http://127.0.0.1") as client:
                for path in COMPUTED:
                    asked = functools.partial(client.get, f"{API}/models/0/{path}")
                    assert when_done(asked).status_code == 200, path
            (shared / "seeing").rename(shared / "seen")
    return shared / "seen" / demo.name


@pytest.fixture(scope="session")
def demo_server(seen_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(copy_of(seen_demo, tmp_path_factory.mktemp("served"))) as address:
        yield address


@pytest.fixture(scope="module")
def served(
    seen_demo: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, ConceptDatabase]]:
    """A server of the module's own and its database, for tests that write audits."""
    import semlens as sl

    database = copy_of(seen_demo, tmp_path_factory.mktemp("served"))
    with serve(database) as base:
        yield base, sl.open(database)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        absent("There is no Chromium on PATH (apt install chromium).")
    from playwright.sync_api import expect as expected
    from playwright.sync_api import sync_playwright

    expected.set_options(timeout=60_000)  # a bound for a machine under load
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield launched
        launched.close()


class Watched:
    """What went wrong in the pages of one test."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.allowed: list[str] = []

    def watch(self, page: Page, address: str) -> None:
        home = urlsplit(address)

        def on_console(message: ConsoleMessage) -> None:
            # Chromium reports what breaks the content security policy here, too
            if message.type == "error":
                self.faults.append(f"console: {message.text}")

        def on_request(request: Request) -> None:
            to = urlsplit(request.url)
            if to.scheme not in ("data", "blob") and to[:2] != home[:2]:
                self.faults.append(f"request to another host: {request.url}")

        page.on("console", on_console)
        page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        page.on("request", on_request)

    def left(self) -> list[str]:
        """Return the faults that no test has allowed."""
        return [
            fault
            for fault in self.faults
            if not any(re.search(pattern, fault) for pattern in self.allowed)
        ]


@pytest.fixture
def page_at(browser: Browser, request: pytest.FixtureRequest) -> Iterator[PageAt]:
    contexts, watched = [], Watched()

    def open_page(
        where: str = "",
        *,
        width: int = 1280,
        height: int = 800,
        theme: str = "light",
        webgl: bool = True,
        allowed: tuple[str, ...] = (),
    ) -> Page:
        if "://" not in where:
            where = request.getfixturevalue("demo_server") + where
        watched.allowed += allowed
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion="reduce"
        )
        context.set_default_timeout(60_000)
        contexts.append(context)
        if not webgl:
            context.add_init_script(NO_WEBGL)
        page = context.new_page()
        watched.watch(page, where)
        page.goto(where)
        settle(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert watched.left() == []


def settle(page: Page, seconds: float = 120) -> None:
    """Wait until the page shows a model and is settled, as ``web/src/api/settled.ts`` says."""
    settled = page.locator("html[data-settled] main[data-model]")
    settled.wait_for(timeout=1000 * seconds)


def still(locator: Locator, seconds: float = 60) -> FloatRect:
    """Scroll to an element, wait until it stands in one place for half a second; return its box."""
    locator.scroll_into_view_if_needed()
    box, since, until = locator.bounding_box(), time.monotonic(), time.monotonic() + seconds
    while time.monotonic() < until:
        locator.page.wait_for_timeout(50)
        now = locator.bounding_box()
        if now != box:
            box, since = now, time.monotonic()
        elif now is not None and time.monotonic() - since > 0.5:
            return now
    raise AssertionError(f"{locator} still moves after {seconds:g} s")


def expect(locator: Locator) -> LocatorAssertions:
    """Return Playwright's assertions on a locator."""
    from playwright.sync_api import expect as expected

    return expected(locator)


def fits(page: Page) -> None:
    """Nothing is wider than the window."""
    main = page.locator("main")
    assert main.evaluate("node => node.scrollWidth <= node.clientWidth"), "it scrolls sideways"


IMPACTS = ("minor", "moderate", "serious", "critical")


def axe(page: Page, impacts: Sequence[str] = IMPACTS) -> list[str]:
    """Return the findings of axe-core, of any of these impacts: impact, rule, element."""
    if not AXE.is_file():
        absent("There is no axe-core: run 'npm ci' in web/.")
    # evaluated by the debugger, as the policy of the page lets no other script in
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("() => axe.run().then((result) => result.violations)")
    return [
        f"{finding['impact']}: {finding['id']}: {node['html'][:160]}"
        for finding in found
        if finding["impact"] in impacts
        for node in finding["nodes"]
    ]
