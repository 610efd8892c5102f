"""What a request carries, read whole and capped before anything looks at it."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from semlens.web.errors import Refused

JSON_BYTES = 1_000_000
IMAGE_BYTES = 10_000_000
DISCARDED = 5
"""Up to so many times the limit is read and thrown away: a browser that is cut off while it
sends shows a broken connection instead of the answer."""


def limit(headers: Headers) -> int:
    """Return how many bytes a body of this type may have."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    image = kind.startswith("image/") or kind == "application/octet-stream"
    return IMAGE_BYTES if image else JSON_BYTES


class Body:
    """A request's body, counted as it arrives: what its header says of its length may be a lie."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._content: bytes | None = None

    async def read(self, headers: Headers) -> None:
        """Read it.

        Raises
        ------
        Refused
            If it is too long.
        """
        said = headers.get("content-length", "0")
        if said.isdecimal() and int(said) > DISCARDED * self._most:
            raise self._too_long()
        content, size = bytearray(), 0
        while True:
            message = await self._receive()
            if message["type"] != "http.request":  # the client has gone
                break
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= self._most:
                content += chunk
            elif size > DISCARDED * self._most:
                raise self._too_long()
            if not message.get("more_body", False):
                break
        if size > self._most:
            raise self._too_long()
        self._content = bytes(content)

    async def receive(self) -> Message:
        """Hand it on as one message, and then whatever else comes."""
        if self._content is None:
            return await self._receive()
        content, self._content = self._content, None
        return {"type": "http.request", "body": content, "more_body": False}

    def _too_long(self) -> Refused:
        return Refused(
            413,
            f"The body has more than {self._most / 1e6:.0f} MB.",
            f"Expected at most {self._most / 1e6:.0f} MB.",
            "Send a smaller one; an image can be scaled down.",
        )
