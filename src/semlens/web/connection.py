"""Time limits of a connection: a client that sends or reads too slowly does not keep it open."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from semlens.web.errors import HttpError, error_response
from semlens.web.security import HEADERS

HEAD_SECONDS = 10.0
"""For the request line and the headers, from the first byte or, if none was sent, the opening."""
BODY_SECONDS = 120.0
"""For the body of a request."""
ANSWER_SECONDS = 120.0
"""For taking a response that is ready."""
MAX_CONNECTIONS = 500
"""Connections that are open at the same time; fewer than the files that a process may open."""
CHECK_SECONDS = 0.5


class TimedConnection(H11Protocol):
    """An HTTP connection that is ended if the client is too slow.

    uvicorn itself only limits the pause between two requests. How long the server takes for a
    response is not limited.
    """

    limits: ClassVar[Mapping[str, float]] = {
        "head": HEAD_SECONDS,
        "body": BODY_SECONDS,
        "answer": ANSWER_SECONDS,
    }
    _timer: asyncio.TimerHandle | None = None
    _stage: tuple[str, object] = ("", None)
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch the connection; refuse it if too many are open."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(
                HttpError(
                    503,
                    f"{MAX_CONNECTIONS} connections to the server are open.",
                    "Expected fewer.",
                    "Close other pages and programs that use it, and try again.",
                )
            )
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, with the same headers as every other response."""
        self._refuse(
            HttpError(
                400,
                "The request is not valid HTTP.",
                "Expected HTTP/1.1 with at most 64 kB of headers.",
                "Check the program that sent it.",
            )
        )

    def _watch(self) -> None:
        """End the connection if it has been in one stage of a request for too long."""
        stage, request, now = self._current_stage(), self.cycle, self.loop.time()
        if stage != self._stage[0] or request is not self._stage[1]:
            self._stage, self._since = (stage, request), now
        elif now - self._since > self.limits.get(stage, float("inf")):
            self._end(stage)
        self._timer = self.loop.call_later(CHECK_SECONDS, self._watch)

    def _end(self, stage: str) -> None:
        if stage == "answer":
            self.transport.abort()  # closing would wait until the rest is taken
        elif stage == "head" and not self.conn.trailing_data[0]:
            self.transport.close()  # a browser opens connections before it needs them
        else:
            self._refuse(
                HttpError(
                    408,
                    f"The {stage} of the request did not arrive in time.",
                    f"Expected it within {self.limits[stage]:g} seconds.",
                    "Check the network, and try again.",
                )
            )

    def _current_stage(self) -> str:
        if self.transport.get_write_buffer_size():
            return "answer"
        if self.conn.their_state is h11.IDLE:
            return "head"
        return "body" if self.conn.their_state is h11.SEND_BODY else ""

    def _refuse(self, error: HttpError) -> None:
        """Answer with an error unless a response has begun, and close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = bytes(error_response(error).body)
            headers = {
                **HEADERS,
                "content-type": "application/json",
                "content-length": str(len(body)),
                "connection": "close",
            }
            head = h11.Response(
                status_code=error.status,
                headers=list(headers.items()),
                reason=HTTPStatus(error.status).phrase,
            )
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
            if self.cycle:  # its task must not write a second response
                self.cycle.disconnected = True
                self.cycle.message_event.set()
        self.transport.close()
