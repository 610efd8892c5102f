"""The server under load and attack: its memory, its errors, and a database that is replaced.

    python -m benchmarks web_load --work FOLDER --record # half an hour
    python -m benchmarks web_load --parts replaced --json

Parts that were measured at this commit, in the same FOLDER, are not measured again.

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
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from benchmarks.cases.web.parts import Client, RunningServer, crowd, empty_page, serving
from benchmarks.cases.web_load.requests import PNG, Asker, get, load_tables, picture, post, requests
from benchmarks.harness import benchmark, log
from benchmarks.harness.results import PartResults, together
from benchmarks.worlds.served import database

CODE = ("src", "benchmarks/cases/web*")
"""What is measured."""
SLOW_CONNECTIONS = 100
GROWTH = 0.05
"""Share of the memory after the first half that may be added in the second."""


def mixed(work: Path, page: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Send requests of all kinds, and read the memory of the server now and then."""
    total = 200 if options.quick else options.requests
    step = total // 10
    with serving(_database(work, options.quick), page=page) as server:
        layers = Client(server.url).json("")["layers"]
        client, memory, start = Asker(server.url), [server.memory()["rss"]], time.perf_counter()
        for number, (name, request) in enumerate(islice(requests(layers, 0), total), start=1):
            client.ask(request, name)
            if number % step == 0:
                memory.append(server.memory()["rss"])
                log(f"{number} requests, {memory[-1]:.0f} MiB, {time.perf_counter() - start:.0f} s")
        seconds = time.perf_counter() - start
    return {
        "answers": dict(sorted(client.answers.items())),
        "requests_per_s": total / seconds,
        "times": client.times(),
        **_memory(memory),
    }


