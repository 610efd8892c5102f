"""Queries that a page refers to by number: an image is sent once, then paged and coloured by."""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import count

from semlens.analysis.search import Query
from semlens.web.errors import Refused

KEPT = 500
"""Queries that are remembered, a few kilobytes each."""


class Probes:
    """The queries of all models that were asked last; safe in threads."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._queries: OrderedDict[int, tuple[int, Query]] = OrderedDict()

    def keep(self, model: int, query: Query) -> int:
        """Remember a query of a model and return its number."""
        with self._lock:
            number = next(self._numbers)
            self._queries[number] = (model, query)
            while len(self._queries) > self._kept:
                self._queries.popitem(last=False)
            return number

    def get(self, model: int, number: int) -> Query:
        """Return the query of a number.

        Raises
        ------
        Refused
            404, if it is forgotten, or is another model's.
        """
        with self._lock:
            found = self._queries.get(number)
            if found is None or found[0] != model:
                raise Refused(
                    404,
                    f"The search number {number} is not known any more.",
                    f"The server remembers the last {self._kept}.",
                    "Search again.",
                )
            self._queries.move_to_end(number)
            return found[1]
