"""A hub on this machine: the HTTP endpoints that the real client of Hugging Face uses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub.constants as constants
import pytest
from huggingface_hub import HfFileSystem

TOKEN = "hf_test"
Files = dict[str, bytes]


@dataclass
class _Repository:
    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Files] = field(default_factory=dict)

    def commit(self, branch: str, files: Files) -> str:
        names = sorted((name, hashlib.sha256(data).hexdigest()) for name, data in files.items())
        oid = hashlib.sha1(json.dumps([len(self.commits), names]).encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        return oid

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


class Hub:
    """Repositories in memory; every answer to GET of a file is recorded."""

    def __init__(self) -> None:
        self.repositories: dict[str, _Repository] = {}
        self.uploads: Files = {}
        self.gets: list[str] = []
        """Paths of files that were read."""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def files(self, name: str, revision: str = "main") -> Files:
        repository = self.repositories[name]
        return repository.commits[repository.branches[revision]]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Write nothing."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, name: str) -> _Repository | None:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self._may_write):
            # the hub does not tell whether a private repository exists
            self._send(
                404 if self._may_write else 401, {"error": "Repository not found"},
                X_Error_Code="RepoNotFound", X_Error_Message="Repository not found",
            )  # fmt: skip
            return None
        return found

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        if not self._may_write and not path.endswith("/paths-info"):
            self._send(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            sent = json.loads(body)
            name = f"{sent.get('organization') or 'ada'}/{sent['name']}"
            private = sent.get("private") or sent.get("visibility") == "private"
            if name in self.hub.repositories:
                self._send(409, {"error": "You already created this", "url": name})
                return
            repository = self.hub.repositories[name] = _Repository(bool(private))
            repository.commit("main", {".gitattributes": b""})
            self._send(200, {"url": f"{self.hub.endpoint}/datasets/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/branch/(.+)", path):
            repository = self.hub.repositories[match[1]]
            known = match[2] in repository.branches
            repository.branches.setdefault(match[2], repository.branches["main"])
            self._send(409 if known else 200, {})
        elif re.fullmatch(r"/api/datasets/[^/]+/[^/]+/preupload/.+", path):
            modes = [
                {
                    "path": file["path"], "shouldIgnore": False, "oid": None,
                    "uploadMode": "lfs" if file["size"] > 4096 else "regular",
                }
                for file in json.loads(body)["files"]
            ]  # fmt: skip
            self._send(200, {"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._send(200, {"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/commit/(.+)", path):
            self._commit(match[1], match[2], [json.loads(line) for line in body.splitlines()])
        else:
            self._send(404, {"error": path})

    def _commit(self, name: str, branch: str, operations: list[dict[str, Any]]) -> None:
        repository = self.hub.repositories[name]
        files = dict(repository.commits[repository.branches[branch]])
        for one in operations:
            value = one["value"]
            if one["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif one["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif one["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(branch, files)
        url = f"{self.hub.endpoint}/datasets/{name}/commit/{oid}"
        self._send(200, {"success": True, "commitOid": oid, "commitUrl": url})

    def do_PUT(self) -> None:
        body, oid = self._body(), self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.uploads[oid] = body
        self._send(200)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            if found := self._find(match[1], match[2] or "main"):
                oid, files = found
                siblings = [{"rfilename": file} for file in files]
                self._send(200, {"id": match[1], "sha": oid, "siblings": siblings})
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", path):
            if found := self._find(match[1], match[2]):
                recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
                tree = _tree(found[1], match[3], recursive)
                if tree or not match[3]:
                    self._send(200, tree)
                else:
                    self._send(404, {"error": "no such entry"}, X_Error_Code="EntryNotFound")
        elif match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if found := self._find(match[1], match[2]):
                self._send_file(*found, match[3])
        else:
            self._send(404, {"error": path})

    def _find(self, name: str, revision: str) -> tuple[str, Files] | None:
        repository = self._repository(name)
        if repository is None:
            return None
        oid = repository.resolve(revision)
        if oid is None:
            self._send(404, {"error": "no such revision"}, X_Error_Code="RevisionNotFound")
            return None
        return oid, repository.commits[oid]

    def _send_file(self, oid: str, files: Files, name: str) -> None:
        if name not in files:
            self._send(404, {"error": "no such entry"}, X_Error_Code="EntryNotFound")
            return
        data = files[name]
        headers = {"X_Repo_Commit": oid, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        if self.command == "GET":
            self.hub.gets.append(name)
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, stop = int(match[1]), int(match[2] or len(data) - 1) + 1
            headers["Content_Range"] = f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}"
            self._send(206, data[start:stop], **headers)
        else:
            self._send(200, data, **headers)


def _tree(files: Files, folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Return the entries of a folder as the hub lists them."""
    head, entries = f"{folder}/" if folder else "", {}
    for name, data in files.items():
        if not name.startswith(head):
            continue
        inside = name.removeprefix(head).split("/")
        for depth in range(1, len(inside) if recursive else min(len(inside), 2)):
            path = head + "/".join(inside[:depth])
            entries[path] = {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
        if recursive or len(inside) == 1:
            oid = hashlib.sha1(data).hexdigest()
            entries[name] = {"type": "file", "path": name, "oid": oid, "size": len(data)}
    return list(entries.values())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[Hub]:
    """A running hub that the client is logged in to; nothing else is contacted."""
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # as some tests import it
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a protocol of its own, in Rust
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("SEMLENS_CACHE", str(tmp_path / "copies"))
    HfFileSystem.clear_instance_cache()
    yield hub
    HfFileSystem.clear_instance_cache()
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()
