"""A server of its own for benchmarks/web.py; run as a script it is that server."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness import Worker, memory_mib, serve

import semlens as sl

API = "/api/v1/models/0"


@dataclass(frozen=True)
class Running:
    """A server in another process."""

    url: str
    process: int

    def memory(self) -> dict[str, float]:
        """Return its memory in MiB: all that is resident, and what of it is not mapped files."""
        return {
            "rss": memory_mib("VmRSS", self.process),
            "anonymous": memory_mib("RssAnon", self.process),
        }


class Client:
    """One connection that is kept open, as a browser's."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        self._connection = http.client.HTTPConnection(self._host, timeout=120)

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body; work in the background is waited for."""
        while True:
            self._connection.request("GET", API + path)
            answer = self._connection.getresponse()
            content = answer.read()
            if answer.status != 202:
                return answer.status, content
            time.sleep(0.05)

    def json(self, path: str) -> Any:
        """Return an answer that has to succeed."""
        status, content = self.get(path)
        if status != 200:
            raise RuntimeError(f"{path}: {status} {content[:300]!r}")
        return json.loads(content)


@contextmanager
def serving(database: Path, *, wide: bool = True, page: Path | None = None) -> Iterator[Running]:
    """Serve a database in another process until the block ends."""
    with Worker(Path(__file__)) as worker:
        started = worker.ask("serve", database=str(database), page=str(page or ""), wide=wide)
        yield Running(started["url"], worker.pid)


def _answer() -> None:
    """Serve what a :class:`Worker` asks for, until it is gone."""
    from semlens.web.page_build import STATIC
    from semlens.web.serve import make_server

    with ExitStack() as running:

        def start(database: str, page: str, wide: bool) -> dict[str, Any]:
            from web_inputs import WideDemo

            db = sl.open(database, embedder=WideDemo() if wide else None)
            server = make_server([db], static=Path(page) if page else STATIC)
            running.enter_context(server).start()
            return {"url": server.url}

        serve({"serve": start})


if __name__ == "__main__":
    _answer()
