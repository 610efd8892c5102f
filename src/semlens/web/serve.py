"""Start the web application: ``semlens.serve`` and the server behind ``semlens serve``."""

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

from semlens.api import open as open_database
from semlens.concept_database import ConceptDatabase
from semlens.embedders.embedder import Embedder
from semlens.embedders.load import load_embedder
from semlens.errors import RecipeError, SemlensError, ServeError
from semlens.web.app import create_app
from semlens.web.app_state import AppState
from semlens.web.connection import ServerSocket, TimedConnection, listen
from semlens.web.page_build import check_built, static_folder
from semlens.web.routes.map import prepare_maps
from semlens.web.routes.verdicts import prepare_verdicts
from semlens.web.security import check_token

GRACE = 1
"""Seconds that running requests are given when the server stops."""


class Server:
    """A server. Call ``stop()`` to end it, or use it as a context manager."""

    def __init__(
        self, socket: ServerSocket, url: str, state: AppState, server: uvicorn.Server
    ) -> None:
        self.url = url
        """Address to open, including the token if there is one."""
        self.state = state
        self._socket = socket
        self._server = server
        self._thread: threading.Thread | None = None

    @property
    def models(self) -> list[str]:
        """Names of the served models."""
        return [context.name for context in self.state.models]

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until Ctrl-C; ``ready`` is called once the server accepts requests."""
        self._watch(ready)
        with contextlib.suppress(KeyboardInterrupt):
            self._server.run([self._socket.socket])

    def start(self) -> Server:
        """Serve in the background; returns once the server accepts requests."""
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket.socket],), daemon=True
        )
        self._watch(started.set)
        self._thread.start()
        started.wait()
        return self

    def stop(self) -> None:
        """Stop the server and release the port."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
        self._socket.socket.close()

    def __enter__(self) -> Server:
        """Return the server."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self.stop()

    def __repr__(self) -> str:
        """Return the address and the names of the models."""
        return f"Server('{self.url}', {', '.join(self.models)})"

    def _watch(self, ready: Callable[[], None]) -> None:
        """Call ``ready`` once the server runs, then load what the first page needs."""

        def watch() -> None:
            while not self._server.started:
                if self._server.should_exit:
                    return
                time.sleep(0.01)
            ready()
            self.state.warm()
            for prepare in (prepare_maps, prepare_verdicts):
                with contextlib.suppress(SemlensError):  # a damaged file; the page reports it
                    prepare(self.state)

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
    """Open the databases and the port without serving yet.

    Takes the parameters of :func:`serve`; ``static`` is the folder of the built page.
    """
    if not databases:
        raise ServeError(
            "No database was given.", "Expected at least one.", "Pass the folder of a database."
        )
    folder = static_folder() if static is None else static_folder(static)
    check_token(token)
    socket = listen(host, port)
    secret = token if isinstance(token, str) else None
    if secret is None and (token or not socket.local):
        secret = secrets.token_urlsafe(32)
    app = create_app(databases, token=secret, hosts=(*socket.names, *names), static=folder)
    config = uvicorn.Config(
        app,
        http=TimedConnection,
        log_config=None,
        access_log=False,  # it would contain the token; the guard writes its own log
        server_header=False,
        proxy_headers=False,  # the guard decides which proxies to trust
        ws="none",
        timeout_graceful_shutdown=GRACE,
    )
    url = socket.url(names) + (f"?token={secret}" if secret else "")
    return Server(socket, url, app.state.semlens, uvicorn.Server(config))


def serve(
    *databases: ConceptDatabase | str | Path,
    port: int | None = None,
    host: str = "127.0.0.1",
    names: Sequence[str] = (),
    token: str | bool = False,
    browser: bool = True,
) -> Server | None:
    """Serve databases in the web application until Ctrl-C.

    In a notebook the server runs in the background and is returned; ``stop()`` ends it.

    Parameters
    ----------
    databases
        Folders, or databases opened with :func:`semlens.open`, for example with a moved model.
    port
        By default 8765 or the next free port.
    host
        Address to listen on. An address that other machines can reach requires a token, which
        is generated and printed.
    names
        Additional host names that requests may use, for example that of a proxy.
    token
        True requires a token on this machine too; a text of at least 16 characters is used as
        the token.
    browser
        Whether to open a browser.

    Raises
    ------
    ServeError
        If the port is in use, the page is missing, or the token is too short.
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
    """Open a browser if the machine has a graphical one.

    An address with a token is not opened: other users can see the arguments of programs.
    """
    graphical = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    if graphical and "token=" not in url:
        webbrowser.open(url)


def log_requests() -> None:
    """Write one line per request to standard error."""
    log = logging.getLogger("semlens.http")
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)


def open_databases(
    paths: Sequence[str | Path],
    *,
    models: Sequence[str] | None = (),
    data: Sequence[str] | None = (),
    embedder: Embedder | str | None = None,
    device: str = "cpu",
) -> list[ConceptDatabase]:
    """Open databases, optionally with moved models and images, in the order of the databases.

    Parameters
    ----------
    embedder
        An embedder, or the name or folder of one to load.

    Raises
    ------
    RecipeError
        If there are more models or image sources than databases.
    StaleError
        If no database was built with the embedder; it is used for those that were.
    """
    models, data = models or (), data or ()
    for what, values in (("models", models), ("data sets", data)):
        if len(values) > len(paths):
            raise RecipeError(
                f"{len(values)} {what} were given for {len(paths)} databases.",
                "Expected at most one per database, in the same order.",
                "Leave some out.",
            )
    opened = [
        open_database(path, model=model, images=images, device=device)
        for path, model, images in zip_longest(paths, models, data)
    ]
    if isinstance(embedder, str):
        embedder = load_embedder(embedder, device=device)
    if embedder is not None:
        matching = [db for db in opened if db.manifest.embedder.fingerprint == embedder.fingerprint]
        for db in matching or opened[:1]:
            db.check_embedder(embedder)
            db.embedder = embedder
    return opened


def _in_notebook() -> bool:
    """Return whether an event loop is already running in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
