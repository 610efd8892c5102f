"""Builds and labels that are killed and interrupted."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.cases.faults.process import Child, Ending, Stop, run
from benchmarks.cases.faults.trials import WRONG, Bench, Trial, differences, judge

OPERATIONS = 0.2
"""Share of all changes of files before which a build is killed."""
STAGES = ("hash", "collect", "crop", "embed", "merge", "relate")
NAMES = {"hash": "hashing", "collect": "collecting", "crop": "cropping", "embed": "embedding",
         "merge": "merging", "relate": "class relevance"}  # fmt: skip


def stopped(bench: Bench, number: signal.Signals, verb: str, points: int) -> Iterator[Trial]:
    """Stop a build at random points of each stage, and an extension and labelling anywhere."""
    stop_builds = stopped_in_turn if bench.extent.sampled else stopped_once
    yield from stop_builds(bench, number, verb, points)
    yield from stopped_extension(bench, number, verb, points)
    yield from stopped_labels(bench, number, verb, points)


def stopped_once(bench: Bench, number: signal.Signals, verb: str, points: int) -> Iterator[Trial]:
    """Stop each build in one stage."""
    for stage, span in stage_spans(bench.baseline).items():
        landed = 0
        for _ in range(2 * points):  # some end before they are hit
            path = bench.target()
            child = bench.build(path, stop=Stop(stage, bench.draw.uniform(0, span), number))
            trial = after_stop(bench, _fault(verb, stage), child, number, path)
            hit = child.furthest == stage
            if hit or trial.outcome == WRONG:
                yield trial
                landed += 1
            if landed == points:
                break


def stopped_in_turn(
    bench: Bench, number: signal.Signals, verb: str, points: int
) -> Iterator[Trial]:
    """Stop builds in one stage after the other, several at the same time; then complete them."""
    stopped: dict[Path, list[str]] = {bench.target(): [] for _ in range(points)}
    for stage, span in stage_spans(bench.baseline).items():
        # the first half: builds at the same time are slower
        stops = [Stop(stage, bench.draw.uniform(0, span / 2), number) for _ in stopped]
        children = [bench.build(path, stop=stop) for path, stop in zip(stopped, stops, strict=True)]
        for child, faults in zip(children, stopped.values(), strict=True):
            ending = child.ending()
            if not may_end_so(ending, number):
                yield Trial(_fault(verb, child.furthest), WRONG, str(ending))
            elif not ending.finished:
                faults.append(_fault(verb, child.furthest))
    for path, faults in stopped.items():
        trial = bench.again(f"{verb} in each stage in turn", path)
        for fault in faults:
            yield replace(trial, fault=fault)


def stopped_extension(
    bench: Bench, number: signal.Signals, verb: str, points: int
) -> Iterator[Trial]:
    """Stop the addition of a layer and class relevance anywhere."""
    duration = bench.extension.stages["end"]
    for _ in range(points):
        path = bench.target(bench.one_layer)
        child = bench.build(path, stop=Stop("command", bench.draw.uniform(0, duration), number))
        yield after_stop(bench, f"{verb} in an extension", child, number, path, bench.extended)


def _fault(verb: str, stage: str) -> str:
    return f"{verb} in {NAMES[stage]}" if stage == "relate" else f"{verb} while {NAMES[stage]}"


def stage_spans(child: Child) -> dict[str, float]:
    """Return the seconds that an undisturbed build spends in each stage."""
    times = sorted(child.stages.items(), key=lambda entry: entry[1])
    spans = {name: after - at for (name, at), (_, after) in pairwise(times)}
    return {stage: spans[stage] for stage in STAGES}


def after_stop(
    bench: Bench,
    fault: str,
    child: Child,
    number: signal.Signals,
    path: Path,
    expected: Path | None = None,
    commands: Sequence[list[str | Path]] = (),
) -> Trial:
    """Check how a child ended that was stopped, and complete the database."""
    ending = child.ending()
    if not may_end_so(ending, number):
        shutil.rmtree(path, ignore_errors=True)
        return Trial(fault, WRONG, str(ending))
    return bench.again(fault, path, expected, commands)


def may_end_so(ending: Ending, number: signal.Signals) -> bool:
    """Whether a command that got a signal ended as it should, or before the signal."""
    killed = number == signal.SIGKILL and ending.code in (-signal.SIGKILL, -signal.SIGALRM)
    interrupted = number == signal.SIGINT and ending.interrupted
    return killed or interrupted or ending.finished


def stopped_labels(bench: Bench, number: signal.Signals, verb: str, points: int) -> Iterator[Trial]:
    """Stop the labelling of a database that holds no cached result; then label it again."""
    path = bench.target(bench.whole)
    question = bench.inputs.questions(path, bench.picture)["label"]
    first = Child(question)
    expected = first.ending()
    for _ in range(points):
        shutil.rmtree(path / "analysis", ignore_errors=True)
        stop = Stop("command", bench.draw.uniform(0, first.seconds), number)
        ending = Child(question, stop=stop).ending()
        fault = f"{verb} while labelling"
        if number == signal.SIGINT and not (ending.interrupted or ending.finished):
            yield Trial(fault, WRONG, str(ending))
        elif different := [n for n in differences(bench.whole, path) if "analysis" not in n]:
            yield Trial(fault, WRONG, f"labelling changed {different}")
        else:
            yield judge(fault, "labelling again", run(question), expected)


def before_operations(bench: Bench) -> Iterator[Trial]:
    """Kill a build just before some of its changes of files: opening, renaming, removing."""
    for name, start, expected, total in (
        ("a build", None, bench.whole, bench.baseline.operations),
        ("an extension", bench.one_layer, bench.extended, bench.extension.operations),
    ):
        count = round(OPERATIONS * total)
        for operation in bench.some(np.linspace(1, total, count).astype(int).tolist()):
            path = bench.target(start)
            child = bench.child(bench.inputs.build(path), path, end_at=operation)
            fault = f"killed before a change of a file by {name}"
            yield after_stop(bench, fault, child, signal.SIGKILL, path, expected)
