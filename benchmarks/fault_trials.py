"""What may happen in a trial, and the databases that trials start from and must arrive at."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fault_inputs import LAYERS, Inputs, contents, small_shards
from fault_process import Child, Ending, run

IDENTICAL, RIGHT, REFUSED, WRONG = "identical database", "right answer", "clear refusal", "WRONG"
OUTCOMES = (IDENTICAL, RIGHT, REFUSED, WRONG)


@dataclass(frozen=True)
class Trial:
    """One fault and its outcome."""

    fault: str
    outcome: str
    detail: str = ""
    """What went wrong, if it did."""


class Bench:
    """Inputs, and the databases that undisturbed commands make of them.

    Parameters
    ----------
    points
        Random points at which each stage is stopped.
    flips
        Changed bits in each file.
    lrp
        Whether relevance is that of LRP, see :class:`fault_inputs.Inputs`.
    """

    def __init__(self, work: Path, points: int, flips: int, *, lrp: bool = False) -> None:
        shutil.rmtree(work, ignore_errors=True)
        self.work, self.points, self.flips = work, points, flips
        self.draw, self._numbers = np.random.default_rng(0), itertools.count()
        self.inputs = Inputs(work, lrp=lrp)
        self.whole, self.one_layer = work / "whole", work / "one-layer"
        self.baseline = self.child(self.inputs.build(self.whole), self.whole)
        self.must_finish(self.baseline)
        self.must_finish(self.child(self.build_one_layer(self.one_layer), self.one_layer))
        self.extended = self.target(self.one_layer)
        self.extension = self.child(self.inputs.build(self.extended), self.extended)
        self.must_finish(self.extension)

    def must_finish(self, child: Child) -> Child:
        """Wait for a child whose command is not disturbed, and note when it ended."""
        ending = child.ending()
        assert ending.finished, ending  # noqa: S101
        child.stages["end"] = child.seconds
        return child

    def build_one_layer(self, path: Path) -> list[str | Path]:
        """Return the arguments of a build of one layer without class relevance."""
        return self.inputs.build(path, LAYERS[:1], relevance=False)

    def target(self, start: Path | None = None) -> Path:
        """Return a new path, with a copy of a database or with nothing."""
        path = self.work / f"trial{next(self._numbers)}"
        if start is not None:
            shutil.copytree(start, path)
        return path

    def child(
        self,
        arguments: list[str | Path],
        database: Path,
        prepare: Callable[[], object] = lambda: None,
        end_at: int | None = None,
    ) -> Child:
        """Start a command that builds a database in small shards."""

        def both() -> None:
            small_shards()
            prepare()

        return Child(arguments, both, database=database, end_at=end_at)

    def build(self, path: Path, prepare: Callable[[], object] = lambda: None) -> Child:
        """Start to build the whole database, or what it lacks."""
        return self.child(self.inputs.build(path), path, prepare)

    def again(
        self,
        fault: str,
        path: Path,
        expected: Path | None = None,
        commands: Sequence[list[str | Path]] = (),
    ) -> Trial:
        """Run commands, by default the build, without a fault; compare with what is expected."""
        expected = expected or self.whole
        for command in commands or [self.inputs.build(path)]:
            ending = self.child(command, path).ending()
            if not ending.finished:
                break
        if not ending.finished:
            trial = Trial(fault, WRONG, f"not resumed: {ending}")
        elif different := differences(expected, path):
            trial = Trial(fault, WRONG, f"differs in {different}")
        else:
            trial = Trial(fault, IDENTICAL)
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
    questions = bench.inputs.questions(path, bench.work / "picture.png")
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


def replace_table(document: Path, name: str, result: Mapping[str, Any], text: str) -> None:
    """Put a table, with the date and duration of its measurement, between two marks in Markdown."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = document.read_text("utf-8").partition(start)
    _, _, after = rest.partition(end)
    said = f"Measured on {result['date']}, in {result['seconds'] / 60:.0f} minutes."
    document.write_text(f"{before}{start}\n{said}\n\n{text}\n{end}{after}", "utf-8")


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
