"""Distributing tasks over workers that may be lost."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from torch import Tensor

from semlens.errors import WorkerError
from semlens.run.executors.executor import Running, Task
from semlens.run.executors.payload import Computed

ATTEMPTS = 3
"""How often a task is started whose worker is lost."""
TICK = 0.25
"""Seconds between reports of progress, and between looks for new workers."""
PATIENCE = 300.0
"""Seconds without any worker after which a build fails."""


@runtime_checkable
class Worker(Protocol):
    """One worker; it computes one task at a time."""

    def submit(self, steps: tuple[str, ...], task: Task) -> Future[Computed]:
        """Start a task."""
        ...

    def running(self) -> Mapping[str, int]:
        """Return the samples done of the current task, by step."""
        ...

    def is_alive(self) -> bool:
        """Whether an idle worker can still be used."""
        ...

    def close(self) -> None:
        """End the worker, whatever it does."""
        ...


@runtime_checkable
class Crew(Protocol):
    """Provides workers."""

    lost: tuple[type[Exception], ...]
    """What a future raises whose worker was lost."""

    @property
    def count(self) -> int:
        """The number of workers that are expected."""
        ...

    def hire(self) -> list[Worker]:
        """Return the workers that have become ready since the last call."""
        ...

    def dismiss(self, worker: Worker) -> None:
        """Forget a lost worker; it may be replaced."""
        ...


@dataclass(frozen=True)
class _Job:
    task: Task
    attempt: int = 1


class Pool:
    """The workers of a crew, each with at most one task.

    Results are handed over before the next tasks are taken, so that at most one result per
    worker waits in memory.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._idle: deque[Worker] = deque()

    @property
    def count(self) -> int:
        """The number of workers that are expected."""
        return self._crew.count

    def run(
        self, steps: tuple[str, ...], tasks: Iterable[Task], running: Running
    ) -> Iterator[tuple[range, Mapping[str, Tensor]]]:
        """Compute tasks; yield the range and the tensors of each as it is completed.

        Raises
        ------
        WorkerError
            If a task has lost its worker too often, or no worker can be had.
        """
        queue = _Queue(tasks)
        busy: dict[Future[Computed], tuple[Worker, _Job]] = {}
        self._drop_dead()
        last_worker = time.monotonic()
        while True:
            self._assign(steps, queue, busy)
            if busy or self._idle:
                last_worker = time.monotonic()
            if not busy and not queue:
                return
            if time.monotonic() - last_worker > PATIENCE:
                raise WorkerError(
                    f"There has been no worker for {PATIENCE:.0f} seconds.",
                    "Expected at least one.",
                    "Check the cluster and its free resources, then run the same build again: "
                    "it resumes.",
                )
            if not busy:
                time.sleep(TICK)
                continue
            finished = self._collect(steps, queue, busy)
            self._assign(steps, queue, busy)  # before the results are saved
            yield from finished
            running(sum((Counter(worker.running()) for worker, _ in busy.values()), Counter()))

    def _assign(
        self,
        steps: tuple[str, ...],
        queue: _Queue,
        busy: dict[Future[Computed], tuple[Worker, _Job]],
    ) -> None:
        self._idle.extend(self._crew.hire())
        while self._idle and queue:
            worker, job = self._idle.popleft(), queue.pop()
            busy[worker.submit(steps, job.task)] = worker, job

    def _collect(
        self,
        steps: tuple[str, ...],
        queue: _Queue,
        busy: dict[Future[Computed], tuple[Worker, _Job]],
    ) -> list[tuple[range, Mapping[str, Tensor]]]:
        """Return the results that are ready within a tick; requeue the tasks of lost workers."""
        finished: list[tuple[range, Mapping[str, Tensor]]] = []
        for future in wait(busy, TICK, FIRST_COMPLETED).done:
            worker, job = busy.pop(future)
            try:
                computed = future.result()
            except self._crew.lost as error:
                self._crew.dismiss(worker)
                self._drop_dead()
                if job.attempt == ATTEMPTS:
                    raise _lost_too_often(steps[0], job.task.samples, error) from error
                queue.put_back(replace(job, attempt=job.attempt + 1))
                continue
            self._idle.append(worker)
            finished.append((job.task.samples, computed.read()))
        return finished

    def _drop_dead(self) -> None:
        for worker in [worker for worker in self._idle if not worker.is_alive()]:
            self._idle.remove(worker)
            self._crew.dismiss(worker)


def _lost_too_often(step: str, samples: range, error: Exception) -> WorkerError:
    return WorkerError(
        f"The workers that computed samples {samples.start} to {samples.stop - 1} of the step "
        f"'{step}' were lost {ATTEMPTS} times ({' '.join(str(error).split())[:300]}).",
        "Expected workers that do not end during a task; often memory runs out.",
        "Use fewer workers or a smaller batch size, then run the same build again: it resumes.",
    )


class _Queue:
    """The jobs that wait, first those that were put back."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._back: deque[_Job] = deque()
        self._tasks = iter(tasks)
        self._next = next(self._tasks, None)

    def __bool__(self) -> bool:
        return bool(self._back) or self._next is not None

    def pop(self) -> _Job:
        if self._back:
            return self._back.popleft()
        task, self._next = self._next, next(self._tasks, None)
        assert task is not None  # noqa: S101  # callers check that there is one
        return _Job(task)

    def put_back(self, job: _Job) -> None:
        self._back.append(job)
