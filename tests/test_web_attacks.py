"""Connections that never end, bodies of every size, and every parameter of every route."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import struct
import threading
import time
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any
from urllib.parse import quote

import pytest
import uvicorn
from conftest import (
    VEGETABLES,
    LittleNet,
    WordEmbedder,
    build_vegetables,
    encoded,
    plain_colours,
    spread_logits,
    to_tensor,
)
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from httpx import Response
from PIL import Image
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers

import semlens as sl
from semlens.lens import load_lens
from semlens.models.subject import SubjectModel
from semlens.settings import remote_request
from semlens.web import connection, jobs, request_body, upload
from semlens.web.app import API, ROUTERS, create_app
from semlens.web.connection import TimedConnection
from semlens.web.errors import ErrorResponse, HttpError
from semlens.web.request_body import Budget
from semlens.web.routes.lenses import list_lenses
from semlens.web.security import HEADERS, Guard
from semlens.web.serve import make_server

STEP = int(os.environ.get("SEMLENS_ATTACK_STEP", "11"))
"""Every n-th hostile request is sent; 1 takes twenty minutes."""
LIMITS = {"head": 0.3, "body": 0.6, "answer": 0.6}
MODEL = f"{API}/models/0"


# -- connections ------------------------------------------------------------------------------

taken: list[bytes] = []


async def plain(scope, receive, send) -> None:
    """Take a body, and answer with as many bytes as the path says."""
    if scope["type"] == "lifespan":
        return
    message = await receive()
    taken.append(message.get("body", b""))
    content = b"x" * int(scope["path"][1:] or 2)
    headers = [(b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server with short limits, behind the real guard."""
    monkeypatch.setattr(TimedConnection, "limits", LIMITS)
    monkeypatch.setattr(connection, "CHECK_SECONDS", 0.05)
    taken.clear()
    bound = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        Guard(plain, None), http=TimedConnection, log_config=None, ws="none", lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield bound.getsockname()[1]
    server.should_exit = True
    thread.join()
    bound.close()


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        yield client


def rest(client: socket.socket) -> bytes:
    """Return everything until the server ends the connection."""
    parts: list[bytes] = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def drip(client: socket.socket, pause: float = 0.1) -> None:
    """Send a byte now and then until the server has had enough."""
    client.settimeout(pause)
    for _ in range(100):
        try:
            client.sendall(b"x")
            if client.recv(1, socket.MSG_PEEK):
                break
        except TimeoutError:
            continue
    client.settimeout(20)


def error_of(found: bytes) -> tuple[int, ErrorResponse]:
    """Return status and error of an answer, which has the headers of every other."""
    head, _, body = found.partition(b"\r\n\r\n")
    for name, value in HEADERS.items():
        assert f"{name}: {value}".encode() in head
    return int(head.split(b" ")[1]), ErrorResponse.model_validate_json(body)


def ask(port: int, path: str = "/2") -> int:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    client.request("GET", path)
    answer = client.getresponse()
    answer.read()
    client.close()
    return answer.status


def test_a_head_that_is_sent_byte_by_byte_is_refused_and_others_are_served(port: int) -> None:
    clients = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(50)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    start = time.monotonic()
    assert ask(port) == 200
    drip(clients[0])
    for client in clients:
        status, error = error_of(rest(client))
        assert status == 408
        assert error.value == "The head of the request did not arrive in time."
        client.close()
    assert time.monotonic() - start < 10


def test_a_connection_on_which_nothing_is_sent_is_closed_without_a_word(port: int) -> None:
    with connected(port) as client:
        start = time.monotonic()
        assert rest(client) == b""
        assert time.monotonic() - start >= LIMITS["head"]


def test_a_body_that_is_sent_byte_by_byte_is_refused_and_not_acted_on(port: int) -> None:
    with connected(port) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        drip(client)
        status, error = error_of(rest(client))
    assert (status, error.value) == (408, "The body of the request did not arrive in time.")
    assert ask(port) == 200
    assert taken == [b""]  # only the last request came through


