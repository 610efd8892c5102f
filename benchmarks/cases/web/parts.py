"""Server processes and clients of the web benchmarks."""

from __future__ import annotations

import gzip
import http.client
import json
import multiprocessing
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np

import semlens as sl
from benchmarks.harness import Clock, memory_mib
from benchmarks.worlds.served import WideDemo, database

API = "/api/v1/models/0"
PROCESSES = multiprocessing.get_context("forkserver")
"""Servers are forks of a process that has imported the libraries, and has done nothing else."""
PROCESSES.set_forkserver_preload([__name__, "semlens.web.serve"])


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
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_serve, args=(there, database, wide, page))
    process.start()
    there.close()
    try:
        yield RunningServer(here.recv(), int(process.pid or 0))
    finally:
        here.close()
        process.join()


def _serve(there: Connection, database: Path, wide: bool, page: Path | None) -> None:
    """Serve a database, send its address, and end when the other side closes."""
    from semlens.web.page_build import STATIC
    from semlens.web.serve import make_server

    os.dup2(2, 1)  # standard output is for results
    db = sl.open(database, embedder=WideDemo() if wide else None)
    with make_server([db], static=page or STATIC) as server:
        server.start()
        there.send(server.url)
        with suppress(EOFError):
            there.recv()


WORDS = (
    "dog", "stripes", "watermark", "red flower", "a wooden table", "wheel", "sky", "fur",
    "text", "water", "grass", "metal", "eyes", "window", "bird", "leaf", "hand", "snow",
)  # fmt: skip


def in_milliseconds(seconds: list[float]) -> dict[str, float]:
    """Return median, 95th percentile and maximum."""
    values = np.array(seconds) * 1000
    return {
        "median_ms": float(np.median(values)),
        "p95_ms": float(np.percentile(values, 95)),
        "max_ms": float(values.max()),
    }


def search_latency(work: Path, page: Path, components: int, quick: bool) -> dict[str, Any]:
    """Time text queries in sequence, none of them cached."""
    path = database(work, components, 400 if quick else 50_000, quick)
    with serving(path, page=page) as server:
        client = Client(server.url)
        with Clock() as first:
            client.json("/search?q=anything")
        times, similarity, searched = list[float](), list[float](), 0
        for number in range(10 if quick else 60):
            text = f"{WORDS[number % len(WORDS)]} {number}"
            with Clock() as clock:
                searched = client.json("/search?" + urlencode({"q": text}))["searched"]
            times.append(clock.seconds)
        for number in range(3 if quick else 20):
            text = f"{WORDS[number % len(WORDS)]} {number}"
            with Clock() as clock:
                client.get("/similarity?" + urlencode({"q": text}))
            similarity.append(clock.seconds)
        return {
            "components": searched,
            "first_ms": first.seconds * 1000,
            **in_milliseconds(times),
            "similarity_of_all": in_milliseconds(similarity),
            "server_mib": server.memory(),
        }


def browse(server: RunningServer, components: int, rounds: int, seed: int) -> None:
    """Browse random components, with their strips and first examples, and search."""
    client, rng = Client(server.url), random.Random(seed)  # noqa: S311  # no secret
    layers = client.json("")["layers"]
    for number in range(rounds):
        layer = rng.choice(layers)
        url = "/components/" + quote(f"{layer['name']}:{rng.randrange(layer['channels'])}")
        for path in ("/strip.webp", "/crops/0.webp", "/crops/1.webp"):
            status, _ = client.get(url + path)
            if status != 200:
                raise RuntimeError(f"{url}{path}: {status}")
        if number % 20 == 0:
            client.json("/search?" + urlencode({"q": f"{WORDS[number % len(WORDS)]} {number}"}))


