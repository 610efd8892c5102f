"""Every line of the web application's defence is attacked here, most of them over a real socket."""

from __future__ import annotations

import http.client
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ColourEmbedder, LittleNet, encoded, to_tensor
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from PIL import Image
from starlette.websockets import WebSocketDisconnect

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.models.subject import SubjectModel
from semlens.web import errors
from semlens.web.app import create_app
from semlens.web.request_body import IMAGE_BYTES, JSON_BYTES
from semlens.web.security import HEADERS, Guard
from semlens.web.serve import Server, make_server
from semlens.web.upload import PIXELS, Upload

MODELS = "/api/v1/models"
SECRET = "a secret beside the page"


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> sl.ConceptDatabase:
    subject = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    path = tmp_path_factory.mktemp("web") / "tiny.semlens"
    images = ImageFolder(pictures)
    return sl.build(path, subject, images, ColourEmbedder(), ["first"], examples=3)


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page, with what must not be reached beside it and behind a link."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_text(SECRET)
    folder = outside / "static"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>the page</title>")
    (folder / "app.js").write_text("const page = 1;\n" * 200)
    (folder / ".hidden").write_text(SECRET)
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "way").symlink_to(outside)
    return folder


@pytest.fixture(scope="module")
def server(db: sl.ConceptDatabase, static: Path) -> Iterator[Server]:
    with make_server([db], port=0, static=static).start() as running:
        yield running


@pytest.fixture(scope="module")
def locked(db: sl.ConceptDatabase, static: Path) -> Iterator[Server]:
    """Reachable from elsewhere, and so with a token."""
    names = ["lab.example"]
    with make_server([db], port=0, host="0.0.0.0", names=names, static=static).start() as running:
        yield running


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2].partition("/")[0])


def token_of(server: Server) -> str:
    return server.url.partition("?token=")[2]


def fetch(
    server: Server,
    path: str = MODELS,
    method: str = "GET",
    body: bytes | None = None,
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """Send a request as it is written: nothing normalises the path or adds a header."""
    port = port_of(server)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    given = {"host": f"127.0.0.1:{port}"} | {k.replace("_", "-"): v for k, v in headers.items()}
    if body is not None:
        given.setdefault("content-length", str(len(body)))
    for name, value in given.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    connection.close()
    return found


def raw(server: Server, request: bytes) -> bytes:
    """Send bytes, and return all that comes back until the server ends the connection."""
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=60) as connection:
        connection.sendall(request)
        parts: list[bytes] = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


# -- the name that is called -----------------------------------------------------------


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LocalHost", "[::1]", "localhost:{}"])
def test_own_names_are_answered(server: Server, name: str) -> None:
    assert fetch(server, host=name.format(port_of(server)))[0] == 200


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "evil.example:{}",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost@evil.example",
        "localhost/evil",
        "localhost#x",
        "localhost:port",
        "192.168.1.7:{}",  # nobody can get here by it: there is no token either
        "",
        "[::1",
    ],
)
def test_another_name_is_refused(server: Server, name: str) -> None:
    status, headers, body = fetch(server, host=name.format(port_of(server)))
    assert status == 400
    assert b"--host-name" in body
    assert headers["content-security-policy"] == HEADERS["content-security-policy"]


def test_no_name_or_two_are_refused(server: Server) -> None:
    assert b" 400 " in raw(server, b"GET / HTTP/1.0\r\n\r\n").split(b"\r\n")[0]
    twice = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert b" 400 " in raw(server, twice).split(b"\r\n")[0]


def test_names_that_the_user_allows_and_addresses_need_the_token_still(locked: Server) -> None:
    bearer = f"Bearer {token_of(locked)}"
    for name in ("lab.example", "lab.example:8080", "192.168.1.7", "[fe80::1]:99"):
        assert fetch(locked, host=name)[0] == 401
        assert fetch(locked, host=name, authorization=bearer)[0] == 200
    assert fetch(locked, host="evil.example", authorization=bearer)[0] == 400