def _memory(values: list[float]) -> dict[str, Any]:
    """Describe readings of the server's memory at equal distances."""
    growth = values[-1] / values[len(values) // 2] - 1
    return {
        "rss_mib": [round(value, 1) for value in values],
        "grown_in_second_half": growth,
        "flat": growth <= GROWTH,
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


def clients(work: Path, page: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Let 50 clients browse while slow connections are held open."""
    count, seconds, slow = 50, 60 * options.minutes, SLOW_CONNECTIONS
    if options.quick:
        count, seconds, slow = 4, 2.0, 5
    with serving(_database(work, options.quick), page=page) as server:
        Client(server.url).json("/search?q=anything")
        memory = [server.memory()["rss"]]
        with slow_connections(server, slow) as opened:
            first = crowd(server, count, seconds / 2, 1.0)
            memory.append(server.memory()["rss"])
            second = crowd(server, count, seconds / 2, 1.0)
            memory.append(server.memory()["rss"])
    requests = first["requests"] + second["requests"]
    errors = Counter(first["which_errors"]) + Counter(second["which_errors"])
    return {
        "clients": count,
        "seconds": seconds,
        "slow_connections": slow,
        "slow_connections_ended": len(opened) - slow,
        "answers": {
            "result": requests - first["errors"] - second["errors"],
            **{f"WRONG: {error}": number for error, number in errors.items()},
        },
        "median_ms": second["median_ms"],
        "p95_ms": second["p95_ms"],
        **_memory(memory),
    }


def uploads(work: Path, page: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Send many large images at the same time, in turn to be searched for and to be explained."""
    count, side = (20, 500) if options.quick else (500, 4000)
    noise = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize((side, side)).save(stream, "JPEG", quality=90)
    body, together = stream.getvalue(), threading.Barrier(count)
    routes = ("/search/image?k=8", "/explanations/image")
    with serving(_database(work, options.quick), page=page) as server:
        Asker(server.url).ask(post(routes[0], picture((1, 2, 3)), PNG))
        before = server.memory()["rss"]
        askers = [Asker(server.url, timeout=280) for _ in range(count)]

        def send(number: int) -> None:
            together.wait()
            askers[number].ask(post(routes[number % 2], body, "image/jpeg"))

        threads = [threading.Thread(target=send, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        peaks = [before]
        while any(thread.is_alive() for thread in threads):
            peaks.append(server.memory()["rss"])
            time.sleep(0.05)
        for asker in askers:
            asker.close()
        after = Asker(server.url)
        for route in routes:
            after.ask(post(route, body, "image/jpeg"))
        memory = server.memory()["rss"]
    return {
        "mb_each": len(body) / 1e6,
        "answers": dict(sorted(sum((a.answers for a in askers), Counter[str]()).items())),
        "afterwards": dict(after.answers),
        "rss_mib": {"before": before, "most": max(peaks), "afterwards": memory},
    }


def replaced(work: Path, page: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Delete a database, and replace it by another build, while clients ask about it."""
    other = database(work, 400, 100, True)

    def delete(path: Path) -> None:
        while path.exists():  # the server may write a cached result meanwhile
            shutil.rmtree(path, ignore_errors=True)

    def replace(path: Path) -> None:
        delete(path)
        shutil.copytree(other, path)

    def rename(path: Path) -> None:
        new = shutil.copytree(other, path.with_suffix(".new"))
        path.rename(path.with_suffix(".old"))
        new.rename(path)

    changes = {"deleted": delete, "replaced": replace, "replaced by renaming": rename}
    return {
        name: _while_served(work, page, change, options.quick) for name, change in changes.items()
    }


def _while_served(
    work: Path, page: Path, change: Callable[[Path], None], quick: bool
) -> dict[str, Any]:
    """Return the answers before and after a change of the served database, by kind."""
    folder, count, enough = work / "served", 2 if quick else 8, 20 if quick else 400
    shutil.rmtree(folder, ignore_errors=True)
    path = shutil.copytree(database(work, 200, 400, True), folder / "db.semlens")
    with serving(path, page=page) as server:
        layers = Client(server.url).json("")["layers"]
        askers, stop = [Asker(server.url) for _ in range(count)], threading.Event()

        def browse(number: int) -> None:
            for name, request in requests(layers, number):
                askers[number].ask(request, name)
                if stop.is_set():
                    return

        def answered(least: int) -> Counter[str]:
            while (found := sum((a.answers for a in askers), Counter[str]())).total() < least:
                time.sleep(0.1)
            return found

        threads = [threading.Thread(target=browse, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        before = answered(enough)
        change(path)
        answered(before.total() + enough)
        stop.set()
        for thread in threads:
            thread.join()
        after = Asker(server.url)
        for _ in range(20):
            after.ask(get("/search?q=dog"))
    shutil.rmtree(folder, ignore_errors=True)
    during = sum((asker.answers for asker in askers), Counter[str]()) - before
    return {
        "before": dict(sorted(before.items())),
        "answers": dict(sorted(during.items())),
        "afterwards": dict(after.answers),
    }


def _database(work: Path, quick: bool) -> Path:
    return database(work, 200 if quick else 5000, 400 if quick else 5000, quick)


PARTS = {"mixed": mixed, "clients": clients, "uploads": uploads, "replaced": replaced}


@benchmark(
    minutes=30,
    quoted=("docs/reliability.md",),
    options={
        "--parts": {"nargs": "+", "choices": list(PARTS), "help": "only these parts"},
        "--requests": {"type": int, "default": 10_000, "help": "of the part mixed"},
        "--minutes": {"type": float, "default": 10.0, "help": "duration of the part clients"},
    },
)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure the parts that were not measured at this commit, in sequence."""
    page = empty_page(work)
    chosen = options.parts or list(PARTS)
    settings = {name: getattr(options, name) for name in ("quick", "minutes", "requests")}
    results = PartResults(work / "results", settings, CODE)
    for part in chosen:
        if not results.has(part):
            begin = time.monotonic()
            values = PARTS[part](work, page, options)
            results.save(part, round(time.monotonic() - begin, 1), values)
            log(f"{part} {json.dumps(values)}")
    found = results.of(list(PARTS) if options.record else chosen)
    return {**together(found), **{one.part: one.values for one in found}}


def tables(result: dict[str, Any]) -> dict[str, str]:
    """Return the tables of the documentation."""
    return {"load": load_tables({part: result[part] for part in PARTS if part in result})}
