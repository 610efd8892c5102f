"""The server under load and attack: its memory, its errors, and a database that is replaced.

    python benchmarks/web_load.py                     # about a quarter of an hour
    python benchmarks/web_load.py --parts replaced --json
    python benchmarks/web_load.py --quick

Parts: ``mixed`` (10,000 valid, wrong and hostile requests of one client: memory after each
thousand), ``clients`` (50 clients for ten minutes, while slow connections are held open), and
``replaced`` (the database is deleted, and replaced by another build, while it is served). Every
answer must be a result, or an error of the client's with its three parts.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import random
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from harness import command, log
from PIL import Image
from web_inputs import database
from web_parts import WORDS, crowd
from web_server import API, Client, RunningServer, serving

PARTS = ("mixed", "clients", "replaced")
OPTIONS: dict[str, dict[str, Any]] = {
    "--parts": {"nargs": "+", "choices": PARTS, "default": list(PARTS)},
    "--minutes": {"type": float, "default": 10.0, "help": "duration of the part clients"},
}
SLOW_CONNECTIONS = 100
GROWTH = 0.05
"""Share of the memory after the first half that may be added in the second."""
Request = tuple[str, str, bytes | None, str]
"""Method, path, body and its content type."""


def picture(rng: random.Random) -> bytes:
    """Return a small PNG of one random colour."""
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), tuple(rng.randrange(256) for _ in range(3))).save(stream, "PNG")
    return stream.getvalue()


def requests(layers: list[dict[str, Any]], count: int, seed: int) -> Iterator[Request]:
    """Yield requests of all kinds: two of three are valid, the others are wrong or hostile."""
    rng = random.Random(seed)  # noqa: S311  # no secret
    as_json, as_image = "application/json", "image/png"
    for number in range(count):
        layer = rng.choice(layers)
        name = f"{layer['name']}:{rng.randrange(layer['channels'])}"
        one, word = f"/components/{quote(name)}", f"{rng.choice(WORDS)} {number}"
        body = json.dumps({"like": [name], "q": [word], "k": 8}).encode()
        kinds: list[Request] = [
            ("GET", f"/search?q={quote(word)}&k=8", None, ""),
            ("GET", f"{one}/strip.webp", None, ""),
            ("GET", f"{one}/crops/0.webp", None, ""),
            ("GET", f"{one}/neighbours", None, ""),
            ("GET", f"/components?k=50&cursor={rng.randrange(100)}", None, ""),
            ("POST", "/search/components", body, as_json),
            ("POST", "/search/image?k=8", picture(rng), as_image),
            ("GET", "", None, ""),
            ("GET", f"{one}{'9' * 4000}", None, ""),
            ("POST", "/search/components", b"[" * 100_000, as_json),
            ("POST", "/search/image", b"x" * 5000, as_image),
            ("POST", "/audits", b'{"target": true}', as_json),
            ("POST", "/audits", b" " * 3_000_000, as_json),
            ("GET", f"/search?q={'x' * 3000}", None, ""),
            ("GET", "/..%2f..%2fetc/passwd", None, ""),
            ("GET", f"/explanations/{rng.randrange(10**9)}", None, ""),
        ]
        weights = [4] * 8 + [2] * 8
        yield rng.choices(kinds, weights)[0]


class Asker:
    """One persistent connection that counts the answers by kind."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        self._connection = http.client.HTTPConnection(self._host, timeout=60)
        self.answers: Counter[str] = Counter()

    def ask(self, request: Request) -> str:
        """Send a request and return what kind of answer came."""
        method, path, body, kind = request
        headers = {"content-type": kind} if body is not None else {}
        try:
            self._connection.request(method, API + path, body, headers)
            answer = self._connection.getresponse()
            found = _kind(answer.status, answer.getheader("content-type") or "", answer.read())
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            found = f"WRONG: {type(error).__name__}"
        self.answers[found] += 1
        return found


def _kind(status: int, content_type: str, content: bytes) -> str:
    if status < 400:
        return "result"
    with suppress(ValueError):
        error = json.loads(content)
        if status < 500 and all(error.get(part) for part in ("value", "expected", "remedy")):
            return f"refused {status}"
    return f"WRONG: {status} {content_type}"


