"""Listening socket of the server, its address and its host names."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from semlens.errors import ServeError
from semlens.web.security import LOCAL

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
