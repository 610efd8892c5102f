"""Builds and labels that are killed and interrupted: also with LRP, in parts, and with workers."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
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


STEPS = 3
"""How often all parts run: hash; run the model; crop, embed and class relevance."""
GONE = 5.0
"""Seconds that worker processes have to end after their main process."""


# -- LRP ----------------------------------------------------------------------------------------

Case = tuple[Path | None, str, float, Path]
"""Database to start from, stage in which a build is stopped, its seconds, database to arrive at."""


def stopped_with_lrp(bench: Bench) -> Iterator[Trial]:
    """Stop a build of a residual network while LRP captures it, computes and is merged."""
    lrp = Bench(bench.work.with_name("trials-lrp"), bench.extent, lrp=True)
    times = lrp.baseline.stages

    def adds() -> Case:
        without, added = lrp.target(), lrp.target()
        lrp.must_finish(lrp.child(lrp.inputs.build(without, relevance=False), without))
        shutil.copytree(without, added)
        return without, "command", lrp.must_finish(lrp.build(added)).seconds, added

    def merges() -> Case:
        ready = lrp.target()
        lrp.build(ready, stop=Stop("merge", 0, signal.SIGKILL)).ending()
        return ready, "merge", times["end"] - times["merge"], lrp.whole

    def crops() -> Case:
        return None, "collect", times["merge"] - times["collect"], lrp.whole

    cases = {"in class relevance by LRP": adds, "while LRP is merged": merges,
             "while LRP crops": crops}  # fmt: skip
    for name, prepare in cases.items():
        start, stage, span, expected = prepare()
        for number, verb, points in bench.extent.stops:
            for _ in range(points):
                path = lrp.target(start)
                child = lrp.build(path, stop=Stop(stage, lrp.draw.uniform(0, span), number))
                yield after_stop(lrp, f"{verb} {name}", child, number, path, expected)


# -- parts --------------------------------------------------------------------------------------


def stopped_parts(bench: Bench) -> Iterator[Trial]:
    """Stop one of two parts of a build, at each of its steps, and the merge of both."""

    def part(path: Path, which: str) -> list[str | Path]:
        return [*bench.inputs.build(path), "--shard", which]

    def merge(path: Path) -> list[str | Path]:
        return ["merge", path, "--model", bench.inputs.spec]

    def stop(seconds: float, number: signal.Signals) -> Stop:
        return Stop("command", bench.draw.uniform(0, seconds), number)

    path, states, spans = bench.target(), [bench.target()], list[float]()
    states[0].mkdir()
    for _ in range(STEPS):
        spans.append(bench.must_finish(bench.child(part(path, "1/2"), path)).seconds)
        bench.must_finish(bench.child(part(path, "2/2"), path))
        states.append(bench.target(path))
    span = bench.must_finish(bench.child(merge(path), path)).seconds
    for number, verb, points in bench.extent.stops:
        for _ in range(points):
            step = int(bench.draw.integers(STEPS))
            path = bench.target(states[step])
            child = bench.child(part(path, "1/2"), path, stop=stop(spans[step], number))
            rest = [part(path, "1/1"), merge(path)]
            fault = f"{verb} in a part"
            yield after_stop(bench, fault, child, number, path, commands=rest)
        for trial in range(points):
            together = trial % 2 == 0
            path = bench.target(states[-1] if together else None)
            command = merge(path) if together else [*merge(path), states[-1]]
            child = bench.child(command, path, stop=stop(span, number))
            fault = f"{verb} while merging parts"
            yield after_stop(bench, fault, child, number, path, commands=[command])


# -- worker processes -----------------------------------------------------------------------------


def _wait(child: Child, seconds: float) -> None:
    """Wait while a child runs."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and child.pump(left):
        pass


def workers(bench: Bench) -> Iterator[Trial]:
    """Kill a worker process, the main process with its workers alive, and press Ctrl-C."""
    for _ in range(bench.extent.interruptions):
        yield _with_workers(bench, "a worker process killed")
        yield _with_workers(bench, "the main process of workers killed", main=signal.SIGKILL)
        yield _with_workers(bench, "Ctrl-C with worker processes", group=signal.SIGINT)


def _with_workers(
    bench: Bench,
    fault: str,
    main: signal.Signals | None = None,
    group: signal.Signals | None = None,
) -> Trial:
    path, temporary = bench.target(), bench.target()
    temporary.mkdir()
    command = [*bench.inputs.build(path), "--executor", "processes:2"]
    child = bench.child(command, path, partial(setattr, tempfile, "tempdir", str(temporary)))
    child.wait_for("hash")  # they have computed something
    _wait(child, bench.draw.uniform(0, 1))
    found = _workers(child)
    if main is not None:
        child.send(main)
    elif group is not None:
        os.killpg(child.pid, group)
    elif found:
        os.kill(found[int(bench.draw.integers(len(found)))], signal.SIGKILL)
    ending = child.ending()
    until = time.monotonic() + GONE
    while _workers(child) and time.monotonic() < until:
        time.sleep(0.2)
    left = [*_workers(child), *temporary.glob("semlens-*")]
    for worker in _workers(child):
        os.kill(worker, signal.SIGKILL)
    if not found or left or not _may_end_so(ending, main, group):
        shutil.rmtree(path, ignore_errors=True)
        return Trial(fault, WRONG, f"{found} stopped, {left} left, {ending}")
    return bench.again(fault, path)


def _may_end_so(ending: Ending, main: signal.Signals | None, group: signal.Signals | None) -> bool:
    if main is not None and ending.code == -main:
        return True
    return ending.finished or (ending.interrupted if group is not None else ending.refused)


def _workers(child: Child) -> list[int]:
    """Return the worker processes of a child, which are in its process group."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "stat").read_text()
            command = (process / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        state, _, group = text.rpartition(")")[2].split()[:3]
        if int(group) == child.pid and state != "Z" and b"LokyProcess" in command:
            found.append(int(process.name))
    return sorted(found)
