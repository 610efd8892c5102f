"""Workers in processes of this machine: one per GPU, or several that share the CPU's cores."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loky.process_executor import BrokenProcessPool, ProcessPoolExecutor

from semlens.errors import RecipeError
from semlens.run.executors.executor import Advance, Inputs, Task, Workers
from semlens.run.executors.pool import Computed, Pool, Worker, compute, pack, start_error, unpack

_COUNTERS = 2
"""Counters of progress: the largest number of steps of a task."""


@dataclass(frozen=True)
class LocalProcesses:
    """Computes in processes of this machine, each with the model and the embedder.

    Parameters
    ----------
    processes
        Number of processes; None for one per GPU, or one per core on a CPU.
    threads
        Compute threads of each process on a CPU, or None to divide those of this process.
    """

    processes: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        """Check the number."""
        if self.processes is not None and self.processes < 1:
            raise RecipeError(
                f"The number of processes is {self.processes}.",
                "Expected 1 or more.",
                "Try 2.",
            )

    @contextmanager
    def start(self, inputs: Inputs) -> Iterator[Workers]:
        """Return the processes; the first task of each starts it."""
        gpus = visible_gpus(inputs.model.device)
        count = self.processes or len(gpus) or torch.get_num_threads()
        threads = self.threads or max(1, torch.get_num_threads() // count)
        decoding = max(1, inputs.threads // count) if inputs.threads else 0
        with tempfile.TemporaryDirectory(prefix="semlens-") as folder:
            crew = _Processes(Path(folder), count, threads, decoding, gpus)
            try:
                crew.payload.write_bytes(pack(inputs))
                yield Pool(crew)
            finally:
                crew.close()


def visible_gpus(device: torch.device) -> list[str]:
    """Return the names of the GPUs for workers; none if all use the device as it is.

    A worker of a model on the first GPU sees one GPU, which is its first. A model on another GPU
    stays there.
    """
    if device.type != "cuda" or device.index not in (None, 0):
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]


class _Processes:
    """A pool of one process per worker: if one ends, the others go on."""

    lost: tuple[type[Exception], ...] = (BrokenProcessPool,)

    def __init__(
        self, folder: Path, count: int, threads: int, decoding: int, gpus: list[str]
    ) -> None:
        self.payload = folder / "inputs"
        self.count = count
        self._threads, self._decoding, self._gpus = threads, decoding, gpus
        self._vacant = list(range(count))
        self._processes: list[_Process] = []

    def hire(self) -> list[Worker]:
        """Return a process for each vacant place."""
        hired = [self._process(place) for place in self._vacant]
        self._vacant = []
        self._processes += hired
        return [*hired]

    def _process(self, place: int) -> _Process:
        # before torch is imported in the process, which reads them
        environment = {"OMP_NUM_THREADS": str(self._threads)}
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        counters = self.payload.with_name(f"counters-{place}")
        arguments = (self.payload, counters, self._threads, self._decoding, os.getpid())
        return _Process(place, counters, environment, arguments)

    def dismiss(self, worker: Worker) -> None:
        """End a process and make its place vacant."""
        assert isinstance(worker, _Process)  # noqa: S101  # they are its own
        worker.close()
        self._processes.remove(worker)
        self._vacant.append(worker.place)

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.close()


class _Process:
    """One process; it starts with its first task."""

    def __init__(
        self, place: int, counters: Path, environment: Mapping[str, str], arguments: tuple[Any, ...]
    ) -> None:
        self.place = place
        counters.write_bytes(bytes(8 * _COUNTERS))
        self._counters = np.memmap(counters, np.int64, "r")
        self._steps: tuple[str, ...] = ()
        self._pool = ProcessPoolExecutor(
            1, initializer=_load, initargs=arguments, env=dict(environment)
        )

    def submit(self, steps: tuple[str, ...], task: Task) -> Future[Computed]:
        """Start a task."""
        self._steps = steps
        return self._pool.submit(_compute, steps, task)

    def running(self) -> Mapping[str, int]:
        """Return the samples done of the current task, by step."""
        return dict(zip(self._steps, self._counters.tolist(), strict=False))

    def is_alive(self) -> bool:
        """Whether the process can still be used; otherwise its next task says so."""
        return True

    def close(self) -> None:
        """Kill the process."""
        self._pool.shutdown(wait=True, kill_workers=True)


_loaded: tuple[Inputs | Exception, np.ndarray] | None = None
"""The inputs, and the counters of progress, of this process if it is a worker."""


def end_with(parent: int, folder: Path) -> None:
    """End this process once its parent is gone, even if that was killed; remove its folder."""
    while os.getppid() == parent:
        time.sleep(1)
    shutil.rmtree(folder, ignore_errors=True)  # it holds the weights
    os._exit(1)


def _load(payload: Path, counters: Path, threads: int, decoding: int, parent: int) -> None:
    """Load the inputs, once per process."""
    global _loaded
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the main process ends this one
    threading.Thread(target=end_with, args=(parent, payload.parent), daemon=True).start()
    torch.set_num_threads(threads)
    try:
        inputs = unpack(payload.read_bytes(), decoding)
    except Exception as error:  # classes of the user may raise anything
        inputs = start_error(error)
    _loaded = inputs, np.memmap(counters, np.int64, "r+")


def _compute(steps: tuple[str, ...], task: Task) -> Computed:
    assert _loaded is not None  # noqa: S101  # the process begins with _load
    inputs, counters = _loaded

    def add(index: int, count: int) -> None:
        counters[index] += count

    advance: dict[str, Advance] = {step: partial(add, i) for i, step in enumerate(steps)}
    try:
        return compute(inputs, task, advance)
    finally:
        counters[:] = 0
