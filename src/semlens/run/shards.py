"""Stages of a build and their shards: files that are complete, or are computed again.

The first stage hashes the images.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from semlens.data.verified_images import content_digests
from semlens.progress import report_progress
from semlens.recipe import FORMAT, fingerprint
from semlens.run.executors.executor import Advance, Inputs, Task, Workers
from semlens.run.plan import Execution, Plan
from semlens.store.atomic_files import load_sealed, load_tensors, save_sealed

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """A computation over samples that can be cut into shards.

    Parameters
    ----------
    steps
        Names under which progress is reported; the first one names the files.
    key
        Fingerprint of everything that determines the content of the shards.
    total
        Number of samples.
    unit
        Shards are cut at multiples of it, so that no cut changes a result.
    task
        Returns the computation of a range of samples.
    size
        Samples per shard, or None to choose from the size of the data.
    """

    steps: tuple[str, ...]
    key: str
    total: int
    unit: int
    task: Callable[[range], Task]
    size: int | None = None

    @property
    def name(self) -> str:
        """The first step."""
        return self.steps[0]

    @property
    def whole(self) -> range:
        """The samples of all units but an incomplete last one."""
        return range(self.total // self.unit * self.unit)

    def file_name(self, samples: range) -> str:
        """Return the name of a shard's file."""
        return f"{self._prefix}{samples.start:08d}-{samples.stop:08d}.safetensors"

    def samples_of(self, file_name: str) -> range | None:
        """Return the range of a shard from the name of its file; None for another file."""
        match = re.fullmatch(rf"{self._prefix}(\d{{8,}})-(\d{{8,}})\.safetensors", file_name)
        return range(int(match[1]), int(match[2])) if match else None

    @property
    def _prefix(self) -> str:
        return f"{self.name}-{self.key[:16]}-"

    def compute(
        self, ranges: Iterable[range], workers: Workers
    ) -> Iterator[tuple[range, Mapping[str, Tensor]]]:
        """Compute shards in any order, and report progress."""
        ranges = list(ranges)
        done = self.total - sum(map(len, ranges))
        reported = dict.fromkeys(self.steps, 0)

        def running(counts: Mapping[str, int]) -> None:
            for step, before in reported.items():
                # a task that has just ended is in neither count
                reported[step] = max(before, min(done + counts.get(step, 0), self.total))
                if reported[step] != before:
                    report_progress(step, reported[step], self.total)

        running({})
        for samples, tensors in workers.run(self.steps, map(self.task, ranges), running):
            yield samples, tensors
            done += len(samples)
        running({})


@runtime_checkable  # so that the tests can check its type
class Complete(Protocol):
    """Completes the shards of a stage, or raises an error."""

    def __call__(self, stage: Stage, within: range | None = None) -> None:
        """Complete a stage, or a part of it."""
        ...


def merge_all(parts: Iterable[T], merge: Callable[[T, T], T]) -> T | None:
    """Merge results one by one; None if there are none."""
    merged: T | None = None
    for part in parts:
        merged = part if merged is None else merge(merged, part)
    return merged


