"""The guard around the application: who may ask what, and what every answer carries.

A page of any site that the user visits can send requests to a server on this machine. So
the name that was called is checked (against DNS rebinding), where a change came from (against
forged requests), and, when the server can be reached from elsewhere, the token.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import time
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from secrets import compare_digest
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semlens.web.errors import HttpError, answer, fault

LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names under which a server is called from the machine that it runs on."""

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""On every answer. A route may set a policy of its own, for a report that is opened alone."""

SAFE = {"GET", "HEAD", "OPTIONS"}
JSON_BYTES = 1_000_000
IMAGE_BYTES = 10_000_000
DISCARDED = 5
"""Up to so many times the limit is read and thrown away: a browser that is cut off while it
sends shows a broken connection instead of the answer."""
log = logging.getLogger("semlens.http")
"""One line per request, without the query: it may hold the token or what is searched for."""


class Guard:
    """Refuse what must not come in, and put the headers on every answer.

    Parameters
    ----------
    app
        What is guarded.
    token
        Asked of every request; None where only this machine can reach the server.
    hosts
        Names that may be called, without port.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Sequence[str] = LOCAL) -> None:
        self.app = app
        self.token = token
        self.hosts = {name.lower().strip("[]") for name in hosts}
        # cookies do not keep ports apart: two servers on one machine need two names
        self.cookie = f"semlens-{hashlib.sha256((token or '').encode()).hexdigest()[:12]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        start = time.perf_counter()
        begun = False

        async def guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                _finish(scope, message)
                ms = 1000 * (time.perf_counter() - start)
                log.info("%s %s %d %.0f ms", *_line(scope), message["status"], ms)
            await send(message)

        try:
            self._check_host(scope)
            welcome = self._check_token(scope)
            _check_origin(scope, self.hosts)
            if welcome is not None:
                await welcome(scope, receive, guarded)
                return
            if scope["method"] not in SAFE:
                body = LimitedBody(receive, limit(Headers(scope=scope)))
                await body.read(Headers(scope=scope))
                receive = body.receive
        except HttpError as refused:
            await _refusal(scope, refused)(scope, receive, guarded)
            return
        try:
            await self.app(scope, receive, guarded)
        except Exception as error:
            if not begun:
                await fault(scope["path"], error)(scope, receive, guarded)
            raise  # to the server's log

    def _check_host(self, scope: Scope) -> None:
        """Refuse a name that is not ours: an evil site may have let its own name point here."""
        given = Headers(scope=scope).getlist("host")
        name = _name(given[0]) if len(given) == 1 else None
        # a number is no name, so that nobody can let it point here; the token still counts
        if name is not None and (name in self.hosts or (self.token and _is_address(name))):
            return
        shown = given[0][:80] if given else ""
        raise HttpError(
            400,
            f"The host name '{shown}' is not one of this server.",
            f"Expected {', '.join(sorted(self.hosts))}.",
            "Call it by one of them, or start it with --host-name NAME.",
        )

    def _check_token(self, scope: Scope) -> Response | None:
        """Ask for the token; return the redirection that takes it out of the address."""
        if self.token is None:
            return None
        headers = Headers(scope=scope)
        if scope["path"] == "/" and scope["method"] in SAFE:
            query = parse_qs(scope["query_string"].decode("latin-1"))
            if self._right(query.get("token", [""])[0]):
                scope["query_string"] = b""  # the server shares this, and may write a log too
                return self._welcome(scope)
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._right(bearer.strip()):
            return None
        if any(self._right(value) for value in self._cookies(headers)):
            return None
        raise HttpError(
            401,
            "The token is missing or wrong.",
            "Expected the address that 'semlens serve' printed, or 'Authorization: Bearer TOKEN'.",
            "Open that address again.",
        )

    def _right(self, given: str) -> bool:
        return compare_digest(given.encode("utf-8", "replace"), (self.token or "").encode())

    def _cookies(self, headers: Headers) -> list[str]:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return []
        return [] if found is None else [found.value]

    def _welcome(self, scope: Scope) -> Response:
        # relative, and the cookie without a path: so both hold below a proxy's prefix
        response = Response(
            status_code=303, headers={"location": "./", "cache-control": "no-store"}
        )
        response.set_cookie(
            self.cookie,
            self.token or "",
            path=None,
            secure=_is_https(scope),
            httponly=True,
            samesite="strict",
        )
        return response