# -- the token -------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/app.js", MODELS, "/api/v1/nothing", "/nothing"])
def test_nothing_is_answered_without_the_token(locked: Server, path: str) -> None:
    status, headers, body = fetch(locked, path)
    assert status == 401
    assert token_of(locked).encode() not in body
    assert "set-cookie" not in headers


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer "},
        {"authorization": "Basic {token}"},
        {"authorization": "{token}"},
        {"authorization": "Bearer {token}x"},
        {"authorization": "Bearer \xe9"},
        {"cookie": "semlens={token}"},
        {"cookie": "{cookie}=wrong"},
        {"cookie": '{cookie}="'},
        {"cookie": ";;=;{cookie}"},
    ],
)
def test_a_wrong_token_is_refused(locked: Server, headers: dict[str, str]) -> None:
    token = token_of(locked)
    cookie = fetch(locked, f"/?token={token}")[1]["set-cookie"].partition("=")[0]
    given = {name: text.format(token=token, cookie=cookie) for name, text in headers.items()}
    assert fetch(locked, **given)[0] == 401


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "POST", "PROPFIND", "get"])
def test_no_path_leads_past_the_token(locked: Server, method: str) -> None:
    known = [b"".join(fetch(locked, authorization=f"Bearer {token_of(locked)}")[2:])[:40], b"page"]
    for path in (*ESCAPES, *PAGE, "*", "/app.js?token", "//?token={}", "/./?token={}",
                 "/%2f?token={}", "/;token={}", "/#?token={}", "/?Token={}", "/?token=x&token={}",
                 "/?token[]={}", f"{MODELS}/?token={{}}", "/index.html?token={}"):  # fmt: skip
        given = path.format(token_of(locked)) if "{}" in path else path
        for accept in ("*/*", "text/event-stream"):
            status, headers, body = fetch(
                locked, given, method, accept=accept, if_none_match="*", range="bytes=0-9"
            )
            assert status == 401, (method, path)
            assert not any(part in body for part in (SECRET.encode(), *known))
            assert token_of(locked).encode() not in body
            assert not {"etag", "set-cookie", "location", "content-range"} & headers.keys()


PAGE = ("/", "/app.js", "/index.html", "/nothing", "/api", "/api/v1/openapi.json", MODELS)


