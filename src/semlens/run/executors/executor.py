"""The interface of executors, and the one that computes in this process.

Memory that batches free is kept for the next batch. By default, glibc returns large arrays to the
system when they are freed, and each batch waits for the system to fill the same pages with zeros
again, in some networks for most of a forward pass.
"""

from __future__ import annotations

import ctypes
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from functools import cache, cached_property, partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from semlens.data.images import Images
from semlens.data.own_boxes import OwnBoxes
from semlens.embedders.embedder import Embedder
from semlens.models.subject import SubjectModel
from semlens.recipe import Recipe
from semlens.relevance.make_engine import EngineCache

# of malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = 2**31 - 1
_DYNAMIC_LIMIT = 32 * 2**20
"""The threshold for returning arrays to which glibc itself rises, on 64-bit systems."""


def keep_freed_memory() -> None:
    """Keep the memory of freed arrays in this process; without glibc, do nothing."""
    if libc := _glibc():
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep the memory of freed arrays within the block; return it to the system after it."""
    keep_freed_memory()
    try:
        yield
    finally:
        if libc := _glibc():
            libc.mallopt(_MMAP_MAX, 65536)  # the defaults
            libc.mallopt(_MMAP_THRESHOLD, _DYNAMIC_LIMIT)
            libc.mallopt(_TRIM_THRESHOLD, 2 * _DYNAMIC_LIMIT)
        return_freed_memory()


def return_freed_memory() -> None:
    """Return the memory of freed arrays to the system: each thread's heap keeps some of it."""
    if libc := _glibc():
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


Advance = Callable[[int], None]
"""Called with the number of samples done since the last call."""
Running = Callable[[Mapping[str, int]], None]
"""Called with the samples done, by step, of the tasks that are being computed."""


@dataclass(frozen=True)
class Inputs:
    """What tasks are computed with; a worker loads it once.

    Parameters
    ----------
    threads
        Threads that decode and preprocess.
    boxes
        Boxes of the user, to which examples are cropped.
    """

    model: SubjectModel
    images: Images
    embedder: Embedder
    recipe: Recipe
    batch_size: int
    threads: int
    boxes: OwnBoxes | None = None

    @cached_property
    def engines(self) -> EngineCache:
        """Relevance engines of the model."""
        by_heatmap = self.recipe.crop != "activation"
        return EngineCache(self.model, self.recipe.rules, heatmaps=by_heatmap)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the engines out: each worker makes its own."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@runtime_checkable
class Task(Protocol):
    """The computation of one shard: frozen, picklable, and the same wherever it is computed."""

    @property
    def samples(self) -> range:
        """The range of the shard."""
        ...

    def __call__(self, inputs: Inputs, advance: Mapping[str, Advance]) -> Mapping[str, Tensor]:
        """Return the tensors of the shard; ``advance`` has a callback for each step."""
        ...


@runtime_checkable
class Workers(Protocol):
    """Started workers, which have the inputs."""

    @property
    def count(self) -> int:
        """The number of workers."""
        ...

    def run(
        self, steps: tuple[str, ...], tasks: Iterable[Task], running: Running
    ) -> Iterator[tuple[range, Mapping[str, Tensor]]]:
        """Compute tasks; yield the range and the tensors of each as it is completed.

        Tasks are taken from the iterable only as workers become free.
        """
        ...


@runtime_checkable
class Executor(Protocol):
    """What computes the shards of a build."""

    def start(self, inputs: Inputs) -> AbstractContextManager[Workers]:
        """Return workers, which end with the block."""
        ...


@dataclass(frozen=True)
class ThisProcess:
    """Computes one task after the other in this process.

    Parameters
    ----------
    threads
        Compute threads on a CPU; None leaves them as they are.
    """

    threads: int | None = None

    @contextmanager
    def start(self, inputs: Inputs) -> Iterator[Workers]:
        """Return this process as the only worker."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            with freed_memory_kept():
                yield _Here(inputs)
        finally:
            torch.set_num_threads(before)


@dataclass(frozen=True)
class _Here:
    inputs: Inputs
    count: int = 1

    def run(
        self, steps: tuple[str, ...], tasks: Iterable[Task], running: Running
    ) -> Iterator[tuple[range, Mapping[str, Tensor]]]:
        for task in tasks:
            done: Counter[str] = Counter()

            def advance(step: str, count: int, done: Counter[str] = done) -> None:
                done[step] += count
                running(done)

            yield task.samples, task(self.inputs, {step: partial(advance, step) for step in steps})
