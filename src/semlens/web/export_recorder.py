"""Answers of the server as files that a page opened from disk can read.

A browser lets such a page load scripts and pictures, but fetch nothing. So answers are written
as scripts that deliver them by their path, some megabytes to a script, and pictures under their
path. ``web/src/api/packed.ts`` reads both.
"""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
from fastapi import FastAPI

from semlens.errors import ServeError
from semlens.store.atomic_files import save_text, write_atomic
from semlens.types import Component

FULL = 2_000_000
"""Characters of a script, about."""
AT_ONCE = 4
"""Requests under way together."""
PAUSE = 0.2
"""Seconds between two looks at work that is under way."""


def address(path: str, **query: str | float) -> str:
    """Return a path with its query as the page writes it: by name."""
    return f"{path}?{urlencode(sorted(query.items()))}" if query else path


def quoted(component: Component) -> str:
    """Return a component's name as the page writes it in a path (``encodeURIComponent``)."""
    return quote(str(component), safe="!'()*")


def file_of(path: str) -> str:
    """Return the file of a picture or a download: the query becomes part of the name.

    A ``%`` would be read as the beginning of a code when a page asks for the file.
    """
    name, _, query = path.replace("%", "~").partition("?")
    stem, _, end = name.rpartition(".")
    shown = query.replace("=", "-").replace("&", "-")
    return f"{stem}-{shown}.{end}" if shown else name


class Recorder:
    """Asks an application and writes down what it answers, below ``folder/data``.

    Parameters
    ----------
    app
        The application; asked in this process, without a socket.
    """

    def __init__(self, app: FastAPI, folder: Path) -> None:
        self.folder = folder / "data"
        self.files: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        """Why an answer is not there, by its path."""
        self._open: dict[str, Any] = {}
        self._size = 0
        self._number = 0
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost/api/v1/", timeout=None
        )
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def json(self, path: str) -> Any:
        """Record an answer and return it; None if the server refuses it."""
        answer = await self._ask(path)
        if answer is None:
            return None
        found = answer.json()
        self._keep(path, found, len(answer.content))
        return found

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Have something made; nothing is recorded."""
        answer = await self._ask(path, body)
        return None if answer is None else answer.json()

    async def bytes(self, path: str) -> None:
        """Record bytes, as Base64."""
        answer = await self._ask(path)
        if answer is not None:
            text = base64.b64encode(answer.content).decode()
            self._keep(path, text, len(text))

    async def file(self, path: str) -> None:
        """Record a picture, or what is downloaded, as a file of its own."""
        answer = await self._ask(path)
        if answer is not None:
            content = answer.content

            def write(part: Path) -> None:
                part.write_bytes(content)

            await asyncio.to_thread(write_atomic, self.folder / file_of(path), write)

    def finish(self, about: dict[str, Any]) -> None:
        """Write what is open, and the index that says which script has which answer."""
        self._flush()
        index = json.dumps({"files": self.files, **about}, ensure_ascii=False)
        save_text(self.folder / "index.js", f"window.semlensPacked={_script(index)};\n")

    async def close(self) -> None:
        """End the client."""
        await self._client.aclose()

    async def _ask(self, path: str, body: dict[str, Any] | None = None) -> httpx.Response | None:
        method = "GET" if body is None else "POST"
        async with self._turn:
            while (
                answer := await self._client.request(method, path, json=body)
            ).status_code == 202:
                await asyncio.sleep(PAUSE)
        if answer.status_code >= 500:
            raise ServeError(
                f"'{path}' could not be recorded ({answer.status_code}).",
                "Expected an answer.",
                "Look at what was printed before, and report it.",
            )
        if answer.status_code != 200:
            self.left_out[path] = answer.json()["value"]
            return None
        return answer

    def _keep(self, path: str, answer: Any, size: int) -> None:
        self._open[path] = answer
        self.files[path] = f"answers-{self._number:04d}.js"
        self._size += size
        if self._size >= FULL:
            self._flush()

    def _flush(self) -> None:
        if not self._open:
            return
        text = _script(json.dumps(self._open, ensure_ascii=False))
        save_text(self.folder / f"answers-{self._number:04d}.js", f"semlensDeliver({text});\n")
        self._open, self._size, self._number = {}, 0, self._number + 1


def _script(text: str) -> str:
    """Return JSON that is also JavaScript in a script of its own: two separators differ."""
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