def test_a_connection_keeps_no_token(locked: Server) -> None:
    """Each request has its own, also one that was sent together with an allowed one."""
    token = token_of(locked)
    line = f"GET {MODELS} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    first = f"{line}Authorization: Bearer {token}\r\n\r\n"
    found = raw(locked, f"{first}{line}Connection: close\r\n\r\n".encode())
    assert [part[:3] for part in found.split(b"HTTP/1.1 ")[1:]] == [b"200", b"401"]
    twice = f"{line}Authorization: Bearer wrong\r\nAuthorization: Bearer {token}\r\n"
    assert b" 401 " in raw(locked, f"{twice}Connection: close\r\n\r\n".encode())
    absolute = f"GET http://127.0.0.1{MODELS} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    assert b" 401 " in raw(locked, f"{absolute}Connection: close\r\n\r\n".encode())
    upgrade = (
        f"{line}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port_of(locked)), timeout=60) as connection:
        connection.sendall(upgrade.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    "path", ["/?token=wrong", "/?token=", "/?token=%00", f"{MODELS}?token={{}}", "/app.js?token={}"]
)
def test_the_token_counts_in_the_address_of_the_page_only(locked: Server, path: str) -> None:
    assert fetch(locked, path.format(token_of(locked)))[0] == 401


def test_the_first_visit_leaves_a_cookie_and_a_clean_address(locked: Server) -> None:
    status, headers, body = fetch(locked, f"/?token={token_of(locked)}", host="lab.example")
    assert (status, headers["location"], body) == (303, "./", b"")
    assert headers["cache-control"] == "no-store"
    cookie, *flags = headers["set-cookie"].split("; ")
    # no Path: the cookie holds where the page is, below a proxy's prefix too
    assert {flag.lower() for flag in flags} == {"httponly", "samesite=strict"}
    assert fetch(locked, "/", cookie=cookie)[0] == 200
    assert fetch(locked, MODELS, cookie=f"other=1; {cookie}")[0] == 200


def test_the_cookie_is_secure_behind_a_proxy_that_speaks_https(locked: Server) -> None:
    page = f"/?token={token_of(locked)}"
    assert "Secure" in fetch(locked, page, x_forwarded_proto="https")[1]["set-cookie"]


def test_a_server_of_this_machine_alone_has_no_token_unless_asked(
    db: sl.ConceptDatabase, static: Path, server: Server
) -> None:
    assert "token" not in server.url
    assert fetch(server)[0] == 200
    asked = make_server([db], port=0, token=True, static=static)
    with asked.start():
        assert fetch(asked)[0] == 401
        assert fetch(asked, authorization=f"Bearer {token_of(asked)}")[0] == 200


def test_tokens_are_long_and_differ(db: sl.ConceptDatabase, static: Path) -> None:
    servers = [make_server([db], port=0, token=True, static=static) for _ in range(2)]
    tokens = {token_of(server) for server in servers}
    assert len(tokens) == 2
    assert min(map(len, tokens)) >= 40
    for server in servers:
        server.stop()


def test_a_person_without_the_token_reads_plain_text(locked: Server) -> None:
    status, headers, body = fetch(locked, "/", accept="text/html,*/*")
    assert status == 401
    assert headers["content-type"].startswith("text/plain")
    assert b"semlens serve" in body


def test_the_log_holds_neither_token_nor_query(
    locked: Server, caplog: pytest.LogCaptureFixture
) -> None:
    token = token_of(locked)
    with caplog.at_level(logging.DEBUG):
        fetch(locked, f"/?token={token}")
        fetch(locked, f"{MODELS}?q=private", authorization=f"Bearer {token}")
        fetch(locked, "/%0aGET%20forged", authorization=f"Bearer {token}")
    assert token not in caplog.text
    own = [record.getMessage() for record in caplog.records if record.name == "semlens.http"]
    assert [line.rsplit(" ", 2)[0] for line in own] == [
        "GET / 303",
        f"GET {MODELS} 200",
        "GET /%0aGET%20forged 404",
    ]


# -- where a request comes from --------------------------------------------------------

FOREIGN = [
    "http://evil.example",
    "null",
    "http://localhost",
    "http://127.0.0.1:1",
    "http://127.0.0.1.evil.example:{port}",
    "http://127.0.0.1:{port}@evil.example",
    "http://127.0.0.1:{port}.evil.example",
    "https://evil.example#http://127.0.0.1:{port}",
    "http://[",
    "",
]


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_a_change_from_another_site_is_refused(server: Server, method: str, origin: str) -> None:
    origin = origin.format(port=port_of(server))
    assert fetch(server, method=method, body=b"", origin=origin)[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_change_from_our_page_or_a_program_gets_through(server: Server, method: str) -> None:
    own = f"http://127.0.0.1:{port_of(server)}"
    # 405: it has reached the routes, of which none takes it
    assert fetch(server, method=method, body=b"", origin=own)[0] == 405
    assert fetch(server, method=method, body=b"")[0] == 405
    assert fetch(server, method=method, body=b"", sec_fetch_site="cross-site")[0] == 403


def test_another_site_may_link_but_not_read_or_set_off_work(server: Server) -> None:
    for site in ("cross-site", "same-site"):
        assert fetch(server, sec_fetch_site=site, sec_fetch_mode="no-cors")[0] == 403
        assert fetch(server, "/", sec_fetch_site=site, sec_fetch_mode="navigate")[0] == 200
    assert fetch(server, sec_fetch_site="same-origin", sec_fetch_mode="cors")[0] == 200


def test_nothing_allows_another_site(server: Server) -> None:
    _, headers, _ = fetch(server, origin="http://evil.example")
    assert not [name for name in headers if name.startswith("access-control")]
    status, headers, _ = fetch(
        server, method="OPTIONS", origin="http://evil.example", access_control_request_method="PUT"
    )
    assert status == 405
    assert not [name for name in headers if name.startswith("access-control")]


def test_a_proxy_on_this_machine_is_believed_for_allowed_names_only(locked: Server) -> None:
    given = {
        "method": "POST",
        "body": b"",
        "authorization": f"Bearer {token_of(locked)}",
        "origin": "https://lab.example",
    }
    assert fetch(locked, **given)[0] == 403
    assert fetch(locked, **given, x_forwarded_host="lab.example")[0] == 405
    assert fetch(locked, **given, x_forwarded_host="evil.example")[0] == 403
    given["origin"] = "https://evil.example"
    assert fetch(locked, **given, x_forwarded_host="evil.example")[0] == 403


def test_a_forwarded_name_from_elsewhere_is_not_believed(db: sl.ConceptDatabase) -> None:
    app = create_app([db], hosts=["lab.example", "localhost"])
    given = {"origin": "https://lab.example", "x-forwarded-host": "lab.example"}
    far = TestClient(app, base_url="http://localhost", client=("203.0.113.9", 1))
    near = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 1))
    assert far.post(MODELS, headers=given).status_code == 403
    assert near.post(MODELS, headers=given).status_code == 405


