"""The readers of ``fuzz``, fuzzed by coverage: inputs that reach new code are changed further.

Needs atheris (``pip install atheris``), which is not part of the test dependencies. Each reader
runs in a process of its own for a share of the time. Inputs are those that Hypothesis makes of the
bytes that libFuzzer chooses, and they are judged as in ``fuzz``.

    python -m benchmarks fuzz_coverage                 # ten minutes
    python -m benchmarks fuzz_coverage --minutes 60 --only manifests "shards"
    python -m benchmarks fuzz_coverage --record
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import benchmark, log, table
from benchmarks.harness.results import measurement

LEFT_OUT = ("HTTP requests", "SPECs of models", "SPECs of embedders", "SPECs of images")
"""Too slow for many inputs, as they load libraries or start jobs."""


@benchmark(
    minutes=10,
    quoted=("docs/reliability.md",),
    options={
        "--minutes": {"type": float, "default": 10.0, "help": "for all readers together"},
        "--only": {"nargs": "+", "help": "only these readers"},
    },
)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Fuzz the readers one after the other, and count what became of their inputs."""
    import atheris  # pyright: ignore[reportMissingImports]

    with atheris.instrument_imports(include=["semlens"]):
        from benchmarks.cases.fuzz.benchmark import CODE, readers

        known = readers(work / "inputs", options.only or ())
    names = [name for name in known if options.only or name not in LEFT_OUT]
    seconds = 60 * (0.2 if options.quick else options.minutes) / len(names)
    started, found, failures = time.monotonic(), dict[str, dict[str, Any]](), list[str]()
    for number, name in enumerate(names):
        folder = work / f"reader{number}"
        folder.mkdir(parents=True, exist_ok=True)
        pid = os.fork()
        if pid == 0:
            _fuzz(known[name], folder, seconds)
        os.waitpid(pid, 0)
        found[name], wrong = _result(folder)
        failures += wrong
        log(f"{name}: {found[name]}")
    result = {**measurement(started, CODE), "readers": found, "failures": failures}
    return result


def _fuzz(reader: Any, folder: Path, seconds: float) -> None:
    """Fuzz one reader and never return: libFuzzer ends the process."""
    import atheris  # pyright: ignore[reportMissingImports]

    from benchmarks.cases.fuzz.benchmark import WRONG, Attempt, fuzzer

    counts, seen = Counter[str](), set[str]()
    with (folder / "libfuzzer").open("wb") as file:
        os.dup2(file.fileno(), 2)

    def see(one: Attempt) -> None:
        counts[one.outcome] += 1
        if one.outcome == WRONG and (last := one.detail.strip()[-200:]) not in seen:
            seen.add(last)
            with (folder / "wrong").open("a", encoding="utf-8") as wrong:
                wrong.write(json.dumps(one.detail) + "\n")
        if sum(counts.values()) % 20 == 0:
            (folder / "counts").write_text(json.dumps(counts), "utf-8")

    corpus = folder / "corpus"
    corpus.mkdir()
    options = [
        f"-max_total_time={seconds:.0f}",
        "-max_len=4096",
        "-len_control=0",
        "-rss_limit_mb=0",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], fuzzer(reader, see))
    atheris.Fuzz()
    os._exit(0)


def _result(folder: Path) -> tuple[dict[str, Any], list[str]]:
    from benchmarks.cases.fuzz.benchmark import READ, REFUSED, WRONG

    counts = folder / "counts"
    known = Counter(json.loads(counts.read_text("utf-8")) if counts.is_file() else {})
    said = (folder / "libfuzzer").read_text("utf-8", "replace")
    covered = [int(number) for number in re.findall(r"cov: (\d+)", said)] or [0]
    wrong = folder / "wrong"
    lines = wrong.read_text("utf-8").splitlines() if wrong.is_file() else []
    return {
        "inputs": known.total(),
        READ: known[READ],
        REFUSED: known[REFUSED],
        WRONG: known[WRONG],
        "branches at first": covered[0],
        "branches": covered[-1],
    }, [json.loads(line) for line in lines]


def reader_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the counts as Markdown."""
    header = ["reader", *next(iter(found.values()))]
    return table(header, [[name, *row.values()] for name, row in found.items()])


def tables(result: dict[str, Any]) -> dict[str, str]:
    """Return the table of the documentation."""
    return {"coverage": reader_table(result["readers"])}


def show(result: dict[str, Any]) -> None:
    """Print the table, and what failed."""
    print(reader_table(result["readers"]))
    for failure in result["failures"]:
        print(f"\n{failure}")
