"""The server under load and attack: its memory, its errors, and a database that is replaced.

    python benchmarks/web_load.py                     # about half an hour
    python benchmarks/web_load.py --parts replaced --json
    python benchmarks/web_load.py --quick

Parts: ``mixed`` (10,000 valid, wrong and hostile requests of one client: memory after each
thousand), ``clients`` (50 clients for ten minutes, while slow connections are held open),
``uploads`` (500 large images at once), and ``replaced`` (the database is deleted, and replaced by
another build, while it is served). Every answer must be a result, or an error of the client's with
its three parts; of the uploads also a 503.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from harness import command, log
from PIL import Image
from web_inputs import database
from web_parts import crowd
from web_requests import Asker, picture, requests
from web_server import Client, RunningServer, serving

PARTS = ("mixed", "clients", "uploads", "replaced")
OPTIONS: dict[str, dict[str, Any]] = {
    "--parts": {"nargs": "+", "choices": PARTS, "default": list(PARTS)},
    "--minutes": {"type": float, "default": 10.0, "help": "duration of the part clients"},
}
SLOW_CONNECTIONS = 100
GROWTH = 0.05
"""Share of the memory after the first half that may be added in the second."""


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
                log(f"{number} requests, {memory[-1]:.0f} MiB, {time.perf_counter() - start:.0f} s")
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


def uploads(work: Path, page: Path, quick: bool) -> dict[str, Any]:
    """Send many large images at the same time, in turn to be searched for and to be explained."""
    count, side = (20, 500) if quick else (500, 4000)
    noise = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize((side, side)).save(stream, "PNG")
    body, together = stream.getvalue(), threading.Barrier(count)
    routes = ("/search/image?k=8", "/explanations/image")
    with serving(_database(work, quick), page=page) as server:
        Asker(server.url).ask(("POST", routes[0], picture(random.Random(0)), "image/png"))  # noqa: S311
        before = server.memory()["rss"]
        askers = [Asker(server.url) for _ in range(count)]

        def send(number: int) -> None:
            together.wait()
            askers[number].ask(("POST", routes[number % 2], body, "image/png"))

        threads = [threading.Thread(target=send, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        peaks = [before]
        while any(thread.is_alive() for thread in threads):
            peaks.append(server.memory()["rss"])
            time.sleep(0.05)
        after = Asker(server.url)
        for route in routes:
            after.ask(("POST", route, body, "image/png"))
        memory = server.memory()["rss"]
    return {
        "uploads": count,
        "mb_each": len(body) / 1e6,
        "answers": dict(sorted(sum((a.answers for a in askers), Counter[str]()).items())),
        "afterwards": dict(after.answers),
        "rss_mib": {"before": before, "most": max(peaks), "afterwards": memory},
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
        "uploads": lambda: uploads(work, page, options.quick),
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