def memory(work: Path, page: Path, quick: bool) -> dict[str, Any]:
    """Compare servers of the same number of components, with few and with many images."""
    components, few, many = (200, 100, 1000) if quick else (5000, 1000, 100_000)
    rounds = 30 if quick else 1500
    result: dict[str, Any] = {"components": components, "components_looked_at": rounds}
    for images in (few, many):
        with serving(database(work, components, images, quick), page=page) as server:
            Client(server.url).json("/search?q=anything")
            before = server.memory()
            browse(server, components, rounds, images)
            result[f"images_{images}"] = {"started": before, "used": server.memory()}
    used = [result[f"images_{images}"]["used"]["rss"] for images in (few, many)]
    result["many_over_few"] = used[1] / used[0]
    return result


@dataclass
class _Log:
    """Response times and errors of all clients."""

    times: dict[str, list[float]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, seconds: float, error: str | None) -> None:
        with self.lock:
            self.times.setdefault(kind, []).append(seconds)
            if error is not None:
                self.errors[f"{kind}: {error}"] += 1


def clients(work: Path, page: Path, quick: bool) -> dict[str, Any]:
    """Let 50 clients search and load images, with pauses like people and without."""
    components = 200 if quick else 20_000
    path = database(work, components, 400 if quick else 50_000, quick)
    count, seconds = (4, 2.0) if quick else (50, 60.0)
    result: dict[str, Any] = {"components": components, "clients": count, "seconds": seconds}
    with serving(path, page=page) as server:
        Client(server.url).json("/search?q=anything")
        for name, pause in (("people", 2.0), ("no_pause", 0.0)):
            result[name] = crowd(server, count, seconds, pause)
        result["server_mib"] = server.memory()
    return result


def crowd(server: RunningServer, count: int, seconds: float, pause: float) -> dict[str, Any]:
    """Let clients search and load images; return times and errors."""
    log, end = _Log(), time.perf_counter() + seconds
    threads = [
        threading.Thread(target=_visit, args=(server, number, end, pause, log))
        for number in range(count)
    ]
    with Clock() as clock:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    all_times = [value for values in log.times.values() for value in values]
    return {
        "pause_s": pause,
        "requests": len(all_times),
        "errors": sum(log.errors.values()),
        "which_errors": dict(log.errors.most_common(5)),
        "requests_per_s": len(all_times) / clock.seconds,
        **in_milliseconds(all_times),
        "by_kind": {kind: in_milliseconds(values) for kind, values in log.times.items()},
    }


def _visit(server: RunningServer, seed: int, end: float, pause: float, log: _Log) -> None:
    """Search, load the strips of the hits, open one of them, and pause."""
    rng, client = random.Random(seed), Client(server.url)  # noqa: S311  # no secret

    def ask(kind: str, path: str) -> bytes:
        with Clock() as clock:
            try:
                status, content = client.get(path)
                error = None if status == 200 else str(status)
            except OSError as exception:
                content, error = b"{}", type(exception).__name__
        log.add(kind, clock.seconds, error)
        return content

    time.sleep(rng.random() * pause)
    while time.perf_counter() < end:
        text = f"{rng.choice(WORDS)} {rng.randrange(10**6)}"
        hits = _hits(ask("search", "/search?" + urlencode({"q": text, "k": 8})))
        for hit in hits:
            ask("strip", f"/components/{quote(hit['component'])}/strip.webp")
        if hits:
            hit = rng.choice(hits)
            url = f"/components/{quote(hit['component'])}"
            for number in range(4):
                ask("crop", f"{url}/crops/{number}.webp")
        time.sleep(pause * (0.5 + rng.random()))


def _hits(content: bytes) -> list[dict[str, Any]]:
    return json.loads(content).get("hits", [])


def empty_page(work: Path) -> Path:
    """Write a page of which only the server is measured, in the place of the built one."""
    page = work / "page"
    page.mkdir(exist_ok=True)
    (page / "index.html").write_text("<!doctype html><title>semlens</title>", "utf-8")
    return page


def page_size(static: Path) -> dict[str, Any]:
    """Return the compressed size of the files that the page loads."""
    files = sorted(static.glob("*.js")) + sorted(static.glob("*.css"))
    compressed = {file.name: len(gzip.compress(file.read_bytes())) / 1024 for file in files}
    return {
        "js_gzip_kib": sum(size for name, size in compressed.items() if name.endswith(".js")),
        "files_gzip_kib": compressed,
    }
