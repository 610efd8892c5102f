"""What may happen in a trial, and the databases that trials start from and must arrive at."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.cases.faults.process import Child, Ending, Stop, run
from benchmarks.worlds.tiny import LAYERS, Inputs, contents, small_shards

T = TypeVar("T")

IDENTICAL, RIGHT, REFUSED, WRONG = "identical database", "right answer", "clear refusal", "WRONG"
OUTCOMES = (IDENTICAL, RIGHT, REFUSED, WRONG)


@dataclass(frozen=True)
class Trial:
    """One fault and its outcome."""

    fault: str
    outcome: str
    detail: str = ""
    """What went wrong, if it did."""


@dataclass(frozen=True)
class Extent:
    """How many trials there are."""

    points: int = 50
    """Kills in each stage."""
    interruptions: int = 5
    """Interruptions in each stage, and trials of each kind with worker processes."""
    flips: int = 2
    """Changed bits in each file."""
    sampled: bool = False
    """Whether only some of the other cases are tried, drawn at random."""

    @property
    def stops(self) -> list[tuple[signal.Signals, str, int]]:
        """Signals that stop builds, what they do, and how often each is sent in a stage."""
        return [
            (signal.SIGKILL, "killed", self.points),
            (signal.SIGINT, "interrupted", self.interruptions),
        ]


QUICK = Extent(points=5, interruptions=1, flips=1, sampled=True)


class Bench:
    """Inputs, and the databases that undisturbed commands make of them.

    Parameters
    ----------
    lrp
        Whether relevance is that of LRP, see :class:`fault_inputs.Inputs`.
    """

    def __init__(self, work: Path, extent: Extent, *, lrp: bool = False) -> None:
        shutil.rmtree(work, ignore_errors=True)
        self.work, self._trials, self.extent = work, work, extent
        self.draw, self._numbers = np.random.default_rng(0), itertools.count()
        self.inputs = Inputs(work, lrp=lrp)
        self.whole = work / "whole"
        self.baseline = self.must_finish(self.child(self.inputs.build(self.whole), self.whole))

    @cached_property
    def one_layer(self) -> Path:
        """A database of one layer without class relevance."""
        path = self.work / "one-layer"
        build = self.inputs.build(path, LAYERS[:1], relevance=False)
        self.must_finish(self.child(build, path))
        return path

    @property
    def extended(self) -> Path:
        """It with the other layer and class relevance."""
        return self._extension[0]

    @property
    def extension(self) -> Child:
        """The command that added them."""
        return self._extension[1]

    @cached_property
    def _extension(self) -> tuple[Path, Child]:
        path = self.target(self.one_layer)
        return path, self.must_finish(self.build(path))

    @property
    def picture(self) -> Path:
        """File for the picture of a question."""
        return self._trials / "picture.png"

    def beside(self, name: str) -> Bench:
        """Return a bench for trials in another process at the same time, of the same databases."""
        other = copy.copy(self)
        other._trials = self.work / f"of-{name}"
        other._trials.mkdir()
        return other

    def some(self, cases: Sequence[T], few: int = 1) -> list[T]:
        """Return all cases, or a few at random if the extent says so."""
        if not self.extent.sampled or len(cases) <= few:
            return list(cases)
        return [cases[i] for i in sorted(self.draw.choice(len(cases), few, replace=False))]

    def must_finish(self, child: Child) -> Child:
        """Wait for a child whose command is not disturbed, and note when it ended."""
        ending = child.ending()
        assert ending.finished, ending  # noqa: S101
        child.stages["end"] = child.seconds
        return child

    def target(self, start: Path | None = None) -> Path:
        """Return a new path, with a copy of a database or with nothing."""
        path = self._trials / f"trial{next(self._numbers)}"
        if start is not None:
            shutil.copytree(start, path)
        return path

    def child(
        self,
        arguments: list[str | Path],
        database: Path,
        prepare: Callable[[], object] = lambda: None,
        end_at: int | None = None,
        stop: Stop | None = None,
    ) -> Child:
        """Start a command that builds a database in small shards."""

        def both() -> None:
            small_shards()
            prepare()

        return Child(arguments, both, database=database, end_at=end_at, stop=stop)

    def build(
        self, path: Path, prepare: Callable[[], object] = lambda: None, stop: Stop | None = None
    ) -> Child:
        """Start to build the whole database, or what it lacks."""
        return self.child(self.inputs.build(path), path, prepare, stop=stop)

    def again(
        self,
        fault: str,
        path: Path,
        expected: Path | None = None,
        commands: Sequence[list[str | Path]] = (),
    ) -> Trial:
        """Run commands, by default the build, without a fault; compare with what is expected."""
        trial = None
        for command in commands or [self.inputs.build(path)]:
            ending = self.child(command, path).ending()
            if not ending.finished:
                trial = Trial(fault, WRONG, f"not resumed: {ending}")
                break
        if trial is None:
            different = differences(expected or self.whole, path)
            outcome = WRONG if different else IDENTICAL
            trial = Trial(fault, outcome, f"differs in {different}" if different else "")
        shutil.rmtree(path, ignore_errors=True)
        return trial

    def after_refusal(self, fault: str, ending: Ending, path: Path) -> Trial:
        """Return the trial of a build that must refuse or finish, and then finish identically."""
        if not (ending.refused or ending.finished):
            shutil.rmtree(path, ignore_errors=True)
            return Trial(fault, WRONG, str(ending))
        return self.again(fault, path)


def differences(expected: Path, path: Path) -> list[str]:
    """Return the names of files in which two databases differ."""
    one, other = contents(expected), contents(path)
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def answers(bench: Bench, path: Path, names: Sequence[str] = ()) -> dict[str, Ending]:
    """Ask questions of a database: those named, or all."""
    questions = bench.inputs.questions(path, bench.picture)
    return {name: run(questions[name]) for name in names or questions}


def judge(fault: str, where: str, ending: Ending, expected: Ending) -> Trial:
    """Compare an answer with the right one."""
    if ending.refused:
        return Trial(fault, REFUSED)
    if ending.finished and _values(ending.output) == _values(expected.output):
        return Trial(fault, RIGHT)
    return Trial(fault, WRONG, f"{where}: {ending}")


def _values(output: str) -> object:
    try:
        return json.loads(output)
    except json.JSONDecodeError:
        return output


@contextlib.contextmanager
def changed(file: Path, change: Callable[[Path], object]) -> Iterator[None]:
    """Change a file, and put it back afterwards."""
    content = file.read_bytes()
    try:
        change(file)
        yield
    finally:
        if file.is_dir():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)
        file.write_bytes(content)