def test_a_websocket_is_refused(db: sl.ConceptDatabase) -> None:
    client = TestClient(create_app([db]), base_url="http://localhost")
    with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect(MODELS):
        pass
    assert caught.value.code == 1008


# -- files -----------------------------------------------------------------------------

ESCAPES = [
    "/../secret.txt",
    "/../../../../../../../../etc/passwd",
    "//etc/passwd",
    "///etc/passwd",
    "/./../secret.txt",
    "/%2e%2e/secret.txt",
    "/%2e%2e%2fsecret.txt",
    "/..%2fsecret.txt",
    "/..%5csecret.txt",
    "/..\\secret.txt",
    "/%252e%252e%252fsecret.txt",
    "/app.js/../../secret.txt",
    "/....//secret.txt",
    "/..;/secret.txt",
    "/link.txt",
    "/way/secret.txt",
    "/way",
    "/.hidden",
    "/%2ehidden",
    "/app.js%00.html",
    "/C:/secret.txt",
    "/" + "a" * 5000,
    "/api/v1/../../../secret.txt",
    "/api/v1/models/0/..%2f..%2f..%2f..%2fsecret.txt",
]


@pytest.mark.parametrize("path", ESCAPES, ids=lambda p: p[:40])
def test_no_path_leads_out_of_the_page(server: Server, path: str) -> None:
    status, headers, body = fetch(server, path)
    assert status == 404
    assert SECRET.encode() not in body
    assert b"root:" not in body
    assert headers["x-content-type-options"] == "nosniff"


def test_an_absolute_address_in_the_request_line_leads_nowhere(server: Server) -> None:
    head = b"GET http://evil.example/secret.txt HTTP/1.1\r\nHost: localhost\r\n"
    found = raw(server, head + b"Connection: close\r\n\r\n")
    assert found.split(b" ")[1] in (b"400", b"404")
    assert SECRET.encode() not in found


def test_the_page_itself_is_served_and_asked_for_anew(server: Server) -> None:
    for path, kind in (("/", "text/html"), ("/app.js", "text/javascript")):
        status, headers, _ = fetch(server, path)
        assert status == 200
        assert headers["content-type"].startswith(kind)
        assert headers["cache-control"] == "no-cache"
        status, again, body = fetch(server, path, if_none_match=headers["etag"])
        assert (status, body) == (304, b"")
        assert again["content-security-policy"] == HEADERS["content-security-policy"]
    assert fetch(server, "/app.js", accept_encoding="gzip")[1]["content-encoding"] == "gzip"
    assert fetch(server, "/index.html")[0] == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/api/v1/openapi.json"])
def test_there_are_no_pages_of_the_framework(server: Server, path: str) -> None:
    assert fetch(server, path)[0] == 404


@pytest.mark.parametrize("number", ["x", "-1", "1", "0x0", "..", "%2e%2e", "9" * 400, "1e0", "%00"])
def test_ids_are_integers_that_are_there(server: Server, number: str) -> None:
    status, headers, body = fetch(server, f"{MODELS}/{number}")
    assert status in (404, 422)
    assert headers["content-type"] == "application/json"
    assert b"Traceback" not in body


