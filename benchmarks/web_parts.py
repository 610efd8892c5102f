"""What benchmarks/web.py measures over HTTP: search, memory, many clients, the page's weight."""

from __future__ import annotations

import gzip
import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
from harness import Clock
from web_inputs import database
from web_server import Client, Running, serving

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
    """Time text queries, none of which was asked before, one after the other."""
    path = database(work, components, 400 if quick else 50_000, quick)
    with serving(path, page=page) as server:
        client = Client(server.url)
        with Clock() as first:
            client.json("/search?q=anything")
        taken, similarity, searched = list[float](), list[float](), 0
        for number in range(10 if quick else 60):
            text = f"{WORDS[number % len(WORDS)]} {number}"
            with Clock() as clock:
                searched = client.json("/search?" + urlencode({"q": text}))["searched"]
            taken.append(clock.seconds)
        for number in range(3 if quick else 20):
            text = f"{WORDS[number % len(WORDS)]} {number}"
            with Clock() as clock:
                client.get("/similarity?" + urlencode({"q": text}))
            similarity.append(clock.seconds)
        return {
            "components": searched,
            "first_ms": first.seconds * 1000,
            **in_milliseconds(taken),
            "similarity_of_all": in_milliseconds(similarity),
            "server_mib": server.memory(),
        }


def look_around(server: Running, components: int, rounds: int, seed: int) -> None:
    """Look at components all over the database: their strips and first examples, and search."""
    client, rng = Client(server.url), random.Random(seed)  # noqa: S311  # no secret
    layers = client.json("")["layers"]
    for number in range(rounds):
        layer = rng.choice(layers)
        place = "/components/" + quote(f"{layer['name']}:{rng.randrange(layer['channels'])}")
        for path in ("/strip.webp", "/crops/0.webp", "/crops/1.webp?view=masked"):
            status, _ = client.get(place + path)
            if status != 200:
                raise RuntimeError(f"{place}{path}: {status}")
        if number % 20 == 0:
            client.json("/search?" + urlencode({"q": f"{WORDS[number % len(WORDS)]} {number}"}))


def memory(work: Path, page: Path, quick: bool) -> dict[str, Any]:
    """Compare servers of equally many components with few and with many example images."""
    components, few, many = (200, 100, 1000) if quick else (5000, 1000, 100_000)
    rounds = 30 if quick else 1500
    found: dict[str, Any] = {"components": components, "components_looked_at": rounds}
    for images in (few, many):
        with serving(database(work, components, images, quick), page=page) as server:
            Client(server.url).json("/search?q=anything")
            before = server.memory()
            look_around(server, components, rounds, images)
            found[f"images_{images}"] = {"started": before, "used": server.memory()}
    used = [found[f"images_{images}"]["used"]["rss"] for images in (few, many)]
    found["many_over_few"] = used[1] / used[0]
    return found


@dataclass
class _Told:
    """What the clients have met so far."""

    taken: dict[str, list[float]] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, kind: str, seconds: float, error: str | None) -> None:
        with self.lock:
            self.taken.setdefault(kind, []).append(seconds)
            if error is not None:
                self.errors[f"{kind}: {error}"] += 1


def clients(work: Path, page: Path, quick: bool) -> dict[str, Any]:
    """Let 50 clients search and look at pictures, with pauses as people make and without."""
    components = 200 if quick else 20_000
    path = database(work, components, 400 if quick else 50_000, quick)
    count, seconds = (4, 2.0) if quick else (50, 60.0)
    found: dict[str, Any] = {"components": components, "clients": count, "seconds": seconds}
    with serving(path, page=page) as server:
        Client(server.url).json("/search?q=anything")
        for name, pause in (("people", 2.0), ("no_pause", 0.0)):
            found[name] = _crowd(server, count, seconds, pause)
        found["server_mib"] = server.memory()
    return found


def _crowd(server: Running, count: int, seconds: float, pause: float) -> dict[str, Any]:
    told, end = _Told(), time.perf_counter() + seconds
    threads = [
        threading.Thread(target=_visit, args=(server, number, end, pause, told))
        for number in range(count)
    ]
    with Clock() as clock:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    every = [value for values in told.taken.values() for value in values]
    return {
        "pause_s": pause,
        "requests": len(every),
        "errors": sum(told.errors.values()),
        "which_errors": dict(told.errors.most_common(5)),
        "requests_per_s": len(every) / clock.seconds,
        **in_milliseconds(every),
        "by_kind": {kind: in_milliseconds(values) for kind, values in told.taken.items()},
    }


def _visit(server: Running, seed: int, end: float, pause: float, told: _Told) -> None:
    """Search, look at the strips of what was found, open one of them, and think."""
    rng, client = random.Random(seed), Client(server.url)  # noqa: S311  # no secret

    def ask(kind: str, path: str) -> bytes:
        with Clock() as clock:
            try:
                status, content = client.get(path)
                error = None if status == 200 else str(status)
            except OSError as fault:
                content, error = b"{}", type(fault).__name__
        told.tell(kind, clock.seconds, error)
        return content

    time.sleep(rng.random() * pause)
    while time.perf_counter() < end:
        text = f"{rng.choice(WORDS)} {rng.randrange(10**6)}"
        hits = _hits(ask("search", "/search?" + urlencode({"q": text, "k": 8})))
        for hit in hits:
            ask("strip", f"/components/{quote(hit['component'])}/strip.webp")
        if hits:
            hit = rng.choice(hits)
            place = f"/components/{quote(hit['component'])}"
            for number in range(4):
                ask("crop", f"{place}/crops/{number}.webp")
        time.sleep(pause * (0.5 + rng.random()))


def _hits(content: bytes) -> list[dict[str, Any]]:
    return json.loads(content).get("hits", [])


def weight(static: Path) -> dict[str, Any]:
    """Return the size of what the page loads, packed as it travels."""
    files = sorted(static.glob("*.js")) + sorted(static.glob("*.css"))
    packed = {file.name: len(gzip.compress(file.read_bytes())) / 1024 for file in files}
    return {
        "js_gzip_kib": sum(size for name, size in packed.items() if name.endswith(".js")),
        "files_gzip_kib": packed,
    }
