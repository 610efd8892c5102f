"""Requests of all kinds to a server, what kind of answers come, and tables of these."""

from __future__ import annotations

import http.client
import io
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import quote, urlsplit

from PIL import Image

from benchmarks.cases.web.parts import API, WORDS, in_milliseconds
from benchmarks.harness import table

JSON, PNG = "application/json", "image/png"


@dataclass(frozen=True)
class Request:
    """A request to the server, below the address of the first model."""

    path: str
    method: str = "GET"
    body: bytes | None = None
    content_type: str = ""


def get(path: str) -> Request:
    """Return a request without a body."""
    return Request(path)


def post(path: str, body: bytes, content_type: str = JSON) -> Request:
    """Return a request with a body."""
    return Request(path, "POST", body, content_type)


def picture(colour: tuple[int, int, int]) -> bytes:
    """Return a small PNG of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(stream, "PNG")
    return stream.getvalue()


BRACKETS, SPACES, LETTERS = b"[" * 100_000, b" " * 3_000_000, "x" * 3000


@dataclass(frozen=True)
class Values:
    """What the next request is about."""

    component: str
    """Its name."""
    word: str
    number: int
    colour: tuple[int, int, int]

    @property
    def path(self) -> str:
        """Address of the component."""
        return f"/components/{quote(self.component)}"

    @property
    def terms(self) -> bytes:
        """A search for both, as JSON."""
        return json.dumps({"like": [self.component], "q": [self.word], "k": 8}).encode()


VALID: dict[str, Callable[[Values], Request]] = {
    "search by words": lambda v: get(f"/search?q={quote(v.word)}&k=8"),
    "search by components": lambda v: post("/search/components", v.terms),
    "search by image": lambda v: post("/search/image?k=8", picture(v.colour), PNG),
    "neighbours": lambda v: get(f"{v.path}/neighbours"),
    "table of components": lambda v: get(f"/components?k=50&cursor={v.number % 100}"),
    "strip of examples": lambda v: get(f"{v.path}/strip.webp"),
    "strips of a list": lambda v: get(f"/strips?of={quote(v.component)}&count=2"),
    "crop of an example": lambda v: get(f"{v.path}/crops/0.webp"),
    "model": lambda v: get(""),
}
INVALID: dict[str, Callable[[Values], Request]] = {
    "a name of 4,000 digits": lambda v: get(f"{v.path}{'9' * 4000}"),
    "100,000 brackets": lambda v: post("/search/components", BRACKETS),
    "3 MB of spaces": lambda v: post("/audits", SPACES),
    "a word of 3,000 letters": lambda v: get(f"/search?q={LETTERS}"),
    "an upload that is no image": lambda v: post("/search/image", b"x" * 5000, PNG),
    "true as a class": lambda v: post("/audits", b'{"target": true}'),
    "a path outside": lambda v: get("/..%2f..%2fetc/passwd"),
    "an unknown explanation": lambda v: get(f"/explanations/{v.number}"),
}
WEIGHTS = [2] * len(VALID) + [1] * len(INVALID)


def requests(layers: list[dict[str, Any]], seed: int) -> Iterator[tuple[str, Request]]:
    """Yield names and requests of all kinds without end; a third is wrong or hostile."""
    rng, kinds = random.Random(seed), {**VALID, **INVALID}  # noqa: S311  # no secret
    for number in count():
        layer = rng.choice(layers)
        component = f"{layer['name']}:{rng.randrange(layer['channels'])}"
        colour = rng.randrange(256), rng.randrange(256), rng.randrange(256)
        name = rng.choices(list(kinds), WEIGHTS)[0]
        word = f"{rng.choice(WORDS)} {number}"
        yield name, kinds[name](Values(component, word, rng.randrange(10**9), colour))


class Asker:
    """One persistent connection that counts the answers by kind."""

    def __init__(self, url: str, timeout: float = 60) -> None:
        self._host = urlsplit(url).netloc
        self._connection = http.client.HTTPConnection(self._host, timeout=timeout)
        self.answers: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = {}
        """Response times by name of the request."""

    def ask(self, request: Request, name: str = "") -> str:
        """Send a request and return what kind of answer came."""
        headers = {"content-type": request.content_type} if request.body is not None else {}
        begin = time.perf_counter()
        try:
            self._connection.request(request.method, API + request.path, request.body, headers)
            answer = self._connection.getresponse()
            found = _kind(answer.status, answer.getheader("content-type") or "", answer.read())
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            found = f"WRONG: {type(error).__name__}"
        self.seconds.setdefault(name, []).append(time.perf_counter() - begin)
        self.answers[found] += 1
        return found

    def close(self) -> None:
        """Close the connection; another request opens a new one."""
        self._connection.close()

    def times(self) -> dict[str, dict[str, float]]:
        """Return the response times by name of the request, what takes the longest first."""
        total = sum(map(sum, self.seconds.values()))
        found = {
            name: {"requests": len(one), "share_of_time": sum(one) / total, **in_milliseconds(one)}
            for name, one in self.seconds.items()
        }
        return dict(sorted(found.items(), key=lambda entry: -entry[1]["share_of_time"]))


def _kind(status: int, content_type: str, content: bytes) -> str:
    if status < 400:
        return "result"
    with suppress(ValueError):
        error = json.loads(content)
        if (status < 500 or status == 503) and all(
            error.get(part) for part in ("value", "expected", "remedy")
        ):
            return f"refused {status}"
    return f"WRONG: {status} {content_type}"


TITLES = {
    "mixed": "mixed requests of one client",
    "clients": "{clients} clients, {minutes:g} minutes, {slow_connections} slow connections",
    "uploads": "images of {mb_each:.1f} MB at the same time",
}


def load_tables(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the answers and the memory of every part, and the times of mixed requests."""
    rows: list[Sequence[Any]] = []
    for part, values in results.items():
        if part == "replaced":
            rows += [_row(f"a database {name}", v["answers"]) for name, v in values.items()]
        else:
            title = TITLES[part].format(**values, minutes=values.get("seconds", 0) / 60)
            rows.append(_row(title, values["answers"], _memory(values)))
    header = ["requests", "number", "results", "clear refusals", "WRONG", "memory, MiB"]
    found = [table(header, rows)]
    if "mixed" in results:
        times = [
            (name, t["requests"], t["median_ms"], t["p95_ms"], f"{t['share_of_time']:.0%}")
            for name, t in results["mixed"]["times"].items()
        ]
        header = ["mixed requests", "number", "median, ms", "95 %, ms", "share of the time"]
        found.append(table(header, times, digits=0))
    return "\n\n".join(found)


def _row(title: str, answers: Mapping[str, int], memory: str = "-") -> list[Any]:
    kinds = Counter[str]()
    for kind, number in answers.items():
        kinds[kind.partition(" ")[0].rstrip(":")] += number
    total = sum(answers.values())
    return [title, total, kinds["result"], kinds["refused"], kinds["WRONG"], memory]


def _memory(values: Mapping[str, Any]) -> str:
    read = values["rss_mib"]
    if isinstance(read, dict):
        return f"{read['before']:.0f} before, at most {read['most']:.0f}"
    half, last = read[len(read) // 2], read[-1]
    return f"{half:.0f} half-way, {last:.0f} at end ({last / half - 1:+.1%})"
