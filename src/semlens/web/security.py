"""Security middleware: host, origin and token checks, and response headers.

Any website that the user visits can send requests to a server on this machine. The guard
therefore checks the host name (against DNS rebinding), the origin of changes (against request
forgery) and, if other machines can reach the server, a token.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import re
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from http.cookies import CookieError, SimpleCookie
from secrets import compare_digest
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semlens.errors import ServeError
from semlens.web.errors import HttpError, error_response, internal_error
from semlens.web.request_body import RequestBodies, send_last

LOCAL = ("localhost", "127.0.0.1", "::1")
"""Host names that refer to the machine itself."""

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
"""Headers of every response; a route may override them."""

SAFE = {"GET", "HEAD", "OPTIONS"}
log = logging.getLogger("semlens.http")
"""One line per request, without the query, which may contain the token or search terms."""


def check_token(token: str | bool | None) -> None:
    """Raise a :class:`ServeError` for a text that is easy to guess or fits in no address."""
    if isinstance(token, str) and not re.fullmatch(r"[A-Za-z0-9._~-]{16,}", token, re.ASCII):
        raise ServeError(
            "The token is too short, or has characters that an address cannot hold.",
            "Expected at least 16 letters, digits, '.', '_', '~' and '-'.",
            "Pass True: then one is made.",
        )


class Guard:
    """ASGI middleware that refuses unsafe requests and adds the headers to every response.

    Parameters
    ----------
    app
        The application.
    token
        Required of every request; None if only this machine can reach the server.
    hosts
        Allowed host names, without port.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Sequence[str] = LOCAL) -> None:
        self.app, self.bodies = app, RequestBodies()
        self.token = token
        self.hosts = {name.lower().strip("[]") for name in hosts}
        # cookies are shared between ports: two servers on one machine need different names
        self.cookie = f"semlens-{hashlib.sha256((token or '').encode()).hexdigest()[:12]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        start = time.perf_counter()
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _add_headers(scope, message)
                ms = 1000 * (time.perf_counter() - start)
                log.info("%s %s %d %.0f ms", *_log_fields(scope), message["status"], ms)
            await send(message)

        async with AsyncExitStack() as stack:
            try:
                redirect = self._check(scope)
                if scope["method"] not in SAFE:
                    body = self.bodies.read(receive, Headers(scope=scope))
                    receive = await stack.enter_async_context(body)
            except ClientDisconnect:
                return  # a part of a request is never acted on
            except HttpError as error:
                refuse = _error_page(scope, error)
                await refuse(scope, receive, lambda message: send_last(message, receive, guarded))
                return
            try:
                await (redirect or self.app)(scope, receive, guarded)
            except Exception as error:
                if not started:
                    await internal_error(scope["path"], error)(scope, receive, guarded)
                raise  # logged by the server

    def _check(self, scope: Scope) -> Response | None:
        self._check_host(scope)
        redirect = self._check_token(scope)
        _check_origin(scope, self.hosts)
        return redirect

    def _check_host(self, scope: Scope) -> None:
        """Refuse unknown host names: a malicious site may point its own name at this machine."""
        hosts = Headers(scope=scope).getlist("host")
        name = _host_name(hosts[0]) if len(hosts) == 1 else None
        # an IP address cannot be rebound; the token is still checked
        if name is not None and (name in self.hosts or (self.token and _is_address(name))):
            return
        shown = hosts[0][:80] if hosts else ""
        raise HttpError(
            400,
            f"The host name '{shown}' is not allowed.",
            f"Expected {', '.join(sorted(self.hosts))}.",
            "Use one of these names, or start the server with --host-name NAME.",
        )

    def _check_token(self, scope: Scope) -> Response | None:
        """Check the token; return a redirect that removes it from the address, if it was there."""
        if self.token is None:
            return None
        headers = Headers(scope=scope)
        if scope["path"] == "/" and scope["method"] in SAFE:
            query = parse_qs(scope["query_string"].decode("latin-1"))
            if self._is_token(query.get("token", [""])[0]):
                scope["query_string"] = b""  # the server shares it and may log it
                return self._set_cookie(scope)
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(bearer.strip()):
            return None
        if any(self._is_token(value) for value in self._cookies(headers)):
            return None
        raise HttpError(
            401,
            "The token is missing or wrong.",
            "Expected the address that 'semlens serve' printed, or 'Authorization: Bearer TOKEN'.",
            "Open that address again, or send the token.",
        )

    def _is_token(self, value: str) -> bool:
        return compare_digest(value.encode("utf-8", "replace"), (self.token or "").encode())

    def _cookies(self, headers: Headers) -> list[str]:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return []
        return [] if cookie is None else [cookie.value]

    def _set_cookie(self, scope: Scope) -> Response:
        # relative, and the cookie without a path: both then work behind a proxy's prefix
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
    """Refuse changes and background reads that a page of another site sends."""
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site", "none")
    if scope["method"] in SAFE:
        background = headers.get("sec-fetch-mode") != "navigate"
        foreign = background and site in ("cross-site", "same-site")
    elif origin is None:
        foreign = site == "cross-site"
    else:
        foreign = _origin_host(origin) not in _allowed_hosts(scope, headers, hosts)
    if foreign:
        raise HttpError(
            403,
            f"The request comes from another site ('{(origin or site)[:80]}').",
            "Expected a request from the page of this server.",
            "Open the server's own page. Behind a proxy, forward the Host header.",
        )


