"""An object store on this machine: moto's S3 server, which counts requests and can be slow."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import s3fs
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "images"


class _Silent(WSGIRequestHandler):
    def log(self, *arguments: Any, **options: Any) -> None:
        """Write nothing."""


class ObjectStore:
    """A bucket of a real S3 server on loopback."""

    def __init__(self) -> None:
        self.gets: list[tuple[str, int]] = []
        """Path and bytes of each answer to a GET request."""
        self.latency = 0.0
        """Seconds before each answer."""
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=_Silent
        )
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        time.sleep(self.latency)
        body = b"".join(self._app(environ, start_response))
        if environ["REQUEST_METHOD"] == "GET":
            self.gets.append((environ["PATH_INFO"], len(body)))
        return [body]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve in a thread."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        yield
        self._server.shutdown()
        thread.join()

    @property
    def client(self) -> Any:
        """A client of Amazon's own library."""
        return boto3.client("s3", endpoint_url=self.endpoint)

    def upload(self, folder: Path, name: str) -> str:
        """Upload a folder of files; return its URL."""
        client = self.client
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            client.upload_file(str(path), BUCKET, f"{name}/{path.relative_to(folder).as_posix()}")
        return f"s3://{BUCKET}/{name}"

    def read_bytes(self, part: str = "") -> int:
        """Return the bytes of all answers, or of those whose path contains a text."""
        return sum(size for path, size in self.gets if part in path)


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A running object store; the environment names it, and a folder for copies."""
    store = ObjectStore()
    with pytest.MonkeyPatch.context() as patch, store.running():
        patch.setenv("AWS_ENDPOINT_URL_S3", store.endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("SEMLENS_CACHE", str(tmp_path_factory.mktemp("copies")))
        s3fs.S3FileSystem.clear_instance_cache()
        store.client.create_bucket(Bucket=BUCKET)
        yield store
    s3fs.S3FileSystem.clear_instance_cache()
