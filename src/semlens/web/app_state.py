"""State of the server: its databases, background jobs and remembered queries."""

from __future__ import annotations

import contextlib
import shlex
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path as FilePath
from typing import Annotated, TypeVar

import pandas as pd
from fastapi import Depends, Path, Request
from fastapi import Query as InQuery
from pydantic import BaseModel

from semlens.concept_database import ConceptDatabase
from semlens.errors import ModelError, SemlensError, ServeError, StaleError
from semlens.lenses.audit.model_test_result import ModelTest
from semlens.lenses.compare.component_sets import database_names
from semlens.lenses.result import plain
from semlens.lenses.search.query import Query
from semlens.regular_files import file_digest
from semlens.store.manifest import MANIFEST_NAME
from semlens.types import Component
from semlens.web.embedder import SharedEmbedder, share
from semlens.web.errors import HttpError, not_found
from semlens.web.jobs import JobQueue, waiting_for
from semlens.web.upload import UploadedImages

M = TypeVar("M", bound=BaseModel)


@dataclass(eq=False)
class ModelContext:
    """A database that the server answers questions about.

    Databases with the same embedder share one object that has its own lock, so a search does
    not take ``model_lock`` and does not wait for a long run of the subject model.
    """

    number: int
    """Position among the databases, from 0; ``{m}`` in paths."""
    name: str
    """Name of the folder, with as many parent folders as make it unique."""
    db: ConceptDatabase
    model_used_for: str = "another run"
    """Purpose of the run that holds the database's ``model_lock``."""
    save_lock: threading.Lock = field(default_factory=threading.Lock)
    """Held briefly while a table that two requests may compute at the same time is saved."""
    model_tests: dict[int, ModelTest] = field(default_factory=dict)
    """Latest model test of each class, for its report."""
    _manifest_stat: tuple[int, ...] = ()

    def check_unchanged(self) -> None:
        """Check that the folder still holds the build that was opened.

        Costs one ``stat`` per request.

        Raises
        ------
        StaleError
            If layers or relevance were added, or the database was rebuilt or removed.
        """
        manifest = self.db.path / MANIFEST_NAME
        try:
            info = manifest.stat()
            stat = (info.st_mtime_ns, info.st_size, info.st_ino)
            same = stat == self._manifest_stat or file_digest(manifest) == self.db.fingerprint
        except OSError:
            stat, same = (), False
        if not same:
            raise StaleError(
                f"The database '{self.db.location}' has changed since it was opened.",
                "Expected the build that the server was started with.",
                "Restart the server once the build has finished.",
            )
        self._manifest_stat = stat

    @contextlib.contextmanager
    def run_model(self, purpose: str) -> Iterator[None]:
        """Hold the lock while the subject model runs; a job says that it waits for it.

        Parameters
        ----------
        purpose
            What needs the model, for the error and for jobs that wait: "Tracing a graph".

        Raises
        ------
        ModelError
            If the model cannot be loaded, or is not the one that the database was built with.
        """
        with self._model_lock(purpose):
            try:
                yield
            except (ModelError, StaleError) as error:
                if "model" in vars(self.db):  # loaded, so the error is about something else
                    raise
                spec = self.db.manifest.model.spec
                # Python code is where it was, but is only run if the user says so
                source = (
                    shlex.quote(spec) if FilePath(spec.rpartition(":")[0]).is_file() else "SPEC"
                )
                command = shlex.join(["semlens", "serve", self.db.location, "--model"])
                raise ModelError(
                    f"{purpose} needs the model '{spec}', which could not be loaded: {error.value}",
                    f"{error.expected} Pages that only read the database work without it.",
                    f"Serve the database with its model: {command} {source}",
                ) from error

    @contextlib.contextmanager
    def _model_lock(self, purpose: str) -> Iterator[None]:
        lock = self.db.model_lock
        if not lock.acquire(blocking=False):
            other = self.model_used_for
            with waiting_for(f"the model ({other[:1].lower()}{other[1:]})"):
                lock.acquire()
        self.model_used_for = purpose
        try:
            yield
        finally:
            lock.release()


MAX_QUERIES = 500
"""Queries that are remembered, a few kilobytes each."""


