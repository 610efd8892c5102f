"""Progress of a question for the client: one number that only grows, as the protocol requires."""

from __future__ import annotations

from typing import NamedTuple, Protocol

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


class _Heard(NamedTuple):
    """The last report, in one value: another thread reads it."""

    stage: str = ""
    done: int = 0
    total: int = 0
    before: int = 0
    """Items of the stages before."""


class ProgressRelay:
    """A progress listener of a thread, and a task of the event loop that sends what it heard.

    The stages of a question follow each other; items that are done add up over all stages.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._heard = _Heard()
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
        last = self._heard
        new = stage != last.stage or done < last.done
        self._heard = _Heard(stage, done, total, last.before + (last.done if new else 0))

    async def send(self) -> None:
        """Send notifications until this task is cancelled; then the next report ends the work."""
        sent = 0
        try:
            while True:
                await anyio.sleep(INTERVAL)
                heard = self._heard
                reached = heard.before + heard.done
                if reached > sent:
                    sent, total = reached, heard.before + heard.total
                    await self._session.report_progress(reached, total, heard.stage)
        finally:
            self._cancelled = True