def _check_origin(scope: Scope, hosts: set[str]) -> None:
    """Refuse changes that a page of another site sends, and its silent reads of the API."""
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site", "none")
    if scope["method"] in SAFE:
        quiet = headers.get("sec-fetch-mode") != "navigate"
        foreign = quiet and site in ("cross-site", "same-site")
    elif origin is None:
        foreign = site == "cross-site"
    else:
        foreign = _from(origin) not in _called(scope, headers, hosts)
    if foreign:
        raise HttpError(
            403,
            f"The request comes from another site ('{(origin or site)[:80]}').",
            "Expected one of the page that this server serves.",
            "Open the server's own page. Behind a proxy, pass the Host header on.",
        )


def _is_https(scope: Scope) -> bool:
    """Tell whether the browser speaks https, to this server or to a proxy on this machine."""
    said = Headers(scope=scope).get("x-forwarded-proto", "")
    return scope["scheme"] == "https" or (said == "https" and _from_here(scope))


def _from_here(scope: Scope) -> bool:
    client = scope.get("client")
    return bool(client) and _is_loopback(client[0])


def _called(scope: Scope, headers: Headers, hosts: set[str]) -> set[str]:
    """Return the hosts, with port, that the browser may have called."""
    called = {_plain(headers.get("host", ""))}
    forwarded = headers.get("x-forwarded-host", "").split(",")[0].strip()
    # only from a proxy on this machine, and only for a name that the user has allowed
    if forwarded and _from_here(scope) and _name(forwarded) in hosts - set(LOCAL):
        called.add(_plain(forwarded))
    return called


def _from(origin: str) -> str:
    """Return the host, with port, of an Origin header; nothing where it cannot be read."""
    try:
        return _plain(urlsplit(origin).netloc)
    except ValueError:
        return ""


def _plain(host: str) -> str:
    """Return a host with its port, but without one that goes without saying."""
    return host.lower().removesuffix(":80").removesuffix(":443")


def _name(host: str) -> str | None:
    """Return a host's name or address without its port."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # refuses what is no port
    except ValueError:
        return None
    clean = not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
    return parts.hostname if clean else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return _is_address(name) and ipaddress.ip_address(name).is_loopback


def _refusal(scope: Scope, refused: HttpError) -> Response:
    """Answer with text where a person looks at it, and with JSON where a program does."""
    if scope["path"] == "/" and "text/html" in Headers(scope=scope).get("accept", ""):
        text = f"{refused.value}\n{refused.expected}\n{refused.remedy}\n"
        return PlainTextResponse(text, refused.status)
    response = answer(refused)
    if refused.status == 413:
        response.headers["connection"] = "close"  # what is still being sent is not read
    return response


def _finish(scope: Scope, message: Message) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("cache-control", "private, no-cache")


def _line(scope: Scope) -> tuple[str, str]:
    # as it was sent, percent-encoded: a path cannot forge lines of the log
    return scope["method"], scope.get("raw_path", b"?").split(b"?")[0].decode("ascii", "replace")


def limit(headers: Headers) -> int:
    """Return how many bytes a body of this type may have."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    image = kind.startswith("image/") or kind == "application/octet-stream"
    return IMAGE_BYTES if image else JSON_BYTES


class LimitedBody:
    """A request's body, counted as it arrives: what its header says of its length may be a lie."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._content: bytes | None = None

    async def read(self, headers: Headers) -> None:
        """Read it.

        Raises
        ------
        HttpError
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

    def _too_long(self) -> HttpError:
        return HttpError(
            413,
            f"The body has more than {self._most / 1e6:.0f} MB.",
            f"Expected at most {self._most / 1e6:.0f} MB.",
            "Send a smaller one; an image can be scaled down.",
        )
