"""Finished databases whose files are damaged, and servers whose database is taken away."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.cases.faults.process import PATIENCE, Child
from benchmarks.cases.faults.trials import (
    REFUSED,
    RIGHT,
    WRONG,
    Bench,
    Trial,
    answers,
    changed,
    judge,
)
from benchmarks.worlds.tiny import contents

ASKED = ("show", "label", "audit")
"""Questions that read every file."""
Change = Callable[[Path], object]


def changes(bench: Bench, content: bytes) -> Iterator[tuple[str, Change]]:
    """Yield the kinds of damage, each with a function that does it."""

    def as_folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    def as_pipe(path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    def write(data: bytes) -> Change:
        return lambda path: path.write_bytes(data)

    yield "removed", Path.unlink
    yield "emptied", write(b"")
    yield "truncated", write(content[: len(content) // 2])
    yield "truncated", write(content[:-1])
    yield "with another byte at its end", write(content + b"\0")
    yield "replaced by a folder", as_folder
    yield "replaced by a pipe", as_pipe
    for _ in range(bench.extent.flips):
        flipped = bytearray(content)
        flipped[int(bench.draw.integers(len(content)))] ^= 1 << int(bench.draw.integers(8))
        yield "with a changed bit", write(bytes(flipped))


def damaged_files(bench: Bench) -> Iterator[Trial]:
    """Damage each file of a database, cached results included, and ask every question."""
    path = bench.target(bench.whole)
    answers(bench, path)  # so that results are cached
    expected = answers(bench, path, ASKED)
    for name in bench.some(list(contents(path)), 8):
        file = path / name
        kept = "a cached result" if name.startswith("analysis/") else "a file"
        for kind, change in bench.some(list(changes(bench, file.read_bytes()))):
            asked = bench.some(ASKED)
            with changed(file, change):
                for question, ending in answers(bench, path, asked).items():
                    where = f"{name} {kind}, {question}"
                    yield judge(f"{kept} {kind}", where, ending, expected[question])


# -- a server -----------------------------------------------------------------------------------

ROUTES = (
    "/api/v1/models",
    "/api/v1/models/0",
    "/api/v1/models/0/search?q=red&top=3",
    "/api/v1/models/0/components?layer=first",
    "/api/v1/models/0/components/first:1",
    "/api/v1/models/0/names",
    "/api/v1/models/0/classes",
    "/api/v1/models/0/map",
    "/api/v1/models/0/crops/0",
    "/",
)


def _in_place(change: Callable[[bytes], bytes]) -> Change:
    """Write to the files themselves, which a server may have open, as ``cp`` does."""

    def write(path: Path) -> None:
        for file in path.rglob("*.*"):
            if file.is_file() and file.name != "manifest.json":
                with file.open("r+b") as opened:
                    content = change(opened.read())
                    opened.seek(0)
                    opened.write(content)
                    opened.truncate()

    return write


def served(bench: Bench) -> Iterator[Trial]:
    """Ask a server for everything while its database is deleted, replaced or damaged."""

    def extend(path: Path) -> None:
        ending = bench.build(path).ending()
        assert ending.finished, ending  # noqa: S101

    def replace(path: Path) -> None:
        shutil.rmtree(path)
        shutil.copytree(bench.whole, path)

    def empty(path: Path) -> None:
        for file in path.rglob("*.*"):
            if file.is_file():
                file.write_bytes(b"")

    kinds: dict[str, Change] = {
        "shortened in place": _in_place(lambda content: content[: len(content) // 2]),
        "overwritten in place": _in_place(lambda content: content[::-1]),
        "deleted": shutil.rmtree,
        "extended": extend,
        "replaced by another": replace,
        "emptied file by file": empty,
        "replaced by a file": lambda path: (shutil.rmtree(path), path.write_bytes(b"")),
        "left without its manifest": lambda path: (path / "manifest.json").unlink(),
    }
    path = bench.target()
    for kind, change in bench.some(list(kinds.items())):
        known = dict[str, tuple[int, bytes]]()
        for _ in bench.some(range(2)):  # a second server is asked for nothing before
            _remove(path)
            shutil.copytree(bench.one_layer, path)
            yield from _served(f"a served database {kind}", path, change, known)
    _remove(path)


def _remove(path: Path) -> None:
    path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)


def _served(
    fault: str, path: Path, change: Change, known: dict[str, tuple[int, bytes]]
) -> Iterator[Trial]:
    """Answers are those of the database as it was opened, or refusals."""
    server = Child(["serve", path, "--port", "0", "--no-browser"])
    try:
        port = _port(server)
        known.update({} if known else {route: _get(server, port, route) for route in ROUTES})
        change(path)
        for route in ROUTES:
            status, body = _get(server, port, route)
            if status == 200 and (status, body) == known[route]:
                yield Trial(fault, RIGHT)
            elif 400 <= status < 500 and _has_three_parts(body):
                yield Trial(fault, REFUSED)
            else:
                where = f"{route}: {status} {body[:300]!r}"
                yield Trial(fault, WRONG, f"{where} {server.said(1)[-900:]}")
        server.send(signal.SIGINT)
        ending = server.ending()
        if ending.code not in (0, 130) or "Traceback" in ending.errors:
            yield Trial(fault, WRONG, f"the server: {ending}")
    finally:
        server.send(signal.SIGKILL)


def _port(server: Child) -> int:
    while server.pump(0.2):
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", server.said(0) + server.said(1)):
            return int(found[1])
    raise AssertionError(server.ending())


def _get(server: Child, port: int, route: str) -> tuple[int, bytes]:
    """Return status and body, once work in the background is done."""
    until = time.monotonic() + PATIENCE
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("GET", route)
            answer = connection.getresponse()
            status, body = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            status, body = 599, repr(error).encode()
        finally:
            connection.close()
            server.pump(0)
        if not _is_pending(status, body) or time.monotonic() > until:
            return status, body
        time.sleep(0.05)


def _is_pending(status: int, body: bytes) -> bool:
    """Whether work in the background goes on: the table is sent while parts of it are computed."""
    if status != 200 or b'"pending_' not in body:
        return status == 202
    return any(value for name, value in json.loads(body).items() if name.startswith("pending_"))


def _has_three_parts(body: bytes) -> bool:
    try:
        error = json.loads(body)
    except ValueError:
        return False
    return all(error.get(part) for part in ("value", "expected", "remedy"))
