"""Bodies of requests: read whole within a limit, and discarded if the request is refused."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Send

from semlens.web.errors import HttpError

JSON_BYTES = 1_000_000
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


async def whole_body(receive: Receive, headers: Headers) -> Receive:
    """Read a body, and return a function that gives it as one message.

    It is counted while it arrives, since the content-length header may be wrong.

    Raises
    ------
    HttpError
        413, if it is too long.
    ClientDisconnect
        If the client disconnects before its end.
    """
    limit = body_limit(headers)
    length = headers.get("content-length", "0")
    if length.isdecimal() and (len(length) > 18 or int(length) > limit):
        raise _too_long(limit)
    content, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        content += message.get("body", b"")
        if len(content) > limit:
            raise _too_long(limit)
        more = message.get("more_body", False)
    messages: list[Message] = [{"type": "http.request", "body": bytes(content), "more_body": False}]

    async def read() -> Message:
        return messages.pop() if messages else await receive()

    return read


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
