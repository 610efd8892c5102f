"""Time limits of a connection: a client that sends or reads too slowly does not keep it open."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from semlens.errors import ServeError
from semlens.web.errors import HttpError, error_response
from semlens.web.security import HEADERS, LOCAL

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


PORT = 8765
PORTS_TRIED = 32
"""Consecutive ports that are tried if no port is given."""


@dataclass(frozen=True)
class ServerSocket:
    """An open socket, with the addresses and names that follow from it."""

    socket: socket.socket
    host: str
    """Host as the user gave it."""

    @property
    def port(self) -> int:
        """Port that the socket is bound to."""
        return int(self.socket.getsockname()[1])

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return self._address.is_loopback

    @property
    def names(self) -> tuple[str, ...]:
        """Host names that requests may use, besides those that the user allows."""
        machine = (socket.gethostname(),) if not self.local else ()
        bound = () if self._address.is_unspecified else (self.host,)
        return (*LOCAL, *bound, *machine)

    def url(self, names: Sequence[str] = ()) -> str:
        """Return the address to open."""
        name = self.host
        if self._address.is_unspecified:
            name = names[0] if names else socket.gethostname()
        return f"http://{f'[{name}]' if ':' in name else name}:{self.port}/"

    @property
    def _address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        return ipaddress.ip_address(str(self.socket.getsockname()[0]).partition("%")[0])


def listen(host: str, port: int | None) -> ServerSocket:
    """Open a socket on a port; without a port, on the first free one from :data:`PORT`.

    Raises
    ------
    ServeError
        If the port is invalid, in use or not permitted, or the host is not of this machine.
    """
    if port is not None and not 0 <= port <= 65535:
        raise ServeError(
            f"{port} is not a valid port.",
            "Expected a number from 0 to 65535; 0 means any free port.",
            "Choose another port.",
        )
    ports = range(PORT, PORT + PORTS_TRIED) if port is None else (port,)
    for number in ports:
        try:
            return ServerSocket(_bind(host, number), host)
        except OSError as error:
            if port is None and error.errno == errno.EADDRINUSE:
                continue
            raise _bind_error(host, number, error) from error
    raise ServeError(
        f"The ports {ports[0]} to {ports[-1]} are all in use.",
        "Expected a free port.",
        "Stop another server, or choose a port.",
    )


def _bind(host: str, port: int) -> socket.socket:
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = addresses[0]
    opened = socket.socket(family, kind, protocol)
    try:
        if socket.has_ipv6 and family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # a port that a server has just released can be reused immediately
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        # a port in use is detected only here: two servers can bind a port but not both listen
        opened.listen(128)
    except BaseException:
        opened.close()
        raise
    return opened


def _bind_error(host: str, port: int, error: OSError) -> ServeError:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return ServeError(
            f"'{host}' is not an address of this machine ({error}).",
            "Expected 127.0.0.1 for this machine only, or 0.0.0.0 for all of its addresses.",
            "Choose another host.",
        )
    reason = "it is in use" if error.errno == errno.EADDRINUSE else str(error)
    return ServeError(
        f"The port {port} cannot be used: {reason}.",
        "Expected a free port from 1024 to 65535.",
        "Choose another port, or give none to use the next free one.",
    )
