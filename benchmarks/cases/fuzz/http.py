"""Requests to every route of the web application, with odd parameters, bodies and headers."""

from __future__ import annotations

import json
import threading
import time
from typing import Any
from urllib.parse import quote_from_bytes

from hypothesis import strategies as st

import semlens as sl
from benchmarks.cases.fuzz.readers import Reader, Strategy, json_values, odd_texts, scalars

USUAL = {
    "m": ["0"], "component": ["first:1", "second:0"], "c": ["0", "1"], "target": ["0"],
    "number": ["1"], "layer": ["first"], "q": ["red"], "rank": ["0"], "image": ["1"],
}  # fmt: skip
"""Values that are right for parameters by these names."""


class _Api:
    """Routes and schemas; without the long text that Hypothesis would make of them each time."""

    def __init__(self, description: Any) -> None:
        self.routes = [
            (method.upper(), address, operation)
            for address, methods in description["paths"].items()
            for method, operation in methods.items()
        ]
        self.schemas = description.get("components", {}).get("schemas", {})

    def __repr__(self) -> str:
        return f"{len(self.routes)} routes"


def request_reader(database: sl.ConceptDatabase) -> Reader:
    """Return the reader of requests about a database: (method, address, headers, body)."""
    from fastapi.testclient import TestClient

    from semlens.web.app import create_app

    app = create_app([database])
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=True)
    description = app.openapi()
    api = _Api(description)

    def send(request: tuple[str, str, dict[str, str], bytes]) -> None:
        method, address, headers, body = request
        sent = {name: value.encode("latin-1") for name, value in headers.items()}
        answer = client.request(method, address, headers=sent, content=body)
        assert answer.status_code < 500, (answer.status_code, answer.text[:500])  # noqa: S101
        if answer.status_code >= 400:
            error = answer.json()
            parts = [error.get(part) for part in ("value", "expected", "remedy")]
            assert all(parts), (answer.status_code, error)  # noqa: S101
            raise sl.SemlensError(*parts)

    return Reader(_requests(api), send, 512)


def finish_jobs(seconds: float = 60) -> None:
    """Wait for background jobs: torch may crash in a thread while the interpreter shuts down."""
    until = time.monotonic() + seconds
    for thread in threading.enumerate():
        if thread.name.endswith("(_run)"):  # a job of the server
            thread.join(max(0.0, until - time.monotonic()))


@st.composite
def _requests(draw: st.DrawFn, api: _Api) -> tuple[str, str, dict[str, str], bytes]:
    number = draw(st.integers(0, len(api.routes) - 1))
    method, address, operation = api.routes[number]
    queries: list[str] = []
    for parameter in operation.get("parameters", ()):
        name = parameter["name"]
        text = draw(_texts(name, usual=4 if parameter["in"] == "path" else 1))
        if parameter["in"] == "path":
            address = address.replace("{" + name + "}", text or "0")
        elif parameter["in"] == "query" and (parameter.get("required") or draw(st.booleans())):
            queries += [f"{name}={text}" for _ in range(draw(st.integers(1, 2)))]
    headers, body = dict[str, str](), b""
    content = operation.get("requestBody", {}).get("content", {})
    if content:
        kind = draw(st.sampled_from([*content, "application/json", "text/plain"]))
        headers["content-type"] = kind
        schema = next(iter(content.values())).get("schema", {})
        body = draw(_bodies(schema, api.schemas) | st.binary(max_size=40))
    if draw(st.integers(0, 9)) == 0:
        name = draw(st.sampled_from(["origin", "range", "if-none-match", "accept", "cookie"]))
        headers[name] = draw(st.sampled_from(["x", "bytes=0-1", "*", "a" * 5000, "\xff"]))
    return method, address + ("?" + "&".join(queries) if queries else ""), headers, body


def _texts(name: str, usual: int) -> Strategy:
    """Return percent-encoded values of a parameter; ``usual`` right ones for one odd one."""
    odd = odd_texts.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=4)
    encoded = odd.map(quote_from_bytes)
    right = st.sampled_from(USUAL.get(name, ["0", "1", "first"]))
    return st.one_of(*[right] * usual, encoded)


def _bodies(schema: Any, schemas: dict[str, Any]) -> Strategy:
    """Return JSON bodies: objects with the schema's own fields, some of them odd, or anything."""
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    fields = schemas.get(name, schema).get("properties", {})
    usual = st.sampled_from(["red", 0, 1, True, ["red"], ["first:1"], {}, [], "first", 0.5])
    near = st.fixed_dictionaries(
        {}, optional={field: usual | scalars | json_values for field in fields}
    )
    return (near | json_values).map(lambda value: json.dumps(value).encode())
