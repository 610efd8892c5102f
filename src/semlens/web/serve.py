"""Serve databases to a browser."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from types import TracebackType

import uvicorn

from semlens.api import ConceptDatabase
from semlens.api import open as open_database
from semlens.embedders.load import Embedder
from semlens.errors import RecipeError, ServeError
from semlens.web.app import create_app
from semlens.web.app_state import AppState
from semlens.web.page_build import check_built, static_folder
from semlens.web.routes.map import prepare_maps
from semlens.web.server_socket import ServerSocket, listen

GRACE = 1
"""Seconds that answers under way are given when the server ends."""


class Server:
    """A running server. ``stop()`` ends it; as a context manager it ends with the block."""

    def __init__(
        self, place: ServerSocket, url: str, serving: AppState, server: uvicorn.Server
    ) -> None:
        self.url = url
        """What to open, with the token if there is one."""
        self.serving = serving
        self._place = place
        self._server = server
        self._thread: threading.Thread | None = None

    @property
    def models(self) -> list[str]:
        """Names of what is served."""
        return [served.name for served in self.serving.models]

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until Ctrl-C; ``ready`` is called once it answers."""
        self._watch(ready)
        with contextlib.suppress(KeyboardInterrupt):
            self._server.run([self._place.socket])

    def start(self) -> Server:
        """Serve in the background, and return once it answers."""
        answers = threading.Event()
        self._thread = threading.Thread(
            target=self._server.run, args=([self._place.socket],), daemon=True
        )
        self._watch(answers.set)
        self._thread.start()
        answers.wait()
        return self

    def stop(self) -> None:
        """End it, and give the port back."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
        self._place.socket.close()

    def __enter__(self) -> Server:
        """Return it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.stop()

    def __repr__(self) -> str:
        """Return where it is."""
        return f"Server('{self.url}', {', '.join(self.models)})"

    def _watch(self, ready: Callable[[], None]) -> None:
        """Call back and warm up once it answers: the first page must not wait for weights."""

        def watch() -> None:
            while not self._server.started:
                if self._server.should_exit:
                    return
                time.sleep(0.01)
            ready()
            self.serving.warm()
            prepare_maps(self.serving)

        threading.Thread(target=watch, daemon=True).start()


def make_server(
    databases: Sequence[ConceptDatabase | str | Path],
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    names: Sequence[str] = (),
    token: str | bool = False,
    static: Path | None = None,
) -> Server:
    """Open what is to be served and the port, and serve nothing yet.

    Parameters are those of :func:`serve`; ``static`` is the folder of the built page.
    """
    if not databases:
        raise ServeError(
            "There is no database to serve.", "Expected at least one.", "Name its folder."
        )
    folder = static_folder() if static is None else static_folder(static)
    place = listen(host, port)
    secret = token if isinstance(token, str) else None
    if secret is None and (token or not place.local):
        secret = secrets.token_urlsafe(32)
    app = create_app(databases, token=secret, hosts=(*place.names, *names), static=folder)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # it would hold the token: the guard writes its own
        server_header=False,
        proxy_headers=False,  # the guard decides whom it believes
        ws="none",
        timeout_graceful_shutdown=GRACE,
    )
    url = place.url(names) + (f"?token={secret}" if secret else "")
    return Server(place, url, app.state.serving, uvicorn.Server(config))


def serve(
    *databases: ConceptDatabase | str | Path,
    port: int | None = None,
    host: str = "127.0.0.1",
    names: Sequence[str] = (),
    token: str | bool = False,
    browser: bool = True,
) -> Server | None:
    """Open the web application over some databases, until Ctrl-C.

    In a notebook it runs in the background, and the server is returned: ``stop()`` ends it.

    Parameters
    ----------
    databases
        Folders, or databases that were opened with what has moved (``semlens.open``).
    port
        By default 8765, or the next free one.
    host
        Address to listen on. Any but one of this machine alone needs a token, which is made
        and printed.
    names
        Further names under which the server may be called, for example a proxy's.
    token
        True asks for a token on this machine too; a text is taken as the token.
    browser
        Whether to open a browser.

    Raises
    ------
    ServeError
        If the port is taken, or the page is missing.
    StoreError
        If a database cannot be opened.

    Examples
    --------
    >>> import semlens as sl
    >>> sl.serve("demo.semlens", "other.semlens", port=9000)          # doctest: +SKIP
    """
    server = make_server(
        databases,
        port=port,
        host=host,
        names=names,
        token=token,
    )
    for notice in (check_built(), f"Serving at {server.url}"):
        if notice:
            sys.stderr.write(f"{notice}\n")
    if _in_notebook():
        server.start()
        if browser:
            open_browser(server.url)
        return server
    server.run(lambda: open_browser(server.url) if browser else None)
    return None


def open_browser(url: str) -> None:
    """Open a browser where there is one with a window.

    Not with a token in the address: other users of the machine see the arguments of programs.
    """
    windows = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    if windows and "token=" not in url:
        webbrowser.open(url)


def log_requests() -> None:
    """Write one line per request to standard error."""
    log = logging.getLogger("semlens.http")
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)


def open_databases(
    paths: Sequence[str | Path],
    *,
    models: Sequence[str] = (),
    data: Sequence[str] = (),
    embedder: Embedder | None = None,
    device: str = "cpu",
) -> list[ConceptDatabase]:
    """Open databases with the models and images that have moved, in the order of the databases.

    Raises
    ------
    RecipeError
        If more models or images are given than databases.
    StaleError
        If the embedder is not of any of them; it is taken for those that it is of.
    """
    for what, given in (("models", models), ("data sets", data)):
        if len(given) > len(paths):
            raise RecipeError(
                f"{len(given)} {what} are given for {len(paths)} databases.",
                "Expected at most one each, in the order of the databases.",
                "Leave some out.",
            )
    opened = [
        open_database(path, model=model, images=images, device=device)
        for path, model, images in zip_longest(paths, models, data)
    ]
    if embedder is not None:
        fitting = [db for db in opened if db.manifest.embedder.fingerprint == embedder.fingerprint]
        for db in fitting or opened[:1]:
            db.check_embedder(embedder)
            db.embedder = embedder
    return opened


def _in_notebook() -> bool:
    """Tell whether an event loop runs here already, which a second one cannot join."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
