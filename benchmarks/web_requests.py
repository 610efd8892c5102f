"""Requests of all kinds to a server, and what kind of answers come."""

from __future__ import annotations

import http.client
import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

from PIL import Image
from web_parts import WORDS
from web_server import API

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
        if (status < 500 or status == 503) and all(
            error.get(part) for part in ("value", "expected", "remedy")
        ):
            return f"refused {status}"
    return f"WRONG: {status} {content_type}"
