"""What survives when everything breaks: killed builds, full disks, damaged files, two writers.

Tiny databases are built, asked and served by the command line while something goes wrong:

- A build is killed (``SIGKILL``) and interrupted (Ctrl-C) at random points of each stage, and
  killed just before changes of files; also with the rules of LRP, in parts, and with worker
  processes. It meets a full disk, images that change, a model that raises, and a second writer.
  Then the same command runs again.
- Each file of a finished database is removed, truncated, replaced and changed by single bits, and
  all questions are asked.
- A server's database is deleted, replaced and damaged.
- Every reader of files of others, as the benchmark ``fuzz`` finds them in the source, is given
  hostile inputs. A reader that no input gets to is WRONG.

Each trial ends as one of these; anything else is WRONG, and is listed:

identical database
    The command, run again, gave the bytes of a build that was never disturbed.
right answer
    The answer is that of the undamaged database.
clear refusal
    An error with value, expectation and remedy, exit code 1 (from a server: status 4xx), and no
    traceback.

    python -m benchmarks faults --work FOLDER --record
    python -m benchmarks faults --parts killed files

The first takes two hours on two slow cores. It can be stopped: run again with the same FOLDER, it
goes on with the parts that were not measured at this commit.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.cases.faults import builds, files, inputs, stops
from benchmarks.cases.faults import stops as parts
from benchmarks.cases.faults.process import import_all, settle
from benchmarks.cases.faults.trials import OUTCOMES, QUICK, WRONG, Bench, Extent, Trial
from benchmarks.harness import benchmark, log, table
from benchmarks.harness.results import PartResults, together
from benchmarks.worlds.tiny import Inputs

CODE = ("src", "benchmarks/cases/faults", "benchmarks/cases/fuzz*")
"""What is measured."""
PARTS: dict[str, Callable[[Bench], Iterator[Trial]]] = {
    "killed": lambda b: stops.stopped(b, signal.SIGKILL, "killed", b.extent.points),
    "interrupted": lambda b: stops.stopped(b, signal.SIGINT, "interrupted", b.extent.interruptions),
    "lrp": parts.stopped_with_lrp,
    "parts": parts.stopped_parts,
    "workers": parts.workers,
    "operations": stops.before_operations,
    "limited": builds.limited_files,
    "disks": builds.full_disks,
    "read-only": builds.read_only,
    "images": builds.changed_images,
    "models": builds.failing_models,
    "writers": builds.two_writers,
    "shards": builds.damaged_shards,
    "files": files.damaged_files,
    "served": files.served,
    "readers": inputs.hostile_inputs,
}
SLOW = ("lrp", "parts", "workers", "readers")
"""Parts that a quick run leaves out."""


@benchmark(
    minutes=120,
    prepare=settle,
    quoted=("docs/reliability.md",),
    options={
        "--parts": {"nargs": "+", "choices": list(PARTS), "help": "only these parts"},
        "--jobs": {"type": int, "default": os.cpu_count(), "help": "parts at the same time"},
        "--saved": {"action": "store_true", "help": "run nothing: show what --work holds"},
        "--points": {"type": int, "help": "kills in each stage, instead of 50"},
    },
)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run the trials of all parts that were not run at this commit; return what all found."""
    extent = QUICK if options.quick else Extent()
    if options.points is not None:
        extent = replace(extent, points=options.points)
    chosen = options.parts or [p for p in PARTS if not (options.quick and p in SLOW)]
    results = PartResults(work / "results", asdict(extent), CODE)
    missing = [part for part in chosen if not results.has(part)]
    if missing and not options.saved:
        run_trials(missing, results, extent, work, options.jobs)
    found = results.of(list(PARTS) if options.record else chosen)
    result: dict[str, Any] = {
        **together(found),
        "counts": {k: Counter(v) for one in found for k, v in one.values["counts"].items()},
        "failures": [failure for one in found for failure in one.values["failures"]],
    }
    return result


def run_trials(
    chosen: Sequence[str], results: PartResults, extent: Extent, work: Path, jobs: int
) -> None:
    """Run the trials of some parts, so many at the same time, each in a fork of this process."""
    inputs, first = Inputs(work / "imports"), work / "imports" / "db"
    merge = ["merge", first, "--model", inputs.spec]
    commands = [[*inputs.build(first), "--shard", "1/1"], merge]
    commands += inputs.questions(first, work / "picture.png").values()
    if "lrp" in chosen:
        commands.append(Inputs(work / "imports", lrp=True).build(work / "imports" / "lrp"))
    import_all(commands)
    bench = Bench(work / "trials", extent)
    _ = bench.extended  # built here, once for all parts
    waiting, running, failed = list(chosen), dict[int, str](), list[str]()
    while waiting or running:
        while waiting and len(running) < jobs:
            part = waiting.pop(0)
            pid = os.fork()
            if pid == 0:
                _be(part, bench.beside(part), results)
            running[pid] = part
        pid, status = os.wait()
        part = running.pop(pid)
        failed += [part] * bool(status)
    if failed:
        raise SystemExit(f"Stopped by an error: {', '.join(failed)}.")


def _be(part: str, bench: Bench, results: PartResults) -> None:
    """Run a part in this process and never return."""
    code = 1
    try:
        run_part(part, bench, results)
        code = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        os._exit(code)


def run_part(part: str, bench: Bench, results: PartResults) -> None:
    """Run the trials of a part, and save their outcomes after each."""
    begin, counts = time.monotonic(), dict[str, Counter[str]]()
    failures: list[dict[str, str]] = []

    def save(complete: bool) -> None:
        seconds = round(time.monotonic() - begin, 1)
        values = {"counts": counts, "failures": failures}
        results.save(part, seconds, values, complete=complete)

    for trial in PARTS[part](bench):
        counts.setdefault(trial.fault, Counter())[trial.outcome] += 1
        if trial.outcome == WRONG:
            failures.append({"fault": trial.fault, "detail": trial.detail})
            log(f"{trial.fault}: {WRONG}\n{trial.detail}")
        save(complete=False)
    save(complete=True)
    log(f"{part}: {time.monotonic() - begin:.0f} s")


def outcome_table(counts: dict[str, Counter[str]]) -> str:
    """Return the counts as Markdown, with a row of totals."""
    total = sum(counts.values(), Counter[str]())
    rows: Sequence[Sequence[Any]] = [
        (fault, found.total(), *(found[outcome] or None for outcome in OUTCOMES[:-1]), found[WRONG])
        for fault, found in [*counts.items(), ("**all**", total)]
    ]
    return table(["fault", "trials", *OUTCOMES], rows)


def tables(result: dict[str, Any]) -> dict[str, str]:
    """Return the table of the documentation."""
    return {"faults": outcome_table(result["counts"])}


def show(result: dict[str, Any]) -> None:
    """Print the table, and what failed."""
    print(outcome_table(result["counts"]))
    for failure in result["failures"]:
        print(f"\n{failure['fault']}\n{failure['detail'][:2000]}")
