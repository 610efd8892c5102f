"""Long work in the background: asked for again until it is done, and then remembered."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar, cast

from pydantic import BaseModel

from semlens.errors import BusyError
from semlens.progress import listening

T = TypeVar("T")

PATIENCE = 0.5
"""Seconds for which a request waits before it is told to come back."""
KEPT = 64
"""Results that are remembered."""
LARGE = 8
"""Large ones of them, which grow with the components or hold pictures."""
AT_ONCE = 2
"""Pieces of work that run at the same time; others queue. Short ones have turns of their own, so
that a search does not wait for a layout that somebody else has asked for."""
WAITING = 32
"""Pieces of work under way or in the queue, above which no more is taken on."""


class JobStatus(BaseModel):
    """Work that has not ended: ask again at the same address."""

    what: str
    done: int
    total: int
    """0 while it is not known."""
    seconds: float


class JobPending(Exception):
    """The result is not there yet: HTTP 202, and the browser asks again."""

    def __init__(self, state: JobStatus) -> None:
        super().__init__(f"{state.what}: {state.done} of {state.total}")
        self.state = state


class _Job:
    """One piece of work and how far it is."""

    def __init__(self, what: str, large: bool) -> None:
        self.what = what
        self.large = large
        self.start = time.monotonic()
        self.done = 0
        self.total = 0
        self.made = Future[object]()

    def report(self, _: str, done: int, total: int) -> None:
        self.done, self.total = done, total

    def state(self) -> JobPending:
        seconds = round(time.monotonic() - self.start, 1)
        return JobPending(
            JobStatus(what=self.what, done=self.done, total=self.total, seconds=seconds)
        )


class JobQueue:
    """The background of a server.

    Threads are daemons: work that is under way never keeps the server from ending.
    """

    def __init__(
        self,
        kept: int = KEPT,
        at_once: int = AT_ONCE,
        large: int = LARGE,
        waiting: int = WAITING,
    ) -> None:
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._kept = kept
        self._large = large
        self._waiting = waiting
        self._lock = threading.Lock()
        self._long = threading.Semaphore(at_once)
        self._short = threading.Semaphore(at_once)

    def result(
        self,
        key: str,
        what: str,
        make: Callable[[], T],
        *,
        short: bool = False,
        large: bool = False,
    ) -> T:
        """Return what ``make`` returns, if it is known or comes within half a second.

        Parameters
        ----------
        key
            Everything that decides the result, the database included. ``make`` runs once
            per key, however many ask.
        what
            What the page says meanwhile: "computing the graph of 'ox'".
        make
            The work; what it reports (:mod:`semlens.progress`) is told to whoever asks. What it
            raises, is raised here once and then forgotten, so that asking again tries again.
        short
            Whether it takes seconds at most, whatever is asked: reading, or loading weights.
        large
            Whether the result is: few of those are remembered.

        Raises
        ------
        JobPending
            If it is not done yet.
        BusyError
            If too much else is under way.
        """
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                self._check_room()
                job = self._jobs[key] = _Job(what, large)
                self._forget_old()
                turn = self._short if short else self._long
                threading.Thread(target=self._run, args=(job, make, turn), daemon=True).start()
            self._jobs.move_to_end(key)
        if not wait([job.made], PATIENCE).done:
            raise job.state()
        if job.made.exception() is not None:
            with self._lock:
                if self._jobs.get(key) is job:
                    del self._jobs[key]
        return cast(T, job.made.result())

    def _run(self, job: _Job, make: Callable[[], T], turn: threading.Semaphore) -> None:
        with turn, listening(job.report):
            try:
                job.made.set_result(make())
            except BaseException as error:  # handed to whoever asks
                job.made.set_exception(error)

    def _forget_old(self) -> None:
        """Drop the results that were asked for longest ago; never work under way."""
        large = [key for key, job in self._jobs.items() if job.large]
        self._drop(large, len(large) - self._large)
        self._drop(list(self._jobs), len(self._jobs) - self._kept)

    def _drop(self, keys: Sequence[str], count: int) -> None:
        ended = [key for key in keys if self._jobs[key].made.done()]
        for key in ended[: max(count, 0)]:
            del self._jobs[key]

    def _check_room(self) -> None:
        """Refuse work when a client has asked for ever more: each piece has a thread."""
        under_way = sum(not job.made.done() for job in self._jobs.values())
        if under_way >= self._waiting:
            raise BusyError(
                f"{under_way} pieces of work are under way.",
                f"Expected fewer than {self._waiting}: the server does not take on more.",
                "Ask again when some of them have ended.",
            )
