"""What every benchmark here is made of: options, turns, clocks, memory, workers and tables.

A benchmark is a function from its options and a work folder to one result of plain values, and
a function that prints that result for people; :func:`command` does the rest. What is compared
takes turns (:func:`in_turns`) in an order that changes from round to round, ratios are taken
within a round (:func:`ratio`), and CPU seconds, which other work on the machine disturbs less,
stand beside the clock's. This module is imported in the references' environments, too: it needs
nothing but Python, and PyTorch where a GPU is measured or the machine described.
"""

from __future__ import annotations

import argparse
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

Measured = dict[str, float]
"""What one part of one round measured: seconds, cpu_seconds, memory."""
Round = dict[str, Measured]
"""What all parts of one round measured."""


# -- the command --------------------------------------------------------------------------------


def command(
    about: str | None,
    measure: Callable[[argparse.Namespace, Path], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
    options: Mapping[str, Mapping[str, Any]],
    *,
    rounds: int | None = None,
) -> None:
    """Read the options, measure, and print a JSON object or what ``show`` prints.

    Parameters
    ----------
    about
        The script's docstring, whose first line describes it.
    measure
        Takes the options and the work folder: ``--work``, or one for this run only.
    options
        By flag, what ``argparse`` needs to know, beside ``--json``, ``--quick`` and ``--work``.
    rounds
        Default of ``--rounds``; None where there are no rounds.
    """
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="a tiny run, to see that it works")
    parser.add_argument("--work", type=Path, help="keep what is made here for the next run")
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds)
    for flag, settings in options.items():
        parser.add_argument(flag, **settings)
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    described = machine()  # before there is a load of our own
    with tempfile.TemporaryDirectory() as temporary:
        work = (given.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        found = measure(given, work)
    result = {"quick": given.quick, "machine": described, **found}
    if given.json:
        print(json.dumps(result))
    else:
        show(result)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], digits: int = 2) -> str:
    """Return a Markdown table: numbers with some digits, what is None as a dash."""

    def cell(value: Any) -> str:
        if value is None:
            return "-"
        return f"{value:.{digits}f}" if isinstance(value, float) else str(value)

    lines = [list(head), ["---"] * len(head), *([cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tell(text: str) -> None:
    """Say how far it is, beside what is printed."""
    print(text, file=sys.stderr, flush=True)


# -- turns and ratios ---------------------------------------------------------------------------


def in_turns(parts: Mapping[str, Callable[[], Measured]], rounds: int) -> Iterator[Round]:
    """Run all parts once a round, each round beginning with another one."""
    names = list(parts)
    for number in range(rounds):
        turn = number % len(names)
        found = {name: parts[name]() for name in names[turn:] + names[:turn]}
        told = ", ".join(f"{name} {one['seconds']:.4g}" for name, one in found.items())
        tell(f"round {number + 1}, seconds: {told}")
        yield found


def ratio(
    rounds: Sequence[Round], above: Sequence[str], below: Sequence[str], key: str = "seconds"
) -> float | None:
    """Return the median over rounds of parts' sum over others' (None: one was left out)."""
    if not rounds or not {*above, *below} <= set(rounds[0]):
        return None
    return statistics.median(
        sum(one[part][key] for part in above) / sum(one[part][key] for part in below)
        for one in rounds
    )


def median(rounds: Sequence[Round], part: str, key: str = "seconds") -> float:
    """Return the median over rounds of what a part measured."""
    return statistics.median(one[part][key] for one in rounds)


def largest(rounds: Sequence[Round], part: str, key: str) -> float:
    """Return the largest value over rounds of what a part measured."""
    return max(one[part][key] for one in rounds)


# -- time and memory ----------------------------------------------------------------------------


class Clock:
    """Wall-clock and CPU seconds of what runs within ``with clock``, summed up.

    CPU seconds are those of this process and of children that have ended.

    Parameters
    ----------
    settle
        What waits for work in flight before the clock is read.
    """

    def __init__(self, settle: Callable[[], object] = lambda: None) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self._settle = settle

    def __enter__(self) -> Self:
        self._settle()
        self._began = time.perf_counter(), self._cpu()
        return self

    def __exit__(self, *_: object) -> None:
        self._settle()
        self.seconds += time.perf_counter() - self._began[0]
        self.cpu_seconds += self._cpu() - self._began[1]

    @staticmethod
    def _cpu() -> float:
        used = os.times()
        return time.process_time() + used.children_user + used.children_system

    def read(self, count: int = 1) -> Measured:
        """Return the seconds for each of ``count`` results."""
        return {"seconds": self.seconds / count, "cpu_seconds": self.cpu_seconds / count}


class Meter:
    """A clock, and the peak of the memory since it was made: resident, or a GPU's allocator."""

    def __init__(self, device: str) -> None:
        self._gpu: Any = None
        gc.collect()
        if device != "cpu":
            import torch

            self._gpu = torch.cuda
            self._gpu.reset_peak_memory_stats()
            self._before = self._gpu.memory_allocated() / 2**20
        else:
            _forget_peak()
            self._before = memory_mib("VmRSS")
        self.clock = Clock(self._gpu.synchronize) if self._gpu else Clock()

    def read(self, count: int) -> Measured:
        """Return the seconds for each of ``count`` results, and the memory at its peak.

        ``extra_mib`` is what the peak has above what was held before.
        """
        peak = self._gpu.max_memory_allocated() / 2**20 if self._gpu else peak_mib()
        times = self.clock.read(count)
        return {"count": count, **times, "peak_mib": peak, "extra_mib": peak - self._before}


def memory_mib(name: str, process: int | str = "self") -> float:
    """Read one of Linux's memory counters of a process; 0 elsewhere."""
    status = Path(f"/proc/{process}/status")
    if not status.is_file():
        return 0.0
    lines = status.read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / 1024


def peak_mib() -> float:
    """Return this process's peak resident memory.

    Linux's own counter first: ``ru_maxrss`` also counts the process that started this one.
    """
    return memory_mib("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _forget_peak() -> None:
    """Give freed memory back, and let Linux count the peak anew, where it lets us."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", "utf-8")
    except (AttributeError, OSError):
        pass


# -- the machine, and environments of references ------------------------------------------------


def machine() -> dict[str, Any]:
    """Describe the machine and the libraries that decide the times."""
    import torch

    described = Path("/proc/cpuinfo")
    lines = described.read_text("utf-8").splitlines() if described.is_file() else []
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


def reference_python(folder: Path, requirement: str) -> Path:
    """Make a reference's environment in ``folder`` and return its Python.

    It borrows PyTorch and the like from this environment, so that both run the same kernels;
    what else it needs is installed into it, and this environment stays as it is.
    """
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.is_file():
        venv.create(folder, with_pip=True, clear=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        borrowed = folder / "lib" / version / "site-packages" / "borrowed.pth"
        borrowed.write_text("\n".join(site.getsitepackages()), "utf-8")
        install = [python, "-m", "pip", "install", "-q", requirement]
        subprocess.run(install, check=True, stdout=sys.stderr)
        done.touch()
    return python


# -- workers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """Settings that a worker reads from a file."""

    work: str

    def write(self) -> Path:
        """Write the settings where workers read them."""
        path = Path(self.work) / "settings.json"
        path.write_text(json.dumps(asdict(self)), "utf-8")
        return path

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read what :meth:`write` wrote."""
        values = json.loads(Path(path).read_text("utf-8"))
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


class Worker:
    """A process that answers questions, one JSON line each way, until it is closed.

    Parameters
    ----------
    script
        Ends in :func:`serve`.
    python
        Whose Python runs it; by default this one.
    threads
        Threads of its libraries; None leaves that to them.
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


def serve(answers: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer a :class:`Worker`'s questions until it is gone; other prints go to stderr."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        values = json.loads(line)
        print(json.dumps(answers[values.pop("do")](**values)), file=out, flush=True)
