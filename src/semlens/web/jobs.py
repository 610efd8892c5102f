"""Background jobs: the client polls until a job is done, and its result is cached."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar, cast

from pydantic import BaseModel

from semlens.errors import BusyError
from semlens.progress import progress_listener
from semlens.run.executors.executor import return_freed_memory

T = TypeVar("T")

WAIT = 0.5
"""Seconds that a request waits for a result before it returns 202."""
MAX_RESULTS = 64
"""Results in the cache."""
MAX_LARGE = 8
"""Large results in the cache: those that grow with the components or hold images."""
PARALLEL = 2
"""Jobs that run at the same time; others queue. Short jobs have slots of their own, so that a
search does not wait for a layout that someone else has requested, and so has the one background
job, which nobody may have to wait for."""
MAX_PENDING = 32
"""Jobs that may run or queue before new ones are refused."""


class JobStatus(BaseModel):
    """A job that is still running: send the same request again."""

    description: str
    done: int
    total: int
    """0 while unknown."""
    seconds: float
    waiting: str | None
    """What it waits for before it goes on, or null while it runs: "the model (the swap)"."""


class JobPending(Exception):
    """The result is not ready: HTTP 202, and the browser polls."""

    def __init__(self, status: JobStatus) -> None:
        super().__init__(f"{status.description}: {status.done} of {status.total}")
        self.status = status


class Cancelled(BusyError):
    """A job that somebody has stopped."""

    def __init__(self, description: str) -> None:
        super().__init__(f"'{description}' was stopped.", "Expected to finish.", "Ask again.")


class _Job:
    """One job and its progress."""

    def __init__(self, description: str, large: bool, background: bool) -> None:
        self.description = description
        self.large = large
        self.background = background
        self.start = time.monotonic()
        self.done = 0
        self.total = 0
        self.waiting: str | None = None
        self.cancelled = False
        self.future = Future[object]()

    def report(self, _: str, done: int, total: int) -> None:
        if self.cancelled:
            raise Cancelled(self.description)
        self.done, self.total = done, total

    def pending(self) -> JobPending:
        seconds = round(time.monotonic() - self.start, 1)
        return JobPending(
            JobStatus(
                description=self.description,
                done=self.done,
                total=self.total,
                seconds=seconds,
                waiting=self.waiting,
            )
        )


_current: ContextVar[_Job | None] = ContextVar("job", default=None)


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Say in the status of the job that runs this, if one does, that it waits."""
    job = _current.get()
    if job is not None:
        job.waiting = what
    try:
        yield
    finally:
        if job is not None:
            job.waiting = None


class JobQueue:
    """Background threads of a server, and a cache of their results.

    The threads are daemons, so a running job never keeps the server from exiting.
    """

    def __init__(
        self,
        max_results: int = MAX_RESULTS,
        parallel: int = PARALLEL,
        max_large: int = MAX_LARGE,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._max_results = max_results
        self._max_large = max_large
        self._max_pending = max_pending
        self._lock = threading.Lock()
        self._long = threading.Semaphore(parallel)
        self._short = threading.Semaphore(parallel)
        self._background = threading.Semaphore(1)

    def result(
        self,
        key: str,
        description: str,
        compute: Callable[[], T],
        *,
        short: bool = False,
        large: bool = False,
        background: bool = False,
    ) -> T:
        """Return the result of ``compute`` if it is cached or ready within half a second.

        Parameters
        ----------
        key
            Everything that determines the result, including the database. ``compute`` runs once
            per key, however many requests need it.
        description
            Shown by the page meanwhile: "Computing the graph of 'ox'".
        compute
            The job. Its progress (:mod:`semlens.progress`) is part of the status. An error is
            raised here once and not cached, so that the next request tries again.
        short
            Whether the job takes at most seconds, such as reading a file or loading weights.
        large
            Whether the result is large; only few of those are cached.
        background
            Whether nobody waits for the result yet; the job runs at low priority.

        Raises
        ------
        JobPending
            If the job is still running.
        BusyError
            If too many other jobs are pending.
        """
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                self._check_capacity()
                job = self._jobs[key] = _Job(description, large, background)
                self._evict()
                slot = self._background if background else self._short if short else self._long
                threading.Thread(
                    target=self._run, args=(job, compute, slot), name=f"job {key}", daemon=True
                ).start()
            self._jobs.move_to_end(key)
        if not wait([job.future], WAIT).done:
            raise job.pending()
        if job.future.exception() is not None:
            with self._lock:
                if self._jobs.get(key) is job:
                    del self._jobs[key]
        return cast(T, job.future.result())

    def finished(self, key: str) -> object | None:
        """Return the result of a job that has finished well and is still cached, or None."""
        with self._lock:
            job = self._jobs.get(key)
        if job is None or not job.future.done() or job.future.exception() is not None:
            return None
        return job.future.result()

    def cancel(self, key: str) -> None:
        """Stop a job at its next report of progress, if it runs; the next request starts another.

        Whoever waits for it gets the error that it was stopped.
        """
        with self._lock:
            job = self._jobs.get(key)
            if job is not None and not job.future.done():
                job.cancelled = True
                del self._jobs[key]

    def _run(self, job: _Job, compute: Callable[[], T], slot: threading.Semaphore) -> None:
        if job.background:
            lower_priority()
        _current.set(job)  # of this thread alone
        with waiting_for("other work on this server"):
            slot.acquire()
        with progress_listener(job.report):
            try:
                job.future.set_result(compute())
            except BaseException as error:  # raised in the request
                job.future.set_exception(error)
            finally:
                slot.release()
        if slot is self._long:
            return_freed_memory()

    def _evict(self) -> None:
        """Drop the least recently used results; never a running job."""
        large = [key for key, job in self._jobs.items() if job.large]
        self._drop(large, len(large) - self._max_large)
        self._drop(list(self._jobs), len(self._jobs) - self._max_results)

    def _drop(self, keys: Sequence[str], count: int) -> None:
        finished = [key for key in keys if self._jobs[key].future.done()]
        for key in finished[: max(count, 0)]:
            del self._jobs[key]

    def _check_capacity(self) -> None:
        """Refuse a new job while too many are pending: each one has a thread."""
        pending = sum(not job.future.done() for job in self._jobs.values())
        if pending >= self._max_pending:
            raise BusyError(
                f"{pending} jobs are running or queued.",
                f"Expected fewer than {self._max_pending} on one server.",
                "Try again when some of them have finished.",
            )


def lower_priority() -> None:
    """Lower the priority of this thread, on systems where a thread has its own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
