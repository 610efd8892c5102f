"""Processes that answer requests, and the environments of reference packages."""

from __future__ import annotations

import json
import os
import site
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.harness.registry import ROOT


def reference_python(folder: Path, *requirements: str) -> Path:
    """Create a reference's environment in ``folder`` and return its Python.

    It sees the packages of this environment, so that both run the same PyTorch kernels. The
    requirements are installed into it; this environment is not changed.
    """
    python = folder / "bin" / "python"
    marker = folder / "installed"
    if not marker.is_file():
        venv.create(folder, with_pip=True, clear=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        path_file = folder / "lib" / version / "site-packages" / "parent_environment.pth"
        path_file.write_text("\n".join(site.getsitepackages()), "utf-8")
        install = [python, "-m", "pip", "install", "-q", *requirements]
        subprocess.run(install, check=True, stdout=sys.stderr)
        marker.touch()
    return python


@dataclass(frozen=True)
class Settings:
    """Base class of settings that a worker reads from a file."""

    work: str

    def write(self) -> Path:
        """Write the settings to a file for the workers."""
        path = Path(self.work) / "settings.json"
        path.write_text(json.dumps(asdict(self)), "utf-8")
        return path

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read settings from a file of :meth:`write`."""
        values = json.loads(Path(path).read_text("utf-8"))
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


class Worker:
    """A process that answers requests, one JSON line each, until it is closed.

    Parameters
    ----------
    module
        Module that calls :func:`serve` when it is run.
    python
        Python that runs the script; by default the current one.
    threads
        Threads of its libraries; None uses their default.
    """

    def __init__(
        self,
        module: str,
        *arguments: str | Path,
        python: Path | None = None,
        threads: int | None = None,
    ) -> None:
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        self._name = " ".join([module, *map(str, arguments[:1])])
        self._process = subprocess.Popen(
            [python or sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def ask(self, request: str, **values: object) -> dict[str, Any]:
        """Send a request and return its answer."""
        assert self._process.stdin is not None  # noqa: S101 - both are pipes
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(json.dumps({"do": request, **values}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._name} ended at '{request}' with code {self._process.wait()}.")
        return json.loads(line)


def serve(handlers: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer the requests of a :class:`Worker` until it closes; other output goes to stderr."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        values = json.loads(line)
        print(json.dumps(handlers[values.pop("do")](**values)), file=out, flush=True)
