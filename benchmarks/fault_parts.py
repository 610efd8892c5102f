"""Builds with LRP, builds in parts and their merge, and builds with worker processes, stopped."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fault_builds import after_stop
from fault_process import Child, Ending
from fault_trials import WRONG, Bench, Trial

STEPS = 3
"""How often all parts run: hash; run the model; crop, embed and class relevance."""
GONE = 5.0
"""Seconds that worker processes have to end after their main process."""


# -- LRP ----------------------------------------------------------------------------------------


def stopped_with_lrp(
    bench: Bench, number: signal.Signals, verb: str, points: int
) -> Iterator[Trial]:
    """Stop a build of a residual network while LRP captures it, computes and is merged."""
    times = bench.baseline.stages
    ready, without, added = bench.target(), bench.target(), bench.target()
    child = bench.build(ready)
    child.wait_for("merge")
    child.send(signal.SIGKILL)
    child.ending()
    bench.must_finish(bench.child(bench.inputs.build(without, relevance=False), without))
    shutil.copytree(without, added)
    addition = bench.must_finish(bench.build(added))
    cases: tuple[tuple[str, Path | None, str, float, Path], ...] = (
        ("in class relevance by LRP", without, "command", addition.seconds, added),
        ("while LRP is merged", ready, "merge", times["end"] - times["merge"], bench.whole),
        ("while LRP crops", None, "collect", times["merge"] - times["collect"], bench.whole),
    )
    for name, start, stage, span, expected in cases:
        for _ in range(points):
            path = bench.target(start)
            child = bench.build(path)
            child.wait_for(stage)
            _wait(child, bench.draw.uniform(0, span))
            child.send(number)
            yield after_stop(bench, f"{verb} {name}", child, number, path, expected)


def _wait(child: Child, seconds: float) -> bool:
    """Wait while a child runs; False once it has ended."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if not child.pump(left):
            return False
    return True


# -- parts --------------------------------------------------------------------------------------


def stopped_parts(bench: Bench, number: signal.Signals, verb: str, points: int) -> Iterator[Trial]:
    """Stop one of two parts of a build, at each of its steps, and the merge of both."""

    def part(path: Path, which: str) -> list[str | Path]:
        return [*bench.inputs.build(path), "--shard", which]

    def merge(path: Path) -> list[str | Path]:
        return ["merge", path, "--model", bench.inputs.spec]

    path, states, spans = bench.target(), [bench.target()], list[float]()
    states[0].mkdir()
    for _ in range(STEPS):
        spans.append(bench.must_finish(bench.child(part(path, "1/2"), path)).seconds)
        bench.must_finish(bench.child(part(path, "2/2"), path))
        states.append(bench.target(path))
    span = bench.must_finish(bench.child(merge(path), path)).seconds
    for _ in range(points):
        step = int(bench.draw.integers(STEPS))
        path = bench.target(states[step])
        child = bench.child(part(path, "1/2"), path)
        _wait(child, bench.draw.uniform(0, spans[step]))
        child.send(number)
        rest = [part(path, "1/1"), merge(path)]
        yield after_stop(bench, f"{verb} in a part", child, number, path, commands=rest)
    for trial in range(points):
        together = trial % 2 == 0
        path = bench.target(states[-1] if together else None)
        command = merge(path) if together else [*merge(path), states[-1]]
        child = bench.child(command, path)
        _wait(child, bench.draw.uniform(0, span))
        child.send(number)
        fault = f"{verb} while merging parts"
        yield after_stop(bench, fault, child, number, path, commands=[command])


# -- worker processes -----------------------------------------------------------------------------


def workers(bench: Bench, trials: int) -> Iterator[Trial]:
    """Kill a worker process, the main process with its workers alive, and press Ctrl-C."""
    for _ in range(trials):
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