class QueryCache:
    """Recent queries by id, so that a page uploads an image once and then refers to it.

    Shared by all models; thread-safe.
    """

    def __init__(self, size: int = MAX_QUERIES) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._ids = count(1)
        self._queries: OrderedDict[int, tuple[int, Query, bytes | None]] = OrderedDict()

    def add(self, model: int, query: Query, picture: bytes | None = None) -> int:
        """Remember a query of a model, with a small picture of its image, and return its id."""
        with self._lock:
            query_id = next(self._ids)
            self._queries[query_id] = (model, query, picture)
            while len(self._queries) > self._size:
                self._queries.popitem(last=False)
            return query_id

    def get(self, model: int, query_id: int) -> Query:
        """Return a query by its id.

        Raises
        ------
        HttpError
            404, if the query was dropped or belongs to another model.
        """
        return self._find(model, query_id)[0]

    def picture(self, model: int, query_id: int) -> bytes | None:
        """Return the small picture of a query's image, as a WebP; None if it has no image.

        Raises
        ------
        HttpError
            404, if the query was dropped or belongs to another model.
        """
        return self._find(model, query_id)[1]

    def _find(self, model: int, query_id: int) -> tuple[Query, bytes | None]:
        with self._lock:
            owner, query, picture = self._queries.get(query_id, (None, None, None))
            if query is None or owner != model:
                raise HttpError(
                    404,
                    f"The image or the components of search {query_id} are no longer known.",
                    f"The server remembers the last {self._size} of them until it stops.",
                    "Search again.",
                )
            self._queries.move_to_end(query_id)
            return query, picture


@dataclass(eq=False)
class AppState:
    """Everything that requests share; stored as ``app.state.semlens``."""

    models: list[ModelContext]
    jobs: JobQueue = field(default_factory=JobQueue)
    queries: QueryCache = field(default_factory=QueryCache)
    uploads: UploadedImages = field(default_factory=UploadedImages)

    @classmethod
    def of(cls, databases: Sequence[ConceptDatabase]) -> AppState:
        """Return the state for databases; those with the same embedder share it."""
        _refuse_duplicates(databases)
        names = database_names(databases) if databases else []
        share(databases)
        for db in databases:
            _ = db.fingerprint  # computed now, so that it is the one of the opened build
        return cls([ModelContext(number, names[number], db) for number, db in enumerate(databases)])

    def model(self, number: int) -> ModelContext:
        """Return a database by its number.

        Raises
        ------
        HttpError
            404, if there is no such database.
        StaleError
            If the database has changed on disk since it was opened.
        """
        if not 0 <= number < len(self.models):
            raise not_found(
                f"Unknown model {number}.",
                f"This server has {len(self.models)}, numbered from 0.",
            )
        self.models[number].check_unchanged()
        return self.models[number]

    def warm(self) -> None:
        """Read what the first requests need, and load the embedders.

        An embedder that cannot be loaded keeps its error and raises it on first use.
        """
        for context in self.models:
            with contextlib.suppress(SemlensError):  # a damaged file; the page reports it
                context.db.warm()
        for context in self.models:
            embedder = context.db.embedder
            if isinstance(embedder, SharedEmbedder):
                with contextlib.suppress(SemlensError):
                    embedder.warm()


def _refuse_duplicates(databases: Sequence[ConceptDatabase]) -> None:
    locations: set[str] = set()
    for location in (db.location for db in databases):
        if location in locations:
            raise ServeError(
                f"The database '{location}' is given twice.",
                "Expected each database once.",
                "Leave one out.",
            )
        locations.add(location)


# coroutines: a plain function would be run in a thread, which costs more than the lookup
async def _state(request: Request) -> AppState:
    return request.app.state.semlens


async def _context(
    m: Annotated[int, Path(ge=0)], state: Annotated[AppState, Depends(_state)]
) -> AsyncIterator[ModelContext]:
    context = state.model(m)
    try:
        yield context
    except Exception:
        context.check_unchanged()  # a build that is replaced meanwhile may raise anything
        raise


State = Annotated[AppState, Depends(_state)]
"""State of the server, as a parameter of an endpoint."""
Context = Annotated[ModelContext, Depends(_context)]
"""The database that ``{m}`` in the path refers to."""

MAX_INT = 2**31 - 1
"""Largest class or row number that is accepted; arrays hold 32-bit integers."""
OptionalClass = Annotated[int | None, InQuery(alias="class", ge=0, le=MAX_INT)]
"""Logit of the class in ``?class=``."""
LayerNames = Annotated[list[str] | None, InQuery(alias="layer", max_length=1000)]
"""Layers in ``?layer=``, which may be repeated; None means all."""
COMPONENT = "/models/{m}/components/{component:path}"


async def _row(context: Context, component: str) -> int:
    return context.db.row(Component.parse(component))


Row = Annotated[int, Depends(_row)]
"""Row in ``components.parquet`` of the component in a path below :data:`COMPONENT`."""


def records(model: type[M], frame: pd.DataFrame) -> list[M]:
    """Return the rows of a table as response models."""
    return [model.model_validate(record) for record in plain(frame.to_dict("records"))]