def _is_https(scope: Scope) -> bool:
    """Return whether the browser uses HTTPS, to this server or to a proxy on this machine."""
    forwarded = Headers(scope=scope).get("x-forwarded-proto", "")
    return scope["scheme"] == "https" or (forwarded == "https" and _from_loopback(scope))


def _from_loopback(scope: Scope) -> bool:
    client = scope.get("client")
    return bool(client) and _is_loopback(client[0])


def _allowed_hosts(scope: Scope, headers: Headers, hosts: set[str]) -> set[str]:
    """Return the hosts, with port, that the browser may have used for this server."""
    allowed = {_normalized(headers.get("host", ""))}
    forwarded = headers.get("x-forwarded-host", "").split(",")[0].strip()
    # only from a proxy on this machine, and only for a name that the user allowed
    if forwarded and _from_loopback(scope) and _host_name(forwarded) in hosts - set(LOCAL):
        allowed.add(_normalized(forwarded))
    return allowed


def _origin_host(origin: str) -> str:
    """Return the host, with port, of an Origin header; empty if it is invalid."""
    try:
        return _normalized(urlsplit(origin).netloc)
    except ValueError:
        return ""


def _normalized(host: str) -> str:
    """Return a host in lower case without a default port."""
    return host.lower().removesuffix(":80").removesuffix(":443")


def _host_name(host: str) -> str | None:
    """Return a host without its port; None if it is invalid."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises for an invalid port
    except ValueError:
        return None
    valid = not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
    return parts.hostname if valid else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return _is_address(name) and ipaddress.ip_address(name).is_loopback


def _error_page(scope: Scope, error: HttpError) -> Response:
    """Return an error as plain text for a browser's first page, and as JSON elsewhere."""
    if scope["path"] == "/" and "text/html" in Headers(scope=scope).get("accept", ""):
        text = f"{error.value}\n{error.expected}\n{error.remedy}\n"
        return PlainTextResponse(text, error.status)
    return error_response(error)


def _add_headers(scope: Scope, message: Message) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("cache-control", "private, no-cache")


def _log_fields(scope: Scope) -> tuple[str, str]:
    # percent-encoded as it was sent, so that a path cannot forge log lines
    return scope["method"], scope.get("raw_path", b"?").split(b"?")[0].decode("ascii", "replace")
