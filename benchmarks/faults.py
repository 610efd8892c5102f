"""What survives when everything breaks: killed builds, full disks, damaged files, two writers.

Tiny databases are built, asked and served by the command line while something goes wrong:

- A build is killed (``SIGKILL``) and interrupted (Ctrl-C) at random points of each stage, and
  killed just before changes of files; also with the rules of LRP, in parts, and with worker
  processes. It meets a full disk, images that change, a model that
  raises, and a second writer. Then the same command runs again.
- Each file of a finished database is removed, truncated, replaced and changed by single bits, and
  all questions are asked.
- A server's database is deleted, replaced and damaged.

Each trial ends as one of these; anything else is WRONG, and is listed:

identical database
    The command, run again, gave the bytes of a build that was never disturbed.
right answer
    The answer is that of the undamaged database.
clear refusal
    An error with value, expectation and remedy, exit code 1 (from a server: status 4xx), and no
    traceback.

    python benchmarks/faults.py                  # two hours on two slow cores
    python benchmarks/faults.py --parts killed files
    python benchmarks/faults.py --json --document docs/reliability.md
    python benchmarks/faults.py --quick          # five kills in each stage
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fault_builds as builds
import fault_files as files
import fault_parts as parts
from fault_inputs import Inputs
from fault_process import import_all, settle
from fault_trials import OUTCOMES, WRONG, Bench, Trial, replace_table
from harness import command, log, table

POINTS, QUICK_POINTS = 50, 5
"""Kills in each stage."""
FLIPS, QUICK_FLIPS = 2, 1
"""Changed bits in each file."""
OPERATIONS, QUICK_OPERATIONS = 0.2, 0.05
"""Share of all changes of files before which a build is killed."""
PARTS: dict[str, Callable[[Bench, bool], Iterator[Trial]]] = {
    "killed": lambda b, quick: builds.stopped(b, signal.SIGKILL, "killed", b.points),
    "interrupted": lambda b, quick: builds.stopped(
        b, signal.SIGINT, "interrupted", 1 if quick else b.points // 10
    ),
    "lrp": lambda b, quick: _stopped(parts.stopped_with_lrp, _with_lrp(b), quick),
    "parts": lambda b, quick: _stopped(parts.stopped_parts, b, quick),
    "workers": lambda b, quick: parts.workers(b, 0 if quick else b.points // 10),
    "operations": lambda b, quick: builds.at_each_operation(
        b, QUICK_OPERATIONS if quick else OPERATIONS
    ),
    "limited": lambda b, quick: builds.limited_files(b),
    "disks": lambda b, quick: builds.full_disks(b),
    "read-only": lambda b, quick: builds.read_only(b),
    "images": lambda b, quick: builds.changed_images(b),
    "models": lambda b, quick: builds.failing_models(b),
    "writers": lambda b, quick: builds.two_writers(b),
    "shards": lambda b, quick: builds.damaged_shards(b),
    "files": lambda b, quick: files.damaged_files(b),
    "served": lambda b, quick: files.served(b),
}


def _with_lrp(bench: Bench) -> Bench:
    return Bench(bench.work.with_name("trials-lrp"), bench.points, bench.flips, lrp=True)


def _stopped(
    stop: Callable[[Bench, signal.Signals, str, int], Iterator[Trial]], bench: Bench, quick: bool
) -> Iterator[Trial]:
    """Kill and interrupt: one interruption for ten kills."""
    yield from stop(bench, signal.SIGKILL, "killed", 2 if quick else bench.points)
    yield from stop(bench, signal.SIGINT, "interrupted", 0 if quick else bench.points // 10)


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run all trials, or read the results of earlier runs."""
    if options.results:
        saved = [json.loads(path.read_text("utf-8")) for path in options.results]
        result = {
            "date": max(one["date"] for one in saved),
            "seconds": sum(one["seconds"] for one in saved),
            "counts": {k: Counter(v) for one in saved for k, v in one["counts"].items()},
            "failures": [failure for one in saved for failure in one["failures"]],
        }
    else:
        result = run_trials(options, work)
    if options.document:
        replace_table(options.document, "faults", result, outcome_table(result["counts"]))
    return result


def run_trials(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run the trials of all parts, and count their outcomes by fault."""
    inputs, started = Inputs(work / "imports"), time.monotonic()
    first = work / "imports" / "db"
    lrp = Inputs(work / "imports", lrp=True).build(work / "imports" / "lrp")
    merge = ["merge", first, "--model", inputs.spec]
    questions = inputs.questions(first, work / "picture.png").values()
    import_all([[*inputs.build(first), "--shard", "1/1"], merge, *questions, lrp])
    points, flips = (QUICK_POINTS, QUICK_FLIPS) if options.quick else (options.points, FLIPS)
    bench = Bench(work / "trials", points, flips)
    counts: dict[str, Counter[str]] = {}
    failures: list[dict[str, str]] = []
    path = work / "results.json"

    def result() -> dict[str, Any]:
        found = {
            "date": time.strftime("%Y-%m-%d"),
            "seconds": round(time.monotonic() - started),
            "counts": counts,
            "failures": failures,
        }
        path.write_text(json.dumps(found), "utf-8")
        return found

    for part in options.parts or PARTS:
        for trial in PARTS[part](bench, options.quick):
            counts.setdefault(trial.fault, Counter())[trial.outcome] += 1
            if trial.outcome == WRONG:
                failures.append({"fault": trial.fault, "detail": trial.detail})
                log(f"{trial.fault}: {WRONG}\n{trial.detail}")
            result()
        log(f"{part}: {time.monotonic() - started:.0f} s")
    return result()


def outcome_table(counts: dict[str, Counter[str]]) -> str:
    """Return the counts as Markdown, with a row of totals."""
    total = sum(counts.values(), Counter[str]())
    rows: Sequence[Sequence[Any]] = [
        (fault, found.total(), *(found[outcome] or None for outcome in OUTCOMES[:-1]), found[WRONG])
        for fault, found in [*counts.items(), ("**all**", total)]
    ]
    return table(["fault", "trials", *OUTCOMES], rows)


def show(result: dict[str, Any]) -> None:
    """Print the table, and what failed."""
    print(outcome_table(result["counts"]))
    for failure in result["failures"]:
        print(f"\n{failure['fault']}\n{failure['detail'][:2000]}")


if __name__ == "__main__":
    settle()
    command(
        __doc__,
        measure,
        show,
        {
            "--parts": {"nargs": "+", "choices": list(PARTS), "help": "only these parts"},
            "--points": {"type": int, "default": POINTS, "help": "kills in each stage"},
            "--results": {
                "nargs": "+",
                "type": Path,
                "help": "show what --json printed, or results.json in --work, and run nothing",
            },
            "--document": {"type": Path, "help": "Markdown file whose table is replaced"},
        },
    )
