"""Distributing tasks over workers that may be lost, and what is sent to them and back."""

from __future__ import annotations

import io
import sys
import time
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import cloudpickle
import torch
from safetensors.torch import load, save
from torch import Tensor

from semlens.errors import SemlensError, WorkerError, reason_of
from semlens.models.load import USER_MODULE
from semlens.run.executors.executor import Advance, Inputs, Running, Task, keep_freed_memory


def pack(inputs: Inputs) -> bytes:
    """Return the inputs as bytes, with the weights.

    Raises
    ------
    WorkerError
        If the model, the embedder or the images cannot be pickled.
    """
    buffer = io.BytesIO()
    try:
        with _user_modules_by_value():
            torch.save(inputs, buffer, pickle_module=cloudpickle)
    except Exception as error:  # an object of the user may raise anything
        raise WorkerError(
            f"The model, the images or the embedder cannot be sent to workers ({error!r}).",
            "Expected objects that can be pickled.",
            "Load them from SPECs, or build in this process.",
        ) from error
    return buffer.getvalue()


@contextmanager
def _user_modules_by_value() -> Iterator[None]:
    """Pickle the classes of a ``FILE.py:CALLABLE`` with their code: workers cannot import them."""
    modules = [sys.modules[name] for name in list(sys.modules) if name.startswith(USER_MODULE)]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def unpack(data: bytes | memoryview, threads: int) -> Inputs:
    """Return a worker's inputs, with so many threads that decode, or more for a remote source."""
    keep_freed_memory()
    buffer = io.BytesIO(data)
    inputs = torch.load(buffer, weights_only=False)
    return replace(inputs, threads=max(threads, inputs.images.parallel_reads) if threads else 0)


@dataclass(frozen=True)
class Computed:
    """The result of a task: its tensors or its error, and the warnings on the way."""

    tensors: bytes | None
    error: Exception | None
    warnings: tuple[Warning, ...] = ()

    def read(self) -> Mapping[str, Tensor]:
        """Issue the warnings; return the tensors, or raise the error."""
        for warning in self.warnings:
            warnings.warn(warning, stacklevel=2)
        if self.error is not None:
            raise self.error
        assert self.tensors is not None  # noqa: S101  # either of the two
        return load(self.tensors)


def compute(inputs: Inputs | Exception, task: Task, advance: Mapping[str, Advance]) -> Computed:
    """Compute a task in a worker, or return the error with which the worker started."""
    if isinstance(inputs, Exception):
        return Computed(None, inputs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            tensors = task(inputs, advance)
            plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
            data, error = save(plain), None
        except Exception as raised:  # of the user's model: it is raised in the main process
            data, error = None, _portable(raised)
    ours = [w.message for w in caught if w.category.__module__.startswith("semlens")]
    return Computed(data, error, tuple(w for w in ours if isinstance(w, Warning)))


def _portable(error: Exception) -> Exception:
    """Return an error that can be pickled, with the traceback in the worker as a note."""
    text = "".join(traceback.format_exception(error))
    error.__cause__ = error.__context__ = None
    try:
        if type(cloudpickle.loads(cloudpickle.dumps(error))) is not type(error):
            raise TypeError
    except Exception:  # its class may raise anything
        error = RuntimeError(str(error))
    if not isinstance(error, SemlensError):
        error.add_note(f"In a worker:\n{text}")
    return error


def start_error(error: Exception) -> WorkerError:
    """Return the error of a worker that cannot load the inputs."""
    return WorkerError(
        f"A worker cannot load the model, the images or the embedder ({error!r}).",
        "Expected the packages and folders of this process in every worker.",
        "Install them on all machines, or build in this process.",
    )


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
        f"'{step}' were lost {ATTEMPTS} times ({reason_of(error, whole=True)}).",
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
