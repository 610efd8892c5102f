"""Exceptions. Each message has three parts: the value, the expectation, and the remedy.

Every class has a section in ``docs/errors.md`` (symptom, cause, fix).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SemlensError(Exception):
    """Base class of all errors that a user can fix.

    Parameters
    ----------
    value
        What is wrong, including the value.
    expected
        What was expected.
    remedy
        How to fix it.
    """

    def __init__(self, value: str, expected: str, remedy: str) -> None:
        self.value = value
        self.expected = expected
        self.remedy = remedy
        super().__init__(f"{value} {expected} {remedy}")

    def __reduce__(self) -> tuple[type[SemlensError], tuple[str, str, str], dict[str, object]]:
        """Pickle by the three parts: workers send their errors to the main process."""
        return type(self), (self.value, self.expected, self.remedy), vars(self)


class LayerError(SemlensError):
    """An unknown layer or component, or a layer output that cannot be read."""


class DataError(SemlensError):
    """A data set that has no images, or that cannot be found or read."""


class ImageError(SemlensError):
    """One image that cannot be decoded."""


class ModelError(SemlensError):
    """A model that cannot be loaded, or whose preprocessing breaks the contract."""


class EmbedderError(SemlensError):
    """A foundation model that cannot be loaded, or lacks a required ability."""


class RecipeError(SemlensError):
    """Invalid settings, or settings that differ from those of the database."""


class StaleError(SemlensError):
    """A model, data or embedder that differs from that of the database."""


class BusyError(SemlensError):
    """Another process is writing to the database, or the server is overloaded."""


class WorkerError(SemlensError):
    """A worker of a build that cannot be started, or is lost again and again."""


class StoreError(SemlensError):
    """A database that is missing, unfinished or damaged, or a disk that is full."""


class ConceptError(SemlensError):
    """A concept set, query or label that is missing or invalid."""


class LensError(SemlensError):
    """A lens that is not registered, or whose package cannot be imported."""


class RelevanceError(SemlensError):
    """A model, target or database for which relevance is not available."""


class ServeError(SemlensError):
    """The web application cannot be served as requested, or its page has not been built."""


class EditError(SemlensError):
    """A conflicting edit: the content has changed since it was read."""


def shortened(name: object, at_most: int = 200) -> str:
    """Return a name for an error message, without the middle of a very long one."""
    text = str(name)
    half = at_most // 2 - 2
    return text if len(text) <= at_most else f"{text[:half]} … {text[-half:]}"


def reason_of(error: BaseException, *, whole: bool = False) -> str:
    """Return the first line of a library's error, or with ``whole`` all of it as one line.

    It is shortened, and without a full stop, so that it can stand in brackets.
    """
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines if whole else lines[:1]).rstrip(".")
    return shortened(text or type(error).__name__)


def nearest(name: str, known: Iterable[str], at_most: int = 4) -> str:
    """Return the known names closest to ``name``, for an error message."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=at_most, cutoff=0.4)
    return ", ".join(close or names[:at_most])