# -- bodies ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream"])
def test_an_upload_over_the_limit_is_refused(server: Server, kind: str) -> None:
    status, headers, body = fetch(
        server, method="POST", body=b"x" * (IMAGE_BYTES + 1_000_000), content_type=kind
    )
    assert status == 413
    assert b"10 MB" in body
    assert headers["x-content-type-options"] == "nosniff"
    assert fetch(server, method="POST", body=b"x" * IMAGE_BYTES, content_type=kind)[0] == 405


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "multipart/form-data", ""])
def test_any_other_body_may_have_less(server: Server, kind: str) -> None:
    body = b"x" * (JSON_BYTES + 1)
    assert fetch(server, method="POST", body=body, content_type=kind)[0] == 413
    assert fetch(server, method="POST", body=body[:-1], content_type=kind)[0] == 405


def chunked(size: int, head: bytes = b"") -> bytes:
    part = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    return (
        b"POST /api/v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
        + head
        + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        + part * (size // 0x10000 + 1)
        + b"0\r\n\r\n"
    )


def test_an_upload_without_a_length_is_counted(server: Server) -> None:
    assert b" 413 " in raw(server, chunked(11_000_000)).split(b"\r\n")[0]
    assert b" 405 " in raw(server, chunked(900_000)).split(b"\r\n")[0]


def test_an_upload_that_lies_about_its_length_is_counted(server: Server) -> None:
    status = raw(server, chunked(11_000_000, b"Content-Length: 10\r\n")).split(b"\r\n")[0]
    assert b" 413 " in status or b" 400 " in status
    head = b"POST /api/v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    # what comes after ten bytes is another request, and no HTTP
    short = raw(server, head + b"Content-Length: 10\r\n\r\n" + b"x" * 2000 + b"\r\n\r\n")
    assert short.startswith(b"HTTP/1.1 405")
    assert b"HTTP/1.1 400" in short
    assert fetch(server)[0] == 200


@pytest.mark.slow
def test_a_length_far_over_the_limit_is_refused_before_it_is_sent(server: Server) -> None:
    head = b"POST /api/v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    assert b" 413 " in raw(server, head + b"Content-Length: 99999999999\r\n\r\n").split(b"\r\n")[0]


# -- images ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uploads() -> TestClient:
    """An endpoint that takes a picture, within the real guard."""
    app = FastAPI()
    errors.install(app)

    @app.post("/picture")
    def picture(image: Upload) -> dict[str, object]:
        return {"mode": image.mode, "size": image.size, "first": image.getpixel((0, 0))}

    app.add_middleware(Guard, token=None)
    return TestClient(app, base_url="http://localhost")


def send(client: TestClient, body: bytes, kind: str = "image/png"):
    return client.post("/picture", content=body, headers={"content-type": kind})


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
    ],
)
def test_raster_images_are_taken_whatever_they_are_called(
    uploads: TestClient, kind: str, options: dict[str, object]
) -> None:
    body = encoded(Image.new("RGB", (7, 5), (250, 10, 10)), kind, **options)
    for said in ("image/png", "application/octet-stream", "image/svg+xml"):
        found = send(uploads, body, said).json()
        assert (found["mode"], found["size"]) == ("RGB", [7, 5])
        assert np.abs(np.subtract(found["first"], (250, 10, 10))).max() <= 3


def test_an_upload_is_turned_upright_and_put_over_white(uploads: TestClient) -> None:
    sideways = Image.new("RGB", (8, 4))
    exif = sideways.getexif()
    exif[0x0112] = 6
    assert send(uploads, encoded(sideways, "JPEG", exif=exif)).json()["size"] == [4, 8]
    clear = Image.new("RGBA", (3, 3), (0, 0, 0, 0))
    assert send(uploads, encoded(clear, "PNG")).json()["first"] == [255, 255, 255]
    moving = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    body = encoded(moving[0], "GIF", save_all=True, append_images=moving[1:])
    assert send(uploads, body).json()["first"] == [255, 0, 0]


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        SVG,
        b"<html><script>alert(1)</script>",
        b"%PDF-1.7 ...",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        encoded(Image.new("RGB", (9, 9)), "TIFF"),
        encoded(Image.new("RGB", (9, 9)), "BMP"),
        encoded(Image.new("RGB", (16, 16)), "ICO"),
        encoded(Image.new("RGB", (9, 9)), "PPM"),
        encoded(Image.new("RGB", (90, 90)), "PNG")[:60],
        encoded(Image.effect_noise((90, 90), 50), "JPEG")[:500],
        b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
    ],
    ids=["none", "svg", "html", "pdf", "eps", "tiff", "bmp", "ico", "ppm", "cut", "jpeg", "zeros"],
)
def test_anything_else_is_refused(uploads: TestClient, body: bytes) -> None:
    for said in ("image/png", "image/svg+xml"):
        answer = send(uploads, body, said)
        assert answer.status_code == 415
        assert answer.json()["remedy"] == "Convert the image or scale it down."


