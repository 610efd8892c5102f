"""Long work in the background: asked for again until it is done, and then remembered."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with what is done, and the total."""

PATIENCE = 0.5
"""Seconds for which a request waits before it is told to come back."""
KEPT = 64
"""Results that are remembered."""
AT_ONCE = 2
"""Pieces of work that run at the same time; others queue."""


class StillWorking(Exception):
    """The result is not there yet: HTTP 202, and the browser asks again."""

    def __init__(self, what: str, done: int, total: int, seconds: float) -> None:
        super().__init__(f"{what}: {done} of {total}")
        self.what = what
        self.done = done
        self.total = total
        self.seconds = seconds


class _Job:
    """One piece of work and how far it is."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.start = time.monotonic()
        self.done = 0
        self.total = 0
        self.ended = threading.Event()
        self.value: object = None
        self.error: BaseException | None = None

    def report(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    def state(self) -> StillWorking:
        seconds = round(time.monotonic() - self.start, 1)
        return StillWorking(self.what, self.done, self.total, seconds)


class Work:
    """The background of a server.

    Threads are daemons: work that is under way never keeps the server from ending.
    """

    def __init__(self, kept: int = KEPT, at_once: int = AT_ONCE) -> None:
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._kept = kept
        self._lock = threading.Lock()
        self._turn = threading.Semaphore(at_once)

    def result(self, key: str, what: str, make: Callable[[Progress], T]) -> T:
        """Return what ``make`` returns, if it is known or comes within half a second.

        Parameters
        ----------
        key
            Everything that decides the result, the database included. ``make`` runs once
            per key, however many ask.
        what
            What the page says meanwhile: "computing the graph of 'ox'".
        make
            The work; it may report progress. What it raises, is raised here once and then
            forgotten, so that asking again tries again.

        Raises
        ------
        StillWorking
            If it is not done yet.
        """
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                job = self._jobs[key] = _Job(what)
                self._forget_old()
                threading.Thread(target=self._run, args=(job, make), daemon=True).start()
            self._jobs.move_to_end(key)
        if not job.ended.wait(PATIENCE):
            raise job.state()
        if job.error is not None:
            with self._lock:
                if self._jobs.get(key) is job:
                    del self._jobs[key]
            raise job.error
        return cast(T, job.value)

    def _run(self, job: _Job, make: Callable[[Progress], T]) -> None:
        with self._turn:
            try:
                job.value = make(job.report)
            except BaseException as error:  # handed to whoever asks
                job.error = error
            finally:
                job.ended.set()

    def _forget_old(self) -> None:
        """Drop the results that were asked for longest ago; never work under way."""
        ended = [key for key, job in self._jobs.items() if job.ended.is_set()]
        for key in ended[: max(len(self._jobs) - self._kept, 0)]:
            del self._jobs[key]
