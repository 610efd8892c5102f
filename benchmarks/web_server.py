"""A server of its own for benchmarks/web.py; run as a script it is that server."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

API = "/api/v1/models/0"


@dataclass(frozen=True)
class Running:
    """A server in another process."""

    url: str
    process: int

    def memory(self) -> dict[str, float]:
        """Return its memory in MiB: all that is resident, and what of it is not mapped files."""
        text = Path(f"/proc/{self.process}/status").read_text("utf-8")
        lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return {
            "rss": int(lines["VmRSS"].split()[0]) / 1024,
            "anonymous": int(lines["RssAnon"].split()[0]) / 1024,
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
    command = [sys.executable, __file__, str(database), str(page or ""), "wide" if wide else ""]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    )  # fmt: skip
    assert process.stdout is not None and process.stdin is not None  # noqa: S101
    try:
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"the server of '{database}' did not start")
        yield Running(url, process.pid)
    finally:
        process.stdin.close()  # which ends it
        process.wait(30)


def _serve(database: str, page: str, wide: str) -> None:
    from semlens.web.built import STATIC
    from semlens.web.serve import make_server

    embedder = None
    if wide:
        from web_inputs import WideDemo

        embedder = WideDemo()
    folder = Path(page) if page else STATIC
    with make_server([database], embedder=embedder, static=folder) as server:
        server.start()
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _serve(*sys.argv[1:4])
