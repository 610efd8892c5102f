"""An amount of memory that all requests share; what goes beyond it is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from semlens.web.errors import HttpError


class Budget:
    """An amount that requests take parts of while they are answered; thread-safe."""

    def __init__(self, at_most: int) -> None:
        self.at_most, self.taken = at_most, 0
        self._lock = threading.Lock()

    @contextmanager
    def share(self) -> Iterator[Share]:
        """Give a share, which returns what it has taken at the end of the block."""
        share = Share(self)
        try:
            yield share
        finally:
            self.add(-share.taken)

    def add(self, amount: int) -> bool:
        """Take an amount, unless it is more than is left."""
        with self._lock:
            if self.taken + amount > self.at_most:
                return False
            self.taken += amount
            return True


class Share:
    """What one request has taken of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self.taken = budget, 0

    def take(self, amount: int) -> None:
        """Take some more.

        Raises
        ------
        HttpError
            503, if it is more than is left.
        """
        if not self._budget.add(amount):
            raise HttpError(
                503,
                "Too many uploads are being received or computed.",
                "Expected fewer at the same time.",
                "Try again in a few seconds.",
            )
        self.taken += amount
