"""Bodies of requests: read whole within a limit, and discarded if the request is refused."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Send

from semlens.web.errors import HttpError


class Budget:
    """An amount that requests take parts of while they are answered; thread-safe."""

    def __init__(self, at_most: int) -> None:
        self.at_most, self.taken = at_most, 0
        self._lock = threading.Lock()

    @contextmanager
    def share(self) -> Iterator[Share]:
        """Give a share, which returns what it has taken at the end of the block."""
        share = Share(self)
        try:
            yield share
        finally:
            self.add(-share.taken)

    def add(self, amount: int) -> bool:
        """Take an amount, unless it is more than is left."""
        with self._lock:
            if self.taken + amount > self.at_most:
                return False
            self.taken += amount
            return True


class Share:
    """What one request has taken of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self.taken = budget, 0

    def take(self, amount: int) -> None:
        """Take some more.

        Raises
        ------
        HttpError
            503, if it is more than is left.
        """
        if not self._budget.add(amount):
            raise HttpError(
                503,
                "Too many uploads are being received or computed.",
                "Expected fewer at the same time.",
                "Try again in a few seconds.",
            )
        self.taken += amount


JSON_BYTES = 1_000_000
ALL_BYTES = 200_000_000
"""Of the bodies of all requests that are being received or answered."""
IMAGE_BYTES = 10_000_000
DISCARDED_BYTES = 100_000_000
"""How much of the body of a refused request is read and discarded: a program that is cut off while
it sends reports a connection error instead of the response."""
DISCARD_PAUSE = 1.0
"""Seconds without a further part of it, after which it is not waited for."""


def body_limit(headers: Headers) -> int:
    """Return the maximum size of a body of this content type, in bytes."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    image = kind.startswith("image/") or kind == "application/octet-stream"
    return IMAGE_BYTES if image else JSON_BYTES


class RequestBodies:
    """Reads bodies into memory, with a limit for each one and for all together."""

    def __init__(self, at_most: int | None = None) -> None:
        self.budget = Budget(at_most or ALL_BYTES)

    @asynccontextmanager
    async def read(self, receive: Receive, headers: Headers) -> AsyncIterator[Receive]:
        """Read a body, and give a function that returns it as one message.

        It counts until the request is answered.

        Raises
        ------
        HttpError
            413, if it is too long; 503, if those of all requests are.
        ClientDisconnect
            If the client disconnects before its end.
        """
        with self.budget.share() as share:
            messages = [await _whole(receive, body_limit(headers), headers, share)]

            async def read() -> Message:
                return messages.pop() if messages else await receive()

            yield read


async def _whole(receive: Receive, limit: int, headers: Headers, share: Share) -> Message:
    """Read a body; it is counted while it arrives, as the content-length header may be wrong."""
    length = headers.get("content-length", "0")
    if length.isdecimal() and (len(length) > 18 or int(length) > limit):
        raise _too_long(limit)
    content, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        part = message.get("body", b"")
        if len(content) + len(part) > limit:
            raise _too_long(limit)
        share.take(len(part))
        content += part
        more = message.get("more_body", False)
    return {"type": "http.request", "body": bytes(content), "more_body": False}


async def send_last(message: Message, receive: Receive, send: Send) -> None:
    """Send a part of the response to a refused request, and discard the body after the last."""
    if message["type"] == "http.response.body":
        await send({**message, "more_body": True})
        await _discard(receive)
        message = {"type": "http.response.body"}
    await send(message)


async def _discard(receive: Receive) -> None:
    size = 0
    with contextlib.suppress(TimeoutError):
        while size < DISCARDED_BYTES:
            async with asyncio.timeout(DISCARD_PAUSE):
                message = await receive()
            if not message.get("more_body", False):
                return
            size += len(message["body"])


def _too_long(limit: int) -> HttpError:
    return HttpError(
        413,
        f"The request body is larger than {limit / 1e6:.0f} MB.",
        f"Expected at most {limit / 1e6:.0f} MB.",
        "Send less data; an image can be scaled down.",
    )
