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
from pathlib import Path
from types import TracebackType

import uvicorn

from semlens.api import ConceptDatabase, open_database
from semlens.embedders.load import Embedder
from semlens.errors import RecipeError, SemlensError, ServeError
from semlens.models.subject import SubjectModel
from semlens.web.app import create_app
from semlens.web.built import check_built, static_folder
from semlens.web.laid import prepare_maps
from semlens.web.listen import Place, listen
from semlens.web.served import Serving

GRACE = 1
"""Seconds that answers under way are given when the server ends."""


class Server:
    """A running server. ``stop()`` ends it; as a context manager it ends with the block."""

    def __init__(self, place: Place, url: str, serving: Serving, server: uvicorn.Server) -> None:
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
    embedder: Embedder | None = None,
    models: Sequence[SubjectModel | str | None] = (),
    data: Sequence[str | None] = (),
    device: str = "cpu",
    static: Path | None = None,
) -> Server:
    """Open what is to be served and the port, and serve nothing yet.

    Parameters are those of :func:`serve`; ``static`` is the folder of the built page.
    """
    if not databases:
        raise ServeError(
            "There is no database to serve.", "Expected at least one.", "Name its folder."
        )
    for what, given in (("models", models), ("data sets", data)):
        if len(given) > len(databases):
            raise RecipeError(
                f"{len(given)} {what} are given for {len(databases)} databases.",
                "Expected at most one each, in the order of the databases.",
                "Leave some out.",
            )
    folder = static_folder() if static is None else static_folder(static)
    opened = _opened(databases, embedder)
    place = listen(host, port)
    secret = token if isinstance(token, str) else None
    if secret is None and (token or not place.local):
        secret = secrets.token_urlsafe(32)
    app = create_app(
        opened,
        token=secret,
        hosts=(*place.names, *names),
        models=models,
        data=data,
        device=device,
        static=folder,
    )
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
    embedder: Embedder | None = None,
    models: Sequence[SubjectModel | str | None] = (),
    data: Sequence[str | None] = (),
    device: str = "cpu",
) -> Server | None:
    """Open the web application over some databases, until Ctrl-C.

    In a notebook it runs in the background, and the server is returned: ``stop()`` ends it.

    Parameters
    ----------
    databases
        Open databases or their folders.
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
    embedder
        The databases' embedder, when it is not where the manifest says.
    models, data
        Subject models and data SPECs in the order of the databases, where they have moved.
    device
        Where models run.

    Raises
    ------
    ServeError
        If the port is taken, or the page is missing.
    StoreError, StaleError
        If a database cannot be opened, or the embedder is not of any of them.

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
        embedder=embedder,
        models=models,
        data=data,
        device=device,
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


def _opened(
    databases: Sequence[ConceptDatabase | str | Path], embedder: Embedder | None
) -> list[ConceptDatabase]:
    opened = [db if isinstance(db, ConceptDatabase) else open_database(db) for db in databases]
    if embedder is None:
        return opened
    refused: list[SemlensError] = []
    for db in opened:
        try:
            db.check_embedder(embedder)
        except SemlensError as error:
            refused.append(error)
        else:
            db.embedder = embedder
    if len(refused) == len(opened):
        raise refused[0]
    return opened


def _in_notebook() -> bool:
    """Tell whether an event loop runs here already, which a second one cannot join."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