def test_a_second_request_on_a_connection_has_the_same_limit(port: int) -> None:
    with connected(port) as client:
        client.sendall(b"GET /2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while not client.recv(65536).endswith(b"xx"):
            continue
        client.sendall(b"GET /2 HT")
        drip(client)
        assert error_of(rest(client))[0] == 408


@pytest.mark.slow
def test_a_response_that_nobody_takes_is_given_up(port: int) -> None:
    with connected(port) as client:
        client.sendall(b"GET /30000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(3 * LIMITS["answer"])
        assert len(rest(client)) < 30_000_000  # what the system held when it was given up


def test_a_response_may_take_longer_than_a_request(port: int) -> None:
    with connected(port) as client:  # taken in pauses, each of them shorter than the limit
        client.sendall(b"GET /100000 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        time.sleep(LIMITS["head"] + 0.1)
        assert rest(client).endswith(b"x" * 100_000)


def test_only_so_many_connections_are_open(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 3)
    clients = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(5)]
    found = [rest(client) for client in clients]
    refused = [error_of(one) for one in found if one]
    assert [status for status, _ in refused] == [503, 503]
    assert "3 connections" in refused[0][1].value
    for client in clients:
        client.close()
    assert ask(port) == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a browser that tries HTTPS
        b"nonsense\r\n\r\n",
        b"GET / HTCPCP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX:" + b"x" * 70_000,
        b"GET / HTTP/1.1\r\nBad\x00Name: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    ],
    ids=["tls", "text", "version", "long", "nul", "negative", "two", "chunk", "encoding"],
)
def test_what_is_no_http_is_told_so(port: int, sent: bytes) -> None:
    with connected(port) as client:
        client.sendall(sent)
        status, error = error_of(rest(client))
    assert (status, error.value) == (400, "The request is not valid HTTP.")
    assert ask(port) == 200
    assert taken == [b""]


@pytest.mark.parametrize("end", ["keep-alive", "close"])
@pytest.mark.parametrize("size", [2_000_000, 6_000_000, 20_000_000])
def test_a_json_body_that_is_too_large_is_answered_and_not_cut_off(
    port: int, size: int, end: str
) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"content-type": "application/json", "connection": end}
    client.request("POST", "/", b"x" * size, headers)  # sends it whole before it reads
    answer = client.getresponse()
    assert answer.status == 413
    assert ErrorResponse.model_validate_json(answer.read()).expected == "Expected at most 1 MB."
    if end == "keep-alive":
        client.request("GET", "/2")
        assert client.getresponse().read() == b"xx"
    client.close()
    assert taken == ([b""] if end == "keep-alive" else [])


