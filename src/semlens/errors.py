"""The error tree: each error says the value, what was expected, and the remedy.

Every class here has a page in ``docs/errors.md`` (symptom, cause, fix).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SemlensError(Exception):
    """Base of all errors that a user can mend.

    Parameters
    ----------
    value
        What was met, with the value itself.
    expected
        What would have been right.
    remedy
        What to do now.
    """

    def __init__(self, value: str, expected: str, remedy: str) -> None:
        self.value = value
        self.expected = expected
        self.remedy = remedy
        super().__init__(f"{value} {expected} {remedy}")


class LayerError(SemlensError):
    """A layer name that the model does not have, or an output that cannot be read."""


class DataError(SemlensError):
    """A data set without images, or one that cannot be found or read."""


class ImageError(SemlensError):
    """One image that cannot be decoded."""


class ModelError(SemlensError):
    """A model that cannot be loaded, or whose preprocessing breaks the contract."""


class EmbedderError(SemlensError):
    """A foundation model that cannot be loaded, or asked for what it cannot do."""


class RecipeError(SemlensError):
    """Settings that are wrong, or that differ from those of the database."""


class StaleError(SemlensError):
    """The database was made from another model, other data or another embedder."""


class BusyError(SemlensError):
    """Another process is writing to the database, or a server has too much to do."""


class StoreError(SemlensError):
    """A database that is missing, unfinished or damaged, or a disk that is full."""


class ConceptError(SemlensError):
    """A concept set or a probe that cannot be read."""


class RelevanceError(SemlensError):
    """A model, target or database of which no relevance can be computed."""


class ServeError(SemlensError):
    """The web application cannot be served as asked, or its page was never built."""


class EditError(SemlensError):
    """An edit of something that somebody else has edited since it was read."""


def nearest(name: str, known: Iterable[str], at_most: int = 4) -> str:
    """Return the known names closest to ``name``, for the text of an error."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=at_most, cutoff=0.4)
    return ", ".join(close or names[:at_most])
