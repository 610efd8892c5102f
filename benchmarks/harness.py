"""Shared tools of all benchmarks: options, rounds, clocks, memory, workers and tables.

A benchmark is a function from its options and a work folder to a result of plain values, and a
function that prints the result; :func:`command` does the rest. The compared parts take turns
(:func:`in_turns`) in an order that changes each round, and ratios are computed within a round
(:func:`ratio`). CPU seconds are reported too, because other work on the machine disturbs them less
than wall-clock time. This module is also imported in the references' environments: it needs only
Python, and PyTorch to measure a GPU or describe the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import resource
import site
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

Measurement = dict[str, float]
"""Measurement of one part in one round: seconds, cpu_seconds, memory."""
Round = dict[str, Measurement]
"""Measurements of all parts in one round."""


# -- the command --------------------------------------------------------------------------------


def command(
    about: str | None,
    measure: Callable[[argparse.Namespace, Path], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
    options: Mapping[str, Mapping[str, Any]],
    *,
    rounds: int | None = None,
) -> None:
    """Parse the options, measure, and print the result as JSON or with ``show``.

    Parameters
    ----------
    about
        The script's docstring; its first line is the description.
    measure
        Takes the options and the work folder: ``--work``, or a temporary one.
    options
        Arguments for ``argparse`` by flag, besides ``--json``, ``--quick`` and ``--work``.
    rounds
        Default of ``--rounds``; None if there are no rounds.
    """
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="tiny run, as a smoke test")
    parser.add_argument(
        "--work", type=Path, help="folder that keeps generated inputs for the next run"
    )
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds)
    for flag, settings in options.items():
        parser.add_argument(flag, **settings)
    parsed = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    machine_info = machine()  # before the benchmark itself adds load
    with tempfile.TemporaryDirectory() as temporary:
        work = (parsed.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stdout(sys.stderr):  # Ray prints when a node dies
            values = measure(parsed, work)
    result = {"quick": parsed.quick, "machine": machine_info, **values}
    if parsed.json:
        print(json.dumps(result))
    else:
        show(result)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], digits: int = 2) -> str:
    """Return a Markdown table; floats with ``digits`` decimals, None as a dash."""

    def cell(value: Any) -> str:
        if value is None:
            return "-"
        return f"{value:.{digits}f}" if isinstance(value, float) else str(value)

    lines = [list(header), ["---"] * len(header), *([cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def log(text: str) -> None:
    """Report progress on standard error."""
    print(text, file=sys.stderr, flush=True)


# -- turns and ratios ---------------------------------------------------------------------------


def in_turns(parts: Mapping[str, Callable[[], Measurement]], rounds: int) -> Iterator[Round]:
    """Run all parts once per round; each round starts with the next part."""
    names = list(parts)
    for number in range(rounds):
        first = number % len(names)
        times = {name: parts[name]() for name in names[first:] + names[:first]}
        text = ", ".join(f"{name} {part['seconds']:.4g}" for name, part in times.items())
        log(f"round {number + 1}, seconds: {text}")
        yield times


def ratio(
    rounds: Sequence[Round],
    numerator: Sequence[str],
    denominator: Sequence[str],
    key: str = "seconds",
) -> float | None:
    """Return the median over rounds of the ratio of sums; None if a part was not run."""
    if not rounds or not {*numerator, *denominator} <= set(rounds[0]):
        return None
    return statistics.median(
        sum(times[part][key] for part in numerator) / sum(times[part][key] for part in denominator)
        for times in rounds
    )


def median(rounds: Sequence[Round], part: str, key: str = "seconds") -> float:
    """Return the median over rounds of a part's measurement."""
    return statistics.median(times[part][key] for times in rounds)


def largest(rounds: Sequence[Round], part: str, key: str) -> float:
    """Return the maximum over rounds of a part's measurement."""
    return max(times[part][key] for times in rounds)


# -- time and memory ----------------------------------------------------------------------------


class Clock:
    """Total wall-clock and CPU seconds of all ``with clock`` blocks.

    CPU seconds include child processes that have ended.

    Parameters
    ----------
    synchronize
        Called before the clock is read, to wait for asynchronous work.
    """

    def __init__(self, synchronize: Callable[[], object] = lambda: None) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self._synchronize = synchronize

    def __enter__(self) -> Self:
        self._synchronize()
        self._started = time.perf_counter(), self._cpu()
        return self

    def __exit__(self, *_: object) -> None:
        self._synchronize()
        self.seconds += time.perf_counter() - self._started[0]
        self.cpu_seconds += self._cpu() - self._started[1]

    @staticmethod
    def _cpu() -> float:
        used = os.times()
        return time.process_time() + used.children_user + used.children_system

    def read(self, count: int = 1) -> Measurement:
        """Return the seconds per result."""
        return {"seconds": self.seconds / count, "cpu_seconds": self.cpu_seconds / count}


class Meter:
    """A clock, and the peak memory since its creation: resident, or of the GPU's allocator."""

    def __init__(self, device: str) -> None:
        self._gpu: Any = None
        gc.collect()
        if device != "cpu":
            import torch

            self._gpu = torch.cuda
            self._gpu.reset_peak_memory_stats()
            self._before = self._gpu.memory_allocated() / 2**20
        else:
            reset_peak()
            self._before = memory_mib("VmRSS")
        self.clock = Clock(self._gpu.synchronize) if self._gpu else Clock()

    def read(self, count: int) -> Measurement:
        """Return the seconds per result and the peak memory.

        ``extra_mib`` is the peak minus the memory in use before.
        """
        peak = self._gpu.max_memory_allocated() / 2**20 if self._gpu else peak_mib()
        times = self.clock.read(count)
        return {"count": count, **times, "peak_mib": peak, "extra_mib": peak - self._before}


def memory_mib(name: str, process: int | str = "self") -> float:
    """Read a memory counter of a Linux process; 0 on other systems."""
    status = Path(f"/proc/{process}/status")
    if not status.is_file():
        return 0.0
    lines = status.read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / 1024


def peak_mib() -> float:
    """Return the peak resident memory of this process.

    Linux's counter is preferred: ``ru_maxrss`` includes the parent process before ``exec``.
    """
    return memory_mib("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reset_peak() -> None:
    """Release freed memory, and reset Linux's peak counter if permitted."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", "utf-8")
    except (AttributeError, OSError):
        pass


# -- the machine, and environments of references ------------------------------------------------


def machine() -> dict[str, Any]:
    """Describe the machine and the libraries that affect the times."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "torchvision": importlib.metadata.version("torchvision"),
        "pillow": importlib.metadata.version("pillow"),
        "load_before": round(os.getloadavg()[0], 2),
    }


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


# -- workers ------------------------------------------------------------------------------------


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
    script
        Script that calls :func:`serve`.
    python
        Python that runs the script; by default the current one.
    threads
        Threads of its libraries; None uses their default.
    """

    def __init__(
        self,
        script: Path,
        *arguments: str | Path,
        python: Path | None = None,
        threads: int | None = None,
    ) -> None:
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        self._name = " ".join([script.name, *map(str, arguments[:1])])
        self._process = subprocess.Popen(
            [python or sys.executable, script, *arguments],
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
