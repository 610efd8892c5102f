"""Server process and client of the web benchmarks; as a script, the server itself."""

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

import semlens as sl
from benchmarks.harness import Worker, memory_mib, serve

API = "/api/v1/models/0"


@dataclass(frozen=True)
class RunningServer:
    """A server in another process."""

    url: str
    process: int

    def memory(self) -> dict[str, float]:
        """Return the resident memory in MiB, total and without mapped files."""
        return {
            "rss": memory_mib("VmRSS", self.process),
            "anonymous": memory_mib("RssAnon", self.process),
        }


class Client:
    """One persistent connection, like that of a browser."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        self._connection = http.client.HTTPConnection(self._host, timeout=600)

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body, after waiting for a background job."""
        while True:
            self._connection.request("GET", API + path)
            answer = self._connection.getresponse()
            content = answer.read()
            if answer.status != 202:
                return answer.status, content
            time.sleep(0.05)

    def json(self, path: str) -> Any:
        """Return the JSON of an answer, which must succeed."""
        status, content = self.get(path)
        if status != 200:
            raise RuntimeError(f"{path}: {status} {content[:300]!r}")
        return json.loads(content)


@contextmanager
def serving(
    database: Path, *, wide: bool = True, page: Path | None = None
) -> Iterator[RunningServer]:
    """Serve a database in another process until the block ends."""
    with Worker("benchmarks.cases.web.server") as worker:
        started = worker.ask("serve", database=str(database), page=str(page or ""), wide=wide)
        yield RunningServer(started["url"], worker.pid)


def _serve_requests() -> None:
    """Serve databases on request of a :class:`Worker` until it closes."""
    from semlens.web.page_build import STATIC
    from semlens.web.serve import make_server

    with ExitStack() as stack:

        def start(database: str, page: str, wide: bool) -> dict[str, Any]:
            from benchmarks.worlds.served import WideDemo

            db = sl.open(database, embedder=WideDemo() if wide else None)
            server = make_server([db], static=Path(page) if page else STATIC)
            stack.enter_context(server).start()
            return {"url": server.url}

        serve({"serve": start})


if __name__ == "__main__":
    _serve_requests()
