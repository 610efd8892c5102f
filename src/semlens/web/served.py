"""The databases that are served, and how a request gets at one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Path, Request

from semlens.analysis.compare.sets import database_names
from semlens.api import ConceptDatabase
from semlens.errors import SemlensError, ServeError, StaleError
from semlens.models.subject import SubjectModel
from semlens.store.files import file_digest
from semlens.store.manifest import NAME as MANIFEST
from semlens.web.embedder import SharedEmbedder, share
from semlens.web.errors import not_found
from semlens.web.probes import Probes
from semlens.web.work import Work


@dataclass(eq=False)
class Served:
    """One database that is served.

    The embedder locks itself, and databases of one embedder share it: a search need not take
    the lock, and so does not wait for a long run of the subject.
    """

    number: int
    """Counts from 0, in the order given."""
    name: str
    """Its folder, with as many parents as tell it apart."""
    db: ConceptDatabase
    given: SubjectModel | str | None = None
    """The subject, or its SPEC, when it is not the manifest's."""
    device: str = "cpu"
    data: str | None = None
    """SPEC of the images, when they are not where the manifest says."""
    lock: threading.RLock = field(default_factory=threading.RLock)
    """Hold it around whatever loads or runs the subject."""
    keeping: threading.Lock = field(default_factory=threading.Lock)
    """Hold it while a table that two pages may make at once is kept: never for long."""
    _subject: SubjectModel | None = None
    _seen: tuple[int, ...] = ()

    def check_unchanged(self) -> None:
        """Refuse to answer once the folder holds another build: an answer would mix both.

        It costs a look at one file for each request.

        Raises
        ------
        StaleError
            If layers or relevance have been added, or it was built anew or removed.
        """
        manifest = self.db.path / MANIFEST
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

    def subject(self) -> SubjectModel:
        """Return the subject model; it is loaded on first use and verified."""
        with self.lock:
            if self._subject is None:
                if isinstance(self.given, SubjectModel):
                    self.db.check_model(self.given)
                    self._subject = self.given
                else:
                    self._subject = self.db.load_model(self.given, self.device)
            return self._subject


@dataclass(eq=False)
class Serving:
    """All that a server serves; ``app.state.serving``."""

    models: list[Served]
    work: Work = field(default_factory=Work)
    probes: Probes = field(default_factory=Probes)

    @classmethod
    def of(
        cls,
        databases: Sequence[ConceptDatabase],
        models: Sequence[SubjectModel | str | None] | None = None,
        data: Sequence[str | None] | None = None,
        device: str = "cpu",
    ) -> Serving:
        """Give databases numbers and names, and let those of one embedder share it."""
        _refuse_twins(databases)
        missing = [None] * len(databases)
        subjects = [*(models or ()), *missing]
        images = [*(data or ()), *missing]
        names = database_names(databases) if databases else []
        share(databases, device)
        for db in databases:
            _ = db.fingerprint  # of what was opened, not of what is there at the first question
        return cls(
            [
                Served(number, names[number], db, subjects[number], device, images[number])
                for number, db in enumerate(databases)
            ]
        )

    def at(self, number: int) -> Served:
        """Return what is served under a number.

        Raises
        ------
        Refused
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
async def _all(request: Request) -> Serving:
    return request.app.state.serving


async def _model(
    m: Annotated[int, Path(ge=0)], serving: Annotated[Serving, Depends(_all)]
) -> Served:
    return serving.at(m)


All = Annotated[Serving, Depends(_all)]
"""Everything that is served, for an endpoint of several models."""
Model = Annotated[Served, Depends(_model)]
"""The database that ``{m}`` of the path names."""
