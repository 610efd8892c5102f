"""Benchmarks by name: what each measures, how long it takes, and how it is run.

A benchmark is a module of ``cases`` (in a folder of its own, ``benchmark.py``) with a function
``measure(options, work)`` that is decorated with :func:`benchmark` and returns plain values. They
are printed as tables, or by its own ``show(result)``; with ``tables(result)``, the tables of
the documentation can be recorded (:mod:`benchmarks.harness.recorded`).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.harness.printing import result_tables

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "benchmarks" / "cases"

Measure = Callable[[argparse.Namespace, Path], dict[str, Any]]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that can be run by its name."""

    name: str
    module: ModuleType
    measure: Measure
    options: Mapping[str, Mapping[str, Any]]
    """Arguments for ``argparse`` by flag."""
    rounds: int | None
    """Default of ``--rounds``; None if there are no rounds."""
    prepare: Callable[[], None]
    """Called first, by the command line only."""
    problem: Callable[[dict[str, Any]], str | None]
    """What is wrong with a result, so that the command fails; None if nothing is."""

    def show(self, result: dict[str, Any]) -> None:
        """Print a result: as its module does, or as tables of all that it has."""
        if hasattr(self.module, "show"):
            self.module.show(result)
        else:
            shown = {key: one for key, one in result.items() if key not in ("quick", "machine")}
            print("\n\n".join(result_tables(shown)))

    @property
    def tables(self) -> Callable[[dict[str, Any]], dict[str, str]] | None:
        """From a result to Markdown by mark, if tables of the documentation can be written."""
        return getattr(self.module, "tables", None)

    def parser(self) -> argparse.ArgumentParser:
        """Return the parser of its options, and of those that all benchmarks have."""
        parser = argparse.ArgumentParser(
            f"python -m benchmarks {self.name}",
            description=self.module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument("--quick", action="store_true", help="tiny run, as a smoke test")
        parser.add_argument(
            "--work", type=Path, help="folder that keeps generated inputs for the next run"
        )
        if self.tables is not None:
            parser.add_argument(
                "--record", action="store_true",
                help="write the tables to results.json and to the documentation",
            )  # fmt: skip
        if self.rounds is not None:
            parser.add_argument("--rounds", type=int, default=self.rounds)
        for flag, settings in self.options.items():
            parser.add_argument(flag, **settings)
        return parser

    def run(self, parsed: argparse.Namespace) -> dict[str, Any]:
        """Measure, and return the result with the machine; anything printed goes to stderr."""
        machine_info = machine()  # before the benchmark itself adds load
        with tempfile.TemporaryDirectory() as temporary:
            work = (parsed.work or Path(temporary)).resolve()
            work.mkdir(parents=True, exist_ok=True)
            with contextlib.redirect_stdout(sys.stderr):  # Ray prints when a node dies
                values = self.measure(parsed, work)
        return {"quick": parsed.quick, "machine": machine_info, **values}


_REGISTERED: dict[str, Benchmark] = {}


def benchmark(
    *,
    minutes: float,
    quoted: Sequence[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    rounds: int | None = None,
    prepare: Callable[[], None] = lambda: None,
    problem: Callable[[dict[str, Any]], str | None] = lambda result: None,
) -> Callable[[Measure], Measure]:
    """Register a module's ``measure``.

    Parameters
    ----------
    minutes
        Duration on two cores, of the defaults. A literal, as :func:`described` reads it.
    quoted
        Pages that quote the results, from the root of the repository; literals too.
    options, rounds, prepare, problem
        Fields of :class:`Benchmark`.
    """

    def register(measure: Measure) -> Measure:
        module = sys.modules[measure.__module__]
        name = measure.__module__.removesuffix(".benchmark").rpartition(".")[2]
        _REGISTERED[name] = Benchmark(
            name, module, measure, options or {}, rounds, prepare, problem
        )
        return measure

    return register


def benchmark_names() -> list[str]:
    """Return the names of all benchmarks."""
    folders = [path.parent.name for path in CASES.glob("*/benchmark.py")]
    return sorted(folders + [path.stem for path in CASES.glob("*.py")])


def described(name: str) -> dict[str, Any]:
    """Return name, first line, minutes and pages of a benchmark, from its text: no import."""
    tree = ast.parse(_file(name).read_text("utf-8"))
    (call,) = (
        decorator
        for node in tree.body if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "benchmark"
    )  # fmt: skip
    given = {one.arg: one.value for one in call.keywords}
    return {
        "name": name,
        "about": (ast.get_docstring(tree) or "").partition("\n")[0],
        "minutes": ast.literal_eval(given["minutes"]),
        "quoted": list(ast.literal_eval(given["quoted"])) if "quoted" in given else [],
    }


def _file(name: str) -> Path:
    folder = CASES / name
    return folder / "benchmark.py" if folder.is_dir() else folder.with_suffix(".py")


def load_benchmark(name: str) -> Benchmark:
    """Import the case with this name.

    Raises
    ------
    SystemExit
        If there is none.
    """
    known = benchmark_names()
    if name not in known:
        raise SystemExit(f"There is no benchmark '{name}'. Expected one of {', '.join(known)}.")
    path = _file(name).relative_to(ROOT).with_suffix("")
    importlib.import_module(".".join(path.parts))
    return _REGISTERED[name]


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