def test_a_body_without_an_end_is_discarded_up_to_a_bound(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "DISCARDED_BYTES", 3_000_000)
    with connected(port) as client:
        client.sendall(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        sent = 0
        with pytest.raises(ConnectionError):
            while sent < 100_000_000:
                client.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                sent += 0x10000
    assert 3_000_000 < sent < 50_000_000


def test_a_request_that_breaks_off_is_not_acted_on(port: int) -> None:
    """The part that arrived may be valid on its own."""
    with connected(port) as client:
        client.sendall(b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{}")
        time.sleep(0.1)
        # a reset, as from a program that is killed
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert ask(port) == 200
    assert taken == [b""]


def test_all_bodies_together_have_a_limit_until_they_are_answered() -> None:
    bodies = request_body.RequestBodies(100)

    async def part(size: int, more: bool = False) -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * size, "more_body": more}

    async def hold(size: int) -> bytes:
        async with bodies.read(lambda: part(size), Headers()) as receive:
            await asyncio.sleep(0.05)
            return (await receive())["body"]

    async def all_at_once() -> list[object]:
        return await asyncio.gather(*(hold(40) for _ in range(5)), return_exceptions=True)

    for _ in range(2):  # what was refused or answered is given back
        found = asyncio.run(all_at_once())
        assert [one for one in found if isinstance(one, bytes)] == [b"x" * 40] * 2
        refused = [one for one in found if isinstance(one, HttpError)]
        assert [error.status for error in refused] == [503] * 3
        assert bodies.budget.taken == 0
    with pytest.raises(HttpError):
        asyncio.run(hold(101))
    assert bodies.budget.taken == 0


@pytest.mark.slow
def test_all_decoded_uploads_together_have_a_limit(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(100)
    monkeypatch.setattr(upload, "_pixels", budget)
    headers = {"content-type": "image/png"}
    path = f"{MODEL}/search/image"
    large = encoded(Image.new("RGB", (11, 10)), "PNG")
    assert client.post(path, content=PICTURE, headers=headers).status_code == 200
    with budget.share() as another:
        another.take(50)
        assert_busy(client.post(path, content=PICTURE, headers=headers))
    assert_busy(client.post(path, content=large, headers=headers))
    assert client.post(path, content=b"x", headers=headers).status_code == 415
    assert client.post(path, content=PICTURE, headers=headers).status_code == 200
    assert budget.taken == 0


def assert_busy(answer: Response) -> None:
    assert answer.status_code == 503
    assert "Try again" in ErrorResponse.model_validate_json(answer.content).remedy


# -- types of values --------------------------------------------------------------------------


def little() -> SubjectModel:
    net = spread_logits(LittleNet(), plain_colours())
    return SubjectModel(net, to_tensor, "32 bilinear", "python:little", VEGETABLES)


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> sl.ConceptDatabase:
    built = build_vegetables(tmp_path_factory.mktemp("attacked"), little())
    return sl.open(built.path, model=little(), embedder=WordEmbedder())


@pytest.fixture(scope="module")
def client(db: sl.ConceptDatabase) -> TestClient:
    """Faults of ours become responses, as they do outside of tests."""
    app = create_app([db])
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


def test_a_boolean_or_a_text_is_no_number(client: TestClient) -> None:
    for target in (True, 1.0, None, ["vegetable"], {}):
        answer = client.post(f"{MODEL}/audits", json={"target": target})
        assert answer.status_code == 422, target
        assert "'target" in answer.json()["value"]
    made = client.post(f"{MODEL}/audits", json={"target": 1}).json()
    assert made["target"] == 1
    for changes in (
        {"revision": True},
        {"revision": "1"},
        {"revision": 1, "settings": {"minimum": True}},
        {"revision": 1, "settings": {"minimum": "0.5"}},
        {"revision": 1, "settings": {"threshold": [False, None]}},
        {"revision": 1, "reviews": {"first:0": {"note": 5}}},
        {"revision": 1, "valid": [{"text": 7}]},
        {"revision": 1, "valid": [{"text": "a", "path": "b"}]},
        {"revision": 1, "nmae": "x"},
    ):
        answer = client.put(f"{MODEL}/audits/{made['id']}", json=changes)
        assert 400 <= answer.status_code < 500, changes
    rows = client.post(f"{MODEL}/selection", json={"rows": [True]})
    assert (rows.status_code, "'rows.0': True" in rows.json()["value"]) == (422, True)
    assert client.get(f"{MODEL}/audits/{made['id']}").json() == made


def bodies() -> dict[str, Any]:
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    return {
        route.name: route.body_field.field_info.annotation
        for route in routes
        if route.body_field is not None
    }


LENS_ROUTES = {"ask_lens", "cancel_lens", "lens_file"}
"""Their bodies are the settings of the lens, checked by the model that it declares."""


def test_the_settings_of_a_lens_are_strict() -> None:
    found = bodies()
    assert {name for name, body in found.items() if typing.get_origin(body) is dict} == LENS_ROUTES
    numbers = 0
    for info in list_lenses().lenses:
        model = remote_request(load_lens(info.name))
        with pytest.raises(ValidationError, match="extra"):
            model.model_validate_json('{"no_such_setting": 1}', strict=True)
        for name, field in model.model_fields.items():
            members = {int, float} & {field.annotation, *typing.get_args(field.annotation)}
            if members and str not in typing.get_args(field.annotation):
                numbers += 1
                for wrong in ('"5"', "true", "[5]"):
                    if wrong != "[5]" or not any(map(typing.get_origin, members)):
                        with pytest.raises(ValidationError, match=name):
                            model.model_validate_json(f'{{"{name}": {wrong}}}', strict=True)
    assert numbers > 20


def test_every_request_body_is_strict_in_all_its_parts() -> None:
    found = bodies()
    assert "save_audit" in found and len(found) >= 8

    def check(model: type[BaseModel]) -> None:
        assert model.model_config.get("strict"), model
        assert model.model_config.get("extra") == "forbid", model
        for name, field in model.model_fields.items():
            for part in parts(field.annotation):
                check(part)
            assert name

    def parts(annotation: Any) -> Iterator[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        for inner in getattr(annotation, "__args__", ()):
            yield from parts(inner)

    for name, model in found.items():
        if name not in LENS_ROUTES:
            check(model)


# -- every parameter of every route -----------------------------------------------------------

TEXTS = (
    "", " ", "\0", "\n", "🦄", "x" * 5000, "../../etc/passwd", "..%2f..", "first:99", "first:-99",
    "first:" + "9" * 5000, "first:٣", "first:0:1", ":", "third:0", "true", "[]", "-1", "0", "1.5",
    "9" * 30, "1e999", "nan", "-inf", "saved:x", "saved:999999999999999999999", "none", "%", "a b",
    "=cmd|' /C calc'!A0", "<script>", "\u202e", "é" * 300,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 10**30, -(10**30), 2**31, 2**63, "", " ", "\0", "1", "x" * 5000,
    "\ud800", "🦄", "../../etc/passwd", "first:99", [], [None], [[]], {}, {"a": 1}, [1, "a", True],
    ["a"] * 6000,
)  # fmt: skip
RAW = (
    b"", b"null", b"[]", b"5", b'"x"', b"{", b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b"NaN",
    b'{"target": NaN}', b'{"target": 1e999}', b'{"target": ' + b"9" * 5000 + b"}", b"\x00",
    b"[" * 100_000, b'{"a":' * 50_000, b'{"target": 1, "target": true}', b'{"target": "\xff"}',
)  # fmt: skip
PATH = {
    "m": "0", "number": "1", "target": "0", "c": "0", "component": "first:0", "rank": "0",
    "image": "0", "query_id": "1",
}  # fmt: skip
QUERY = {"class": "0", "a": "0", "b": "0", "revision": "1", "by": "layer", "other": "0"}
PICTURE = encoded(Image.new("RGB", (9, 9)), "PNG")
BODIES: dict[str, dict[str, Any]] = {
    "NewAudit": {
        "target": 0,
        "name": "n",
        "from_sets": ["paper-ox"],
        "valid": [{"text": "dog", "path": ["animal"], "images": []}],
        "spurious": [],
        "settings": {"minimum": 0.1, "level": 0.1, "layers": ["first"], "threshold": [0.1, None]},
    },
    "AuditEdit": {
        "revision": 1,
        "name": "n",
        "valid": [{"text": "dog"}],
        "spurious": None,
        "settings": {"minimum": 0.1},
        "reviews": {"first:0": {"status": "confirmed", "note": "n", "when": ""}},
        "update_build": False,
    },
    "ConceptSetFile": {"filename": "a.csv", "text": "category,concept\nx,y\n"},
    "SearchRequest": {
        "like": ["first:0"], "unlike": [], "q": ["dog"], "without": ["cat"], "layers": ["first"],
        "k": 3,
    },
    "SelectionRows": {"rows": [0, 1]},
    "RepairRequest": {"target": 0, "components": ["first:0"]},
    "MarkRequest": {"components": ["first:0"], "spurious": True},
    "LabelRequest": {"concepts": "custom", "threshold": 0.1, "texts": ["dog"]},
    "WithoutRequest": {"components": ["first:0"], "target": 0},
    "ModelTestRequest": {
        "target": 0,
        "artefacts": [{
            "kind": "text", "components": None, "words": "w", "colour": "#f00", "strength": 0.3,
        }],
        "count": 2,
        "seed": 0,
    },
}  # fmt: skip


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in create_app([]).openapi()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def address(path: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", quote(value, safe=""))
    return path


def changed(value: Any) -> Iterator[Any]:
    """Yield a JSON value with each of its parts replaced, removed or joined by another."""
    yield from VALUES
    if isinstance(value, dict):
        yield {**value, "unknown": 1}
        for key, part in value.items():
            yield {k: v for k, v in value.items() if k != key}
            yield from ({**value, key: other} for other in changed(part))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            for other in changed(part):
                yield [*value[:number], other, *value[number + 1 :]]


def assert_told(answer: Response, what: object) -> None:
    """A result, or an error that says what is wrong; never a fault of ours."""
    assert answer.status_code < 500, (what, answer.text)
    if answer.status_code >= 400:
        error = ErrorResponse.model_validate_json(answer.content)
        assert error.value and error.expected and error.remedy, what
        assert "Traceback" not in answer.text
        assert "pydantic" not in answer.text
        assert len(answer.content) < 20_000, what


Request = tuple[dict[str, str], dict[str, Any], dict[str, Any]]
"""Values of the path, of the query, and the body as arguments of the client."""


def hostile_parameters(operation: dict[str, Any], body: dict[str, Any]) -> Iterator[Request]:
    """Yield requests with every text in place of every parameter."""
    parameters = operation.get("parameters", [])
    query = {p["name"]: QUERY[p["name"]] for p in parameters if p["name"] in QUERY}
    for parameter in parameters:
        for text in TEXTS:
            if parameter["in"] == "path":
                yield {**PATH, parameter["name"]: text}, query, body
            elif parameter["in"] == "query":
                yield PATH, {**query, parameter["name"]: text}, body
                yield PATH, {**query, parameter["name"]: [text, "first"]}, body


def hostile_bodies(valid: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield bodies that are no JSON, and a valid one with each part replaced."""
    for raw in RAW:
        for kind in ("application/json", "image/png", "text/plain", ""):
            yield {"content": raw, "headers": {"content-type": kind}}
    for value in changed(valid) if valid is not None else ():
        text = json.dumps(value).encode()
        yield {"content": text, "headers": {"content-type": "application/json"}}


def requests(operation: dict[str, Any]) -> Iterator[Request]:
    content: dict[str, Any] = operation.get("requestBody", {}).get("content", {})
    name = content.get("application/json", {}).get("schema", {}).get("$ref", "").split("/")[-1]
    body: dict[str, Any] = {"json": BODIES[name]} if name else {}
    if "image/*" in content:
        body = {"content": PICTURE, "headers": {"content-type": "image/png"}}
    yield from hostile_parameters(operation, body)
    if content:
        yield from ((PATH, {}, other) for other in hostile_bodies(BODIES.get(name)))


@pytest.fixture
def patient(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """Answers with 202 at once where work is left to do, and with a saved audit to attack."""
    monkeypatch.setattr(jobs, "WAIT", 0.02)
    if not client.get(f"{MODEL}/audits").json()["audits"]:
        client.post(f"{MODEL}/audits", json={"target": 0})
    client.post(
        f"{MODEL}/search/image",
        content=PICTURE,
        headers={"content-type": "image/png"},
    )
    return client


def ids(operation: tuple[str, str, dict[str, Any]]) -> str:
    return operation[2]["operationId"]


@pytest.mark.slow
@pytest.mark.parametrize("operation", list(operations()), ids=ids)
def test_no_value_of_any_parameter_is_a_fault_of_ours(
    patient: TestClient, operation: tuple[str, str, dict[str, Any]]
) -> None:
    method, path, description = operation
    for values, query, body in islice(requests(description), 0, None, STEP):
        start = time.monotonic()
        answer = patient.request(method, address(path, values), params=query, **body)
        assert_told(answer, (method, path, values, query, str(body)[:300]))
        assert time.monotonic() - start < 10


# -- without the token ------------------------------------------------------------------------

TOKEN = "correct-horse-battery"
COOKIE = Guard(plain, TOKEN).cookie
NO_TOKEN: dict[str, dict[str, str]] = {
    "none": {},
    "wrong": {"authorization": "Bearer correct-horse-batterz"},
    "prefix": {"authorization": f"Bearer {TOKEN[:-1]}"},
    "longer": {"authorization": f"Bearer {TOKEN} {TOKEN}"},
    "empty": {"authorization": "Bearer "},
    "other scheme": {"authorization": f"Basic {TOKEN}"},
    "wrong cookie": {"cookie": f"{COOKIE}=correct-horse-batterz"},
    "cookie of another name": {"cookie": f"semlens={TOKEN}"},
    "other headers": {"x-token": TOKEN, "x-forwarded-for": "127.0.0.1", "token": TOKEN},
    "url headers": {"x-original-url": "/", "x-rewrite-url": f"/?token={TOKEN}"},
}
WITH_TOKEN = ({"authorization": f"Bearer {TOKEN}"}, {"cookie": f"{COOKIE}={TOKEN}"})


@pytest.fixture(scope="module")
def guarded(db: sl.ConceptDatabase) -> TestClient:
    app = create_app([db], token=TOKEN)
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False)


def merged(body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    return {**body, "headers": {**body.get("headers", {}), **headers}}


def assert_nothing_without_token(
    client: TestClient, operation: tuple[str, str, dict[str, Any]], step: int
) -> int:
    """Send hostile requests with all that is no token: each has the same refusal, nothing else."""
    method, path, description = operation
    sent = 0
    for values, query, body in islice(requests(description), 0, None, step):
        name = list(NO_TOKEN)[sent % len(NO_TOKEN)]
        answer = client.request(
            method, address(path, values), params={**query, "token": TOKEN},
            **merged(body, NO_TOKEN[name]),
        )  # fmt: skip
        error = ErrorResponse.model_validate_json(answer.content)
        assert (answer.status_code, error.value) == (401, "The token is missing or wrong."), name
        assert "set-cookie" not in answer.headers
        sent += 1
    return sent


@pytest.mark.slow
def test_no_route_answers_without_the_token(guarded: TestClient) -> None:
    found = [assert_nothing_without_token(guarded, one, 200) for one in operations()]
    assert sum(found) > 100
    for headers in WITH_TOKEN:
        assert guarded.get(f"{API}/models", headers=headers).status_code == 200


@pytest.mark.slow
def test_no_hostile_request_gets_past_the_token(guarded: TestClient) -> None:
    assert sum(assert_nothing_without_token(guarded, one, STEP) for one in operations()) > 1000


def test_every_token_is_compared_in_constant_time_and_in_no_other_way(
    guarded: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secrets import compare_digest as constant_time

    from semlens.web import security

    assert security.compare_digest is constant_time
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(security, "compare_digest", lambda *given: bool(compared.append(given)))
    for headers in WITH_TOKEN:
        assert guarded.get(f"{API}/models", headers=headers).status_code == 401
    assert guarded.get(f"/?token={TOKEN}").status_code == 401
    assert compared == 3 * [(TOKEN.encode(), TOKEN.encode())]


@pytest.mark.parametrize("token", ["", " ", "short", "x" * 15, "with space " * 3, "&#" * 10,
                                   "é" * 20, "x" * 20 + "\n"])  # fmt: skip
def test_a_token_that_is_no_secret_is_refused(db: sl.ConceptDatabase, token: str) -> None:
    with pytest.raises(sl.errors.ServeError, match="token"):
        create_app([db], token=token)
    with pytest.raises(sl.errors.ServeError, match="token"):
        make_server([db], port=0, token=token)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"components/first:{'9' * 5000}", None),
        ("GET", f"components/first:{'9' * 5000}/strip.webp", None),
        ("POST", "audits", {"target": "\ud800"}),
        ("PUT", "audits/1", {"revision": 1, "name": "\ud800"}),
        ("POST", "labels", {"concepts": "custom", "texts": ["\ud800"]}),
        ("POST", "search/components", {"q": ["\ud800"]}),
        ("POST", "concept-sets/read", {"filename": "a.csv", "text": "concept\n\ud800\n"}),
        ("POST", "explanations/0/without", {"components": ["first:" + "9" * 5000]}),
        ("PUT", "audits/1", ["x" * 100_000]),
    ],
)
def test_values_that_were_once_faults(
    patient: TestClient, method: str, path: str, body: Any
) -> None:
    """Those that the long test has found, for the fast lane."""
    content = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    answer = patient.request(method, f"{MODEL}/{path}", content=content, headers=headers)
    assert 400 <= answer.status_code < 500
    assert_told(answer, path)