@pytest.mark.slow
@pytest.mark.parametrize("side", [20_000, 7_100])
def test_too_many_pixels_are_refused_before_they_are_decoded(
    uploads: TestClient, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    body = encoded(Image.new("1", (side, side)), "PNG")
    assert len(body) < 100_000 and side * side > PIXELS
    decoded: list[int] = []
    monkeypatch.setattr(Image.Image, "load", lambda self: decoded.append(1))
    answer = send(uploads, body)
    assert answer.status_code == 415
    assert "50 million pixels" in answer.json()["expected"]
    assert decoded == []


@pytest.mark.slow
@pytest.mark.parametrize("route", ["search", "explanations"])
def test_the_routes_of_images_are_guarded_so(server: Server, route: str) -> None:
    path = f"{MODELS}/0/{route}/image"
    bomb = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    large = b"x" * 11_000_000
    small = encoded(Image.new("RGB", (9, 9)), "PNG")
    for body, expected in ((SVG, 415), (bomb, 415), (large, 413), (small, 200)):
        assert fetch(server, path, "POST", body, content_type="image/png")[0] == expected
    foreign = fetch(
        server, path, "POST", small, content_type="image/png", origin="http://evil.example"
    )
    assert foreign[0] == 403


def test_the_prediction_without_components_is_guarded(server: Server) -> None:
    path = f"{MODELS}/0/explanations/0/without"
    body = b'{"components": ["first:0"]}'
    for given, expected in (
        ({}, {200, 202}),
        ({"origin": "http://evil.example"}, {403}),
        ({"host": "evil.example"}, {400}),
        ({"sec_fetch_site": "cross-site"}, {403}),
    ):
        answer = fetch(server, path, "POST", body, content_type="application/json", **given)
        assert answer[0] in expected, given
    large = fetch(server, path, "POST", b" " * (JSON_BYTES + 1), content_type="application/json")
    assert large[0] == 413


# -- what every answer carries ---------------------------------------------------------


def fails() -> None:
    raise ValueError("a private detail")


@pytest.mark.parametrize(
    ("path", "status"), [("/", 200), (MODELS, 200), ("/nothing", 404), (f"{MODELS}/x", 422)]
)
def test_headers_are_on_every_answer(server: Server, path: str, status: int) -> None:
    found, headers, _ = fetch(server, path)
    assert found == status
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert "server" not in headers


def test_headers_are_on_a_fault_of_ours_which_tells_nothing(
    db: sl.ConceptDatabase, static: Path
) -> None:
    app = create_app([db], static=static)
    app.router.routes.insert(0, APIRoute("/fails", fails))
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    answer = client.get("/fails")
    assert answer.status_code == 500
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "private" not in answer.text
    assert answer.json()["kind"] == "ServeError"


def test_the_policy_allows_nothing_from_elsewhere_and_no_inline_code() -> None:
    policy = dict(
        part.strip().partition(" ")[::2] for part in HEADERS["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in str(policy)


def test_a_page_that_was_never_built_says_so(db: sl.ConceptDatabase, tmp_path: Path) -> None:
    client = TestClient(create_app([db], static=tmp_path / "none"), base_url="http://localhost")
    answer = client.get("/")
    assert answer.status_code == 404
    assert "index.html" in answer.json()["value"]
    assert client.get("/app.js").status_code == 404
    assert client.get(MODELS).status_code == 200


def test_the_port_is_that_of_this_machine_alone(server: Server) -> None:
    assert server.url == f"http://127.0.0.1:{port_of(server)}/"
    with pytest.raises(OSError):  # an address of this machine too, on Linux
        socket.create_connection(("127.0.0.2", port_of(server)), timeout=5)
