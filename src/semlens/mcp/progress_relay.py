"""Progress of a question for the client: one number that only grows, as the protocol requires."""

from __future__ import annotations

from typing import Protocol

import anyio

INTERVAL = 0.2
"""Seconds between notifications, at least."""


class Cancelled(BaseException):
    """The client does not want the answer any more; ends the work like Ctrl-C."""


class Session(Protocol):
    """What sends notifications."""

    async def report_progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Send the progress of this request, if the client asked for it."""
        ...


class ProgressRelay:
    """A progress listener of a thread, and a task of the event loop that sends what it heard.

    The stages of a question follow each other; items that are done add up over all stages.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stage, self._done, self._total, self._before = "", 0, 0, 0
        self._cancelled = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note the progress of a stage.

        Raises
        ------
        Cancelled
            If the request has been cancelled.
        """
        if self._cancelled:
            raise Cancelled
        if stage != self._stage or done < self._done:
            self._before += self._done
        self._stage, self._done, self._total = stage, done, total

    async def send(self) -> None:
        """Send notifications until this task is cancelled; then the next report ends the work."""
        sent = 0
        try:
            while True:
                await anyio.sleep(INTERVAL)
                reached = self._before + self._done
                if reached > sent:
                    sent, total = reached, self._before + self._total
                    await self._session.report_progress(reached, total, self._stage)
        finally:
            self._cancelled = True