@dataclass(frozen=True)
class Shards:
    """The shards of one build, in a folder that several processes may write to.

    Parameters
    ----------
    folder
        Folder of the shard files.
    """

    folder: Path
    _verified: set[str] = field(default_factory=set[str], init=False, repr=False)
    """Files whose digest this process has checked."""

    def missing(self, stage: Stage, within: range | None = None) -> list[range]:
        """Return the ranges of a stage, or of a part of it, that no saved shard covers."""
        within = range(stage.total) if within is None else within
        gaps: list[range] = []
        stop = within.start
        for samples in self._saved(stage):
            if samples.start >= within.stop:
                break
            if samples.start > stop:
                gaps.append(range(stop, samples.start))
            stop = max(stop, samples.stop)
        if stop < within.stop:
            gaps.append(range(stop, within.stop))
        return gaps

    def complete(
        self, stage: Stage, workers: Workers, execution: Execution, within: range | None = None
    ) -> None:
        """Compute and save what is missing of a stage, or of a part of it."""
        ranges = [
            samples
            for gap in self.missing(stage, within)
            for samples in execution.cut(gap, stage.total, stage.unit, stage.size, workers.count)
        ]
        for samples, tensors in stage.compute(ranges, workers):
            self.save(stage, samples, tensors)

    def load(self, stage: Stage, within: range | None = None) -> Iterator[dict[str, Tensor]]:
        """Yield the tensors of the shards of a complete stage, in the order of the samples.

        Parameters
        ----------
        within
            Leave out shards that are not in this range.
        """
        within = range(stage.total) if within is None else within
        for samples in self._saved(stage):
            if within.start <= samples.start and samples.stop <= within.stop:
                yield load_tensors(self.folder / stage.file_name(samples))

    def merged(
        self, stage: Stage, read: Callable[[dict[str, Tensor]], T], merge: Callable[[T, T], T]
    ) -> tuple[T, T | None]:
        """Merge the shards of a complete stage.

        Returns
        -------
        tuple
            The result of all samples, and that of all whole units, or None if there is none.
        """
        whole, rest = (
            merge_all(map(read, self.load(stage, samples)), merge)
            for samples in (stage.whole, range(stage.whole.stop, stage.total))
        )
        merged = merge_all([part for part in (whole, rest) if part is not None], merge)
        assert merged is not None  # noqa: S101  # a stage has samples
        return merged, whole

    def save(self, stage: Stage, samples: range, tensors: Mapping[str, Tensor]) -> None:
        """Save a shard."""
        name = stage.file_name(samples)
        save_sealed(self.folder / name, tensors)
        self._verified.add(name)

    def _saved(self, stage: Stage) -> list[range]:
        """Return the ranges of intact shards, ascending and without overlap.

        Shards overlap if runs with different numbers of workers were interrupted.
        """
        names = [p.name for p in self.folder.iterdir()] if self.folder.is_dir() else []
        found = [samples for name in names if (samples := stage.samples_of(name)) is not None]
        chosen: list[range] = []
        stop = 0
        for samples in sorted(found, key=lambda samples: (samples.start, -samples.stop)):
            if samples.start >= stop and self._is_intact(stage.file_name(samples)):
                chosen.append(samples)
                stop = samples.stop
        return chosen

    def _is_intact(self, name: str) -> bool:
        if name not in self._verified and load_sealed(self.folder / name) is None:
            return False
        self._verified.add(name)
        return True


_BYTES = 32
"""Bytes of a SHA-256."""


@dataclass(frozen=True)
class HashTask:
    """Hashes a range of images."""

    samples: range

    def __call__(self, inputs: Inputs, advance: Mapping[str, Advance]) -> Mapping[str, Tensor]:
        """Return ``digest`` uint8[n 32], and ``known`` bool[n]: false for unreadable images."""
        digests: list[str] = []
        for digest in content_digests(inputs.images, inputs.threads, self.samples):
            digests.append(digest)
            advance["hash"](1)
        known = torch.tensor([bool(digest) for digest in digests], dtype=torch.bool)
        filled = bytearray(b"".join(bytes.fromhex(d) if d else bytes(_BYTES) for d in digests))
        return {
            "digest": torch.frombuffer(filled, dtype=torch.uint8).reshape(-1, _BYTES),
            "known": known,
        }


def hash_stage(plan: Plan) -> Stage:
    """Return the stage that hashes the images.

    Its shards are valid only as long as the images do not change.
    """
    images = plan.images
    key = fingerprint(FORMAT, "hash", images.spec, list(images.ids))
    return Stage(("hash",), key, len(images), 1, HashTask)


def hash_images(plan: Plan, workers: Workers) -> list[str]:
    """Return the digest of each image, without saving shards."""
    stage = hash_stage(plan)
    ranges = plan.execution.cut(range(stage.total), stage.total, 1, None, workers.count)
    shards = dict(stage.compute(ranges, workers))
    return digests_from(shards[samples] for samples in sorted(shards, key=lambda s: s.start))


def digests_from(shards: Iterable[Mapping[str, Tensor]]) -> list[str]:
    """Return the digests from the shards, in the order of the samples."""
    return [
        row.tobytes().hex() if known else ""
        for shard in shards
        for row, known in zip(shard["digest"].numpy(), shard["known"].tolist(), strict=True)
    ]
