"""Where a server listens, and under which names it may be called."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from semlens.errors import ServeError
from semlens.web.security import LOCAL

PORT = 8765
TRIED = 32
"""Ports that are tried, from the first, when none is asked for."""


@dataclass(frozen=True)
class ServerSocket:
    """An open socket, and what follows from where it is."""

    socket: socket.socket
    host: str
    """As it was given."""

    @property
    def port(self) -> int:
        """The port that was found."""
        return int(self.socket.getsockname()[1])

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return self._address.is_loopback

    @property
    def names(self) -> tuple[str, ...]:
        """What it may be called, besides what the user allows."""
        own = (socket.gethostname(),) if not self.local else ()
        given = () if self._address.is_unspecified else (self.host,)
        return (*LOCAL, *given, *own)

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
    """Open a socket on a port, or on the next free one when none is asked for.

    Raises
    ------
    ServeError
        If the port is none, taken or not allowed, or the host is not of this machine.
    """
    if port is not None and not 0 <= port <= 65535:
        raise ServeError(
            f"The port {port} is none.", "Expected a number from 1 to 65535.", "Correct --port."
        )
    wanted = range(PORT, PORT + TRIED) if port is None else (port,)
    for number in wanted:
        try:
            return ServerSocket(_bound(host, number), host)
        except OSError as error:
            if port is None and error.errno == errno.EADDRINUSE:
                continue
            raise _refused(host, number, error) from error
    raise ServeError(
        f"The ports {wanted[0]} to {wanted[-1]} are all taken.",
        "Expected a free one.",
        "End another server, or choose a port with --port.",
    )


def _bound(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    opened = socket.socket(family, kind, protocol)
    try:
        if socket.has_ipv6 and family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # a port that a server has just left can be taken again at once
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        # taken ports show only now: two servers may bind one port and not both listen
        opened.listen(128)
    except BaseException:
        opened.close()
        raise
    return opened


def _refused(host: str, port: int, error: OSError) -> ServeError:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return ServeError(
            f"'{host}' is no address of this machine ({error}).",
            "Expected 127.0.0.1 for this machine alone, or 0.0.0.0 for all of its addresses.",
            "Correct --host.",
        )
    reason = "it is taken" if error.errno == errno.EADDRINUSE else str(error)
    return ServeError(
        f"The port {port} cannot be used: {reason}.",
        "Expected a free port from 1024 to 65535.",
        "Choose another one, or leave --port away to take the next free one.",
    )
