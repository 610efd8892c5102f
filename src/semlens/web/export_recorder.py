"""Recorder of server responses, as files that a page opened from disk can read.

A browser lets such a page load scripts and images, but not fetch data. JSON is therefore written
as scripts of a few megabytes that deliver the responses by path, and images under their own
path. ``web/src/api/static-export.ts`` reads both.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode

import httpx
from fastapi import FastAPI

from semlens.errors import ServeError
from semlens.store.atomic_files import save_text, write_atomic
from semlens.types import Component

SCRIPT_SIZE = 2_000_000
"""Approximate number of characters in a script."""
PARALLEL = 4
"""Requests that run at the same time."""
POLL = 0.2
"""Seconds between two polls of a running job."""


def request_path(path: str, **query: str | float) -> str:
    """Return a path with its query as the page writes it: parameters sorted by name."""
    return f"{path}?{urlencode(sorted(query.items()))}" if query else path


def quote_component(component: Component) -> str:
    """Quote a component's name as the page does (``encodeURIComponent``)."""
    return quote(str(component), safe="!'()*")


def file_name(path: str) -> str:
    """Return the file of an image or a download: the query becomes part of the name.

    ``%`` is replaced, since browsers decode it when they load the file.
    """
    name, _, query = path.replace("%", "~").partition("?")
    stem, _, extension = name.rpartition(".")
    suffix = query.replace("=", "-").replace("&", "-")
    return f"{stem}-{suffix}.{extension}" if suffix else name


class Recorder:
    """Sends requests to an application and records the responses in ``folder/data``.

    Parameters
    ----------
    app
        The application, called in this process without a socket.
    private
        Folders of this machine, which are left out of the paths in the responses.
    """

    def __init__(self, app: FastAPI, folder: Path, private: Sequence[Path] = ()) -> None:
        self.folder = folder / "data"
        self._private = [f"{path}{os.sep}" for path in private]
        self.files: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        """Reason why a response was not recorded, by path."""
        self._responses: dict[str, Any] = {}
        self._size = 0
        self._number = 0
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost/api/v1/", timeout=None
        )
        self._slots = asyncio.Semaphore(PARALLEL)

    async def json(self, path: str) -> Any:
        """Record and return a JSON response; None if the server refuses the request."""
        response = await self._request(path)
        if response is None:
            return None
        content = self._without_folders(response.json())
        self._add(path, content, len(response.content))
        return content

    def _without_folders(self, content: Any) -> Any:
        """Return JSON whose texts do not say where this machine keeps its files."""
        if isinstance(content, str):
            for folder in self._private:
                content = content.replace(folder, "")
            return content
        if isinstance(content, dict):
            items = cast(dict[str, Any], content).items()
            return {key: self._without_folders(value) for key, value in items}
        if isinstance(content, list):
            return [self._without_folders(value) for value in cast(list[Any], content)]
        return content

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Send a POST request without recording the response."""
        response = await self._request(path, body)
        return None if response is None else response.json()

    async def bytes(self, path: str) -> None:
        """Record a binary response, as Base64."""
        response = await self._request(path)
        if response is not None:
            text = base64.b64encode(response.content).decode()
            self._add(path, text, len(text))

    async def file(self, path: str, requested: str | None = None) -> None:
        """Record an image or a download as a separate file.

        Parameters
        ----------
        requested
            The path that the page requests, if it is to get another picture than the server's.
        """
        response = await self._request(path)
        if response is not None:
            content = response.content
            if not response.headers["content-type"].startswith("image/"):
                content = self._without_folders(response.text).encode()

            def write(partial: Path) -> None:
                partial.write_bytes(content)

            await asyncio.to_thread(write_atomic, self.folder / file_name(requested or path), write)

    def finish(self, settings: dict[str, Any]) -> None:
        """Write the remaining responses, and the index of which script holds which response."""
        self._flush()
        index = json.dumps({"files": self.files, **settings}, ensure_ascii=False)
        save_text(self.folder / "index.js", f"window.semlensExport={_script(index)};\n")

    async def close(self) -> None:
        """Close the client."""
        await self._client.aclose()

    async def _request(
        self, path: str, body: dict[str, Any] | None = None
    ) -> httpx.Response | None:
        method = "GET" if body is None else "POST"
        async with self._slots:
            while (
                response := await self._client.request(method, path, json=body)
            ).status_code == 202:
                await asyncio.sleep(POLL)
        if response.status_code >= 500:
            raise ServeError(
                f"'{path}' could not be recorded (HTTP {response.status_code}).",
                "This is a bug in semlens.",
                "Please report it, with the traceback that was printed.",
            )
        if response.status_code != 200:
            self.left_out[path] = response.json()["value"]
            return None
        return response

    def _add(self, path: str, content: Any, size: int) -> None:
        self._responses[path] = content
        self.files[path] = f"responses-{self._number:04d}.js"
        self._size += size
        if self._size >= SCRIPT_SIZE:
            self._flush()

    def _flush(self) -> None:
        if not self._responses:
            return
        text = _script(json.dumps(self._responses, ensure_ascii=False))
        save_text(self.folder / f"responses-{self._number:04d}.js", f"semlensDeliver({text});\n")
        self._responses, self._size, self._number = {}, 0, self._number + 1


def _script(text: str) -> str:
    """Return JSON that is also valid JavaScript: two line separators must be escaped."""
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
