"""Feed every reader with damaged input: only errors of semlens may come out, in bounded time.

Readers of files (images, concept sets, manifests, Parquet, safetensors, saved audits), of texts
(component names, SPECs) and of HTTP requests get what Hypothesis makes of valid inputs. Each input
must be read, or be refused with an error of three parts (from the server: a status 4xx), within
five CPU seconds and a bound on memory. Anything else is WRONG, and is listed.

    python -m benchmarks fuzz                       # 400 inputs for each reader, some minutes
    python -m benchmarks fuzz --inputs 5000 --only images manifests
    python -m benchmarks fuzz --record
"""

from __future__ import annotations

import argparse
import os
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before a library reads it: a SPEC may name anything

import hypothesis
from hypothesis import HealthCheck, Phase, settings

import semlens as sl
from benchmarks.cases.faults.trials import WRONG
from benchmarks.cases.fuzz.found import FunctionsRun, readers_in_source
from benchmarks.cases.fuzz.http import finish_jobs, request_reader
from benchmarks.cases.fuzz.readers import Reader, database_readers, file_readers, small_database
from benchmarks.cases.fuzz.user_files import dictionary_readers, table_readers
from benchmarks.harness import benchmark, log, peak_mib, reset_peak, table
from benchmarks.harness.results import measurement
from semlens.errors import SemlensError

INPUTS, QUICK_INPUTS = 400, 20
SECONDS = 5.0
"""Bound on the CPU time of one input."""
NOT_FUZZED = "It reads files of others, and no input of a reader gets there."
READ, REFUSED = "read", "clear refusal"
CODE = ("src", "benchmarks/cases/fuzz*")
"""What is measured."""


@dataclass(frozen=True)
class Attempt:
    """What became of one input."""

    outcome: str
    detail: str
    seconds: float
    mib: float


def attempt(reader: Reader, value: Any) -> Attempt:
    """Let a reader read a value, and measure its CPU time and memory."""
    reset_peak()
    memory, started = peak_mib(), time.process_time()
    outcome, detail = READ, ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(value)
    except SemlensError as error:
        outcome = REFUSED
        if not (error.value and error.expected and error.remedy):
            outcome, detail = WRONG, f"an error without three parts: {error!r}"
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is not ours
        outcome, detail = WRONG, "".join(traceback.format_exception(error)[-6:])
    seconds, mib = time.process_time() - started, peak_mib() - memory
    if seconds > SECONDS or mib > reader.mib:
        outcome, detail = WRONG, f"{seconds:.1f} s, {mib:.0f} MiB {detail}"
    if outcome == WRONG:
        detail = f"{str(value)[:1000]}\n{detail}"
    return Attempt(outcome, detail, seconds, mib)


def fuzz(
    reader: Reader, inputs: int, see: Callable[[Attempt], object], *, seed: int | None = None
) -> None:
    """Pass the attempts at the first inputs, and at a number of others, to ``see``.

    They are the same ones for the same seed.
    """

    @hypothesis.seed(seed or 0)
    @settings(
        max_examples=inputs, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @hypothesis.given(reader.inputs)
    def one(value: Any) -> None:
        see(attempt(reader, value))

    for value in reader.first:
        see(attempt(reader, value))
    one()


def fuzzer(reader: Reader, see: Callable[[Attempt], object]) -> Callable[[bytes], object]:
    """Return a function that passes the attempt at the input that some bytes choose to ``see``."""

    @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @hypothesis.given(reader.inputs)
    def one(value: Any) -> None:
        see(attempt(reader, value))

    return one.hypothesis.fuzz_one_input


def readers(work: Path, only: Sequence[str] = ()) -> dict[str, Reader]:
    """Return readers by name: those of ``only``, or all."""
    work.mkdir(parents=True, exist_ok=True)
    found = file_readers(work) | dictionary_readers(work) | table_readers(work)
    if not only or not found.keys() >= set(only):
        database = small_database(work)
        found |= database_readers(database)
        found["HTTP requests"] = request_reader(sl.open(database))
    return {name: reader for name, reader in found.items() if not only or name in only}


def without_fuzzing(known: Mapping[str, Reader]) -> list[str]:
    """Return the functions of semlens that read files of others, and that no reader gets to."""
    run = FunctionsRun()
    for reader in known.values():
        some = replace(reader, read=run.watched(reader.read), first=reader.first[:12])
        fuzz(some, 3, lambda attempted: None)
    return sorted(readers_in_source() - run.names())


@benchmark(
    minutes=10,
    quoted=("docs/reliability.md",),
    options={
        "--inputs": {"type": int, "default": INPUTS, "help": "for each reader"},
        "--only": {"nargs": "+", "help": "only these readers"},
    },
)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Fuzz the readers, and count what became of their inputs."""
    started, found = time.monotonic(), dict[str, dict[str, Any]]()
    failures: dict[str, dict[str, str]] = {}
    known = readers(work, options.only or ())
    missing = [] if options.only else without_fuzzing(known)
    for name, reader in known.items():
        attempts: list[Attempt] = []
        fuzz(reader, QUICK_INPUTS if options.quick else options.inputs, attempts.append)
        found[name] = _summary(attempts)
        for one in attempts:
            if one.outcome == WRONG and (last := one.detail.strip()[-200:]) not in failures:
                failures[last] = {"reader": name, "detail": one.detail}
                log(f"{name}: {WRONG}\n{one.detail[-1500:]}")
        log(f"{name}: {time.monotonic() - started:.0f} s")
    finish_jobs()
    wrong = list(failures.values())
    wrong += [{"reader": name, "detail": NOT_FUZZED} for name in missing]
    return {**measurement(started, CODE), "readers": found, "failures": wrong}


def _summary(attempts: list[Attempt]) -> dict[str, Any]:
    outcomes = [one.outcome for one in attempts]
    return {
        "inputs": len(attempts),
        READ: outcomes.count(READ),
        REFUSED: outcomes.count(REFUSED),
        WRONG: outcomes.count(WRONG),
        "slowest_s": max(one.seconds for one in attempts),
        "most_mib": max(one.mib for one in attempts),
    }


def reader_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the counts as Markdown."""
    header = ["reader", "inputs", READ, REFUSED, WRONG, "slowest, s", "most memory, MiB"]
    return table(header, [[name, *row.values()] for name, row in found.items()], digits=1)


def tables(result: dict[str, Any]) -> dict[str, str]:
    """Return the table of the documentation."""
    return {"fuzz": reader_table(result["readers"])}


def show(result: dict[str, Any]) -> None:
    """Print the table, and what failed."""
    print(reader_table(result["readers"]))
    for failure in result["failures"]:
        print(f"\n{failure['reader']}\n{failure['detail']}")