def mixed(work: Path, page: Path, quick: bool) -> dict[str, Any]:
    """Send requests of all kinds, and read the memory of the server now and then."""
    count = 200 if quick else 10_000
    step = count // 10
    with serving(_database(work, quick), page=page) as server:
        layers = Client(server.url).json("")["layers"]
        client, memory, start = Asker(server.url), [server.memory()["rss"]], time.perf_counter()
        for number, request in enumerate(requests(layers, count, 0), start=1):
            client.ask(request)
            if number % step == 0:
                memory.append(server.memory()["rss"])
        seconds = time.perf_counter() - start
    half, last = memory[len(memory) // 2], memory[-1]
    return {
        "requests": count,
        "requests_per_s": count / seconds,
        "answers": dict(sorted(client.answers.items())),
        "rss_mib": [round(value, 1) for value in memory],
        "grown_in_second_half": last / half - 1,
        "flat": last / half - 1 <= GROWTH,
    }


@contextmanager
def slow_connections(server: RunningServer, count: int) -> Iterator[list[socket.socket]]:
    """Hold connections open that send a byte of a header now and then; lost ones are replaced."""
    address = urlsplit(server.url)
    stop = threading.Event()
    opened: list[socket.socket] = []

    def hold() -> None:
        current: list[socket.socket] = []
        while not stop.wait(0.2):
            while len(current) < count:
                one = socket.create_connection((address.hostname, address.port), timeout=5)
                one.sendall(b"GET / HTTP/1.1\r\nX: ")
                one.setblocking(False)
                current.append(one)
                opened.append(one)
            for one in list(current):
                try:
                    one.send(b"x")
                except OSError:
                    one.close()
                    current.remove(one)
        for one in current:
            one.close()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield opened
    finally:
        stop.set()
        thread.join()


def clients(work: Path, page: Path, quick: bool, minutes: float) -> dict[str, Any]:
    """Let 50 clients browse while slow connections are held open."""
    count, seconds, slow = (4, 2.0, 5) if quick else (50, 60 * minutes, SLOW_CONNECTIONS)
    with serving(_database(work, quick), page=page) as server:
        Client(server.url).json("/search?q=anything")
        memory = [server.memory()["rss"]]
        with slow_connections(server, slow) as opened:
            first = crowd(server, count, seconds / 2, 1.0)
            memory.append(server.memory()["rss"])
            second = crowd(server, count, seconds / 2, 1.0)
            memory.append(server.memory()["rss"])
    return {
        "clients": count,
        "seconds": seconds,
        "slow_connections": slow,
        "slow_connections_ended": len(opened) - slow,
        "requests": first["requests"] + second["requests"],
        "errors": first["errors"] + second["errors"],
        "which_errors": {**first["which_errors"], **second["which_errors"]},
        "median_ms": second["median_ms"],
        "p95_ms": second["p95_ms"],
        "rss_mib": [round(value, 1) for value in memory],
        "grown_in_second_half": memory[2] / memory[1] - 1,
    }


def replaced(work: Path, page: Path, quick: bool) -> dict[str, Any]:
    """Delete a database, and replace it by another build, while clients ask about it."""
    other = database(work, 400, 100, True)

    def delete(path: Path) -> None:
        while path.exists():  # the server may write a cached result meanwhile
            shutil.rmtree(path, ignore_errors=True)

    def replace(path: Path) -> None:
        delete(path)
        shutil.copytree(other, path)

    def replace_by_renaming(path: Path) -> None:
        new = shutil.copytree(other, path.with_suffix(".new"))
        path.rename(path.with_suffix(".old"))
        new.rename(path)

    changes = (delete, replace, replace_by_renaming)
    return {change.__name__: _while_served(work, page, change, quick) for change in changes}


def _while_served(
    work: Path, page: Path, change: Callable[[Path], None], quick: bool
) -> dict[str, Any]:
    """Return the answers before and after a change of the served database, by kind."""
    folder = work / f"served-{change.__name__}"
    shutil.rmtree(folder, ignore_errors=True)
    path = shutil.copytree(database(work, 200, 400, True), folder / "db.semlens")
    with serving(path, page=page) as server:
        layers = Client(server.url).json("")["layers"]
        after = Asker(server.url)
        changed = threading.Event()

        def browse(seed: int) -> Counter[str]:
            client = Asker(server.url)
            for request in requests(layers, 10**9, seed):
                client.ask(request)
                if changed.is_set():
                    return client.answers
            return client.answers

        threads, during = list[threading.Thread](), Counter[str]()
        for seed in range(2 if quick else 8):
            threads.append(threading.Thread(target=lambda s=seed: during.update(browse(s))))
            threads[-1].start()
        time.sleep(0.5 if quick else 5)
        change(path)
        time.sleep(0.5 if quick else 5)
        changed.set()
        for thread in threads:
            thread.join()
        for _ in range(20):
            after.ask(("GET", "/search?q=dog", None, ""))
    shutil.rmtree(folder, ignore_errors=True)
    answers = during + after.answers
    return {
        "requests": answers.total(),
        "while_it_changed": dict(sorted(during.items())),
        "afterwards": dict(after.answers),
        "wrong": sum(count for kind, count in answers.items() if kind.startswith("WRONG")),
    }


def _database(work: Path, quick: bool) -> Path:
    return database(work, 200 if quick else 5000, 400 if quick else 5000, quick)


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure the parts in sequence."""
    page = work / "page"
    page.mkdir(exist_ok=True)
    (page / "index.html").write_text("<!doctype html><title>semlens</title>", "utf-8")
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "mixed": lambda: mixed(work, page, options.quick),
        "clients": lambda: clients(work, page, options.quick, options.minutes),
        "replaced": lambda: replaced(work, page, options.quick),
    }
    result: dict[str, Any] = {}
    for part in options.parts:
        result[part] = measures[part]()
        log(f"{part} {json.dumps(result[part])}")
    return result


def show(result: dict[str, Any]) -> None:
    """Print the result of every part."""
    for name, values in result.items():
        print(name, json.dumps(values, indent=2))


if __name__ == "__main__":
    command(__doc__, measure, show, OPTIONS)
