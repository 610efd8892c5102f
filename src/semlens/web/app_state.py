"""The databases that are served, and how a request gets at one."""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, TypeVar

import pandas as pd
from fastapi import Depends, Path, Request
from fastapi import Query as InQuery
from pydantic import BaseModel

from semlens.analysis.audit.model_test_result import ModelTest
from semlens.analysis.compare.component_sets import database_names
from semlens.analysis.result import plain
from semlens.analysis.search import Query
from semlens.api import ConceptDatabase
from semlens.errors import ModelError, SemlensError, ServeError, StaleError
from semlens.store.atomic_files import file_digest
from semlens.store.manifest import MANIFEST_NAME
from semlens.types import Component
from semlens.web.embedder import SharedEmbedder, share
from semlens.web.errors import HttpError, not_found
from semlens.web.jobs import JobQueue

M = TypeVar("M", bound=BaseModel)


@dataclass(eq=False)
class ModelContext:
    """One database that is served.

    The embedder locks itself, and databases of one embedder share it: a search need not take
    the lock, and so does not wait for a long run of the subject.
    """

    number: int
    """Counts from 0, in the order given."""
    name: str
    """Its folder, with as many parents as tell it apart."""
    db: ConceptDatabase
    lock: threading.RLock = field(default_factory=threading.RLock)
    """Hold it around whatever runs the subject."""
    keeping: threading.Lock = field(default_factory=threading.Lock)
    """Hold it while a table that two pages may make at once is kept: never for long."""
    tests: dict[int, ModelTest] = field(default_factory=dict)
    """The last model test of each class, for its report."""
    _seen: tuple[int, ...] = ()

    def check_unchanged(self) -> None:
        """Refuse to answer once the folder holds another build: an answer would mix both.

        It costs a look at one file for each request.

        Raises
        ------
        StaleError
            If layers or relevance have been added, or it was built anew or removed.
        """
        manifest = self.db.path / MANIFEST_NAME
        try:
            found = manifest.stat()
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            same = seen == self._seen or file_digest(manifest) == self.db.fingerprint
        except OSError:
            seen, same = (), False
        if not same:
            raise StaleError(
                f"The database '{self.db.path}' has changed since it was opened.",
                "Expected the build that the server was started with.",
                "End the server and start it again, once the build has ended.",
            )
        self._seen = seen

    @contextlib.contextmanager
    def running(self, why: str) -> Iterator[None]:
        """Run the subject; ``why`` says what for: "A graph is traced through the model".

        Raises
        ------
        ModelError
            If it cannot be loaded, or is not the one of the database; it says how to serve it.
        """
        with self.lock:
            try:
                yield
            except (ModelError, StaleError) as error:
                if "model" in vars(self.db):  # it is there
                    raise
                command = shlex.join(["semlens", "serve", str(self.db.path), "--model"])
                raise ModelError(
                    f"{why} '{self.db.manifest.model.spec}', which is not there: {error.value}",
                    f"{error.expected} What the database holds is shown without it.",
                    f"Serve it with the model: {command} SPEC",
                ) from error


KEPT = 500
"""Queries that are remembered, a few kilobytes each."""


class QueryCache:
    """Queries that a page refers to by number: an image is sent once, then paged and coloured by.

    Those of all models that were asked last; safe in threads.
    """

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
        HttpError
            404, if it is forgotten, or is another model's.
        """
        with self._lock:
            found = self._queries.get(number)
            if found is None or found[0] != model:
                raise HttpError(
                    404,
                    f"The search number {number} is not known any more.",
                    f"The server remembers the last {self._kept}.",
                    "Search again.",
                )
            self._queries.move_to_end(number)
            return found[1]


@dataclass(eq=False)
class AppState:
    """All that a server serves; ``app.state.serving``."""

    models: list[ModelContext]
    work: JobQueue = field(default_factory=JobQueue)
    probes: QueryCache = field(default_factory=QueryCache)

    @classmethod
    def of(cls, databases: Sequence[ConceptDatabase]) -> AppState:
        """Give databases numbers and names, and let those of one embedder share it."""
        _refuse_twins(databases)
        names = database_names(databases) if databases else []
        share(databases)
        for db in databases:
            _ = db.fingerprint  # of what was opened, not of what is there at the first question
        return cls([ModelContext(number, names[number], db) for number, db in enumerate(databases)])

    def at(self, number: int) -> ModelContext:
        """Return what is served under a number.

        Raises
        ------
        HttpError
            404, if there is nothing.
        StaleError
            If the database has changed on disk since it was opened.
        """
        if not 0 <= number < len(self.models):
            raise not_found(
                f"There is no model {number}.",
                f"This server has {len(self.models)}, counted from 0.",
            )
        self.models[number].check_unchanged()
        return self.models[number]

    def warm(self) -> None:
        """Read what the first answers need, and load the embedders.

        What cannot be loaded is remembered by the embedder, and said when it is asked for.
        """
        for served in self.models:
            with contextlib.suppress(SemlensError):  # a damaged file; the page says so
                served.db.warm()
        for served in self.models:
            embedder = served.db.embedder
            if isinstance(embedder, SharedEmbedder):
                with contextlib.suppress(SemlensError):
                    embedder.warm()


def _refuse_twins(databases: Sequence[ConceptDatabase]) -> None:
    seen: set[str] = set()
    for folder in (str(db.path.resolve()) for db in databases):
        if folder in seen:
            raise ServeError(
                f"The database '{folder}' is given twice.",
                "Expected different ones.",
                "Leave one out.",
            )
        seen.add(folder)


# coroutines, for what only looks something up: a plain function would be given a thread
async def _all(request: Request) -> AppState:
    return request.app.state.serving


async def _model(
    m: Annotated[int, Path(ge=0)], serving: Annotated[AppState, Depends(_all)]
) -> ModelContext:
    return serving.at(m)


All = Annotated[AppState, Depends(_all)]
"""Everything that is served, for an endpoint of several models."""
Model = Annotated[ModelContext, Depends(_model)]
"""The database that ``{m}`` of the path names."""

LARGEST = 2**31 - 1
"""No class or row has a larger number; arrays take none."""
ClassNumber = Annotated[int, InQuery(alias="class", ge=0, le=LARGEST)]
"""The class that ``?class=`` names, by its logit."""
MaybeClass = Annotated[int | None, InQuery(alias="class", ge=0, le=LARGEST)]
LayerNames = Annotated[list[str] | None, InQuery(alias="layer", max_length=1000)]
"""The layers that ``?layer=`` names, perhaps several times; None for all."""
COMPONENT = "/models/{m}/components/{component:path}"


async def _row(served: Model, component: str) -> int:
    return served.db.row(Component.parse(component))


Row = Annotated[int, Depends(_row)]
"""Row in ``components.parquet`` of the component that a path below :data:`COMPONENT` names."""


def records(kind: type[M], frame: pd.DataFrame) -> list[M]:
    """Return the rows of a table as answers."""
    return [kind.model_validate(record) for record in plain(frame.to_dict("records"))]
