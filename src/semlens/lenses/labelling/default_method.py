"""Which labelling method is used, if none is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from semlens.store.reader import Database

DEFAULT_METHOD = "vote"
"""Method for databases with a reference sample."""
DEFAULT_WITHOUT_REFERENCE = "vote-examples"
"""Method for databases without one, or with a small one."""
SMALLEST_REFERENCE = 100
"""Images of a reference sample that is large enough: :class:`Vote` looks at the strongest 8 %."""
PAPER_METHOD = "semantic-lens"
"""Method of the paper, and for a single concept: votes compare concepts with one another."""


def default_method(databases: Sequence[Database], concepts: int) -> str:
    """Return the best method for some databases, the same for all, and a number of concepts."""
    if concepts < 2:
        return PAPER_METHOD
    sizes = [0 if db.reference is None else len(db.reference) for db in databases]
    return DEFAULT_METHOD if min(sizes) >= SMALLEST_REFERENCE else DEFAULT_WITHOUT_REFERENCE
