"""A process that answers questions, one JSON line each way, and what it measures meanwhile.

The sides of the relevance benchmark live in processes of their own that stay up: libraries,
weights and captured graphs are loaded once, and the sides can take turns at short work.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class Worker:
    """The asking side."""

    def __init__(self, python: Path, script: Path, *arguments: str | Path, threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
        self._name = " ".join([script.name, *map(str, arguments[:1])])
        self._process = subprocess.Popen(
            [python, script, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def ask(self, question: str, **values: object) -> dict[str, Any]:
        """Have one thing done."""
        assert self._process.stdin is not None  # noqa: S101 - both are pipes
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write(json.dumps({"do": question, **values}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._name} ended at '{question}' with code {self._process.wait()}.")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def serve(answers: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer until the asker is gone. What libraries print goes to stderr."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        values = json.loads(line)
        answer = answers[values.pop("do")](**values)
        out.write(json.dumps(answer) + "\n")
        out.flush()


class Meter:
    """Wall-clock and CPU seconds of what runs under :meth:`timing`, and peak memory."""

    def __init__(self, device: str) -> None:
        self._gpu = device != "cpu"
        self._seconds = self._cpu = 0.0
        gc.collect()
        if self._gpu:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated() / 2**20
        else:
            _trim()
            self._before = _status_mib("VmRSS")

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Add up the time spent here."""
        self._finish()
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._finish()
        self._seconds += time.perf_counter() - wall
        self._cpu += time.process_time() - cpu

    def read(self, count: int) -> dict[str, float]:
        """Return the seconds for each of ``count`` results, and the memory at its peak.

        ``extra_mib`` is what the peak has above what was held before.
        """
        peak = torch.cuda.max_memory_allocated() / 2**20 if self._gpu else _status_mib("VmHWM")
        return {
            "count": count,
            "seconds": self._seconds / count,
            "cpu_seconds": self._cpu / count,
            "peak_mib": peak,
            "extra_mib": peak - self._before,
        }

    def _finish(self) -> None:
        if self._gpu:
            torch.cuda.synchronize()


def _trim() -> None:
    """Give freed memory back, and let Linux count the peak anew, where it lets us."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", "utf-8")
    except (AttributeError, OSError):
        pass


def _status_mib(name: str) -> float:
    """Read one of Linux's memory counters of this process; 0 elsewhere."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return 0.0
    lines = status.read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
