"""The databases that are served, and how a request gets at one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Path, Request

from semlens.analysis.together import database_names
from semlens.api import ConceptDatabase
from semlens.errors import SemlensError, ServeError
from semlens.models.subject import SubjectModel
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
    _subject: SubjectModel | None = None

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
        return cls(
            [
                Served(number, names[number], db, subjects[number], device, images[number])
                for number, db in enumerate(databases)
            ]
        )

    def warm(self) -> None:
        """Read what the first answers need, and load the embedders.

        What cannot be loaded is remembered by the embedder, and said when it is asked for.
        """
        for served in self.models:
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
    if m >= len(serving.models):
        count = len(serving.models)
        raise not_found(f"There is no model {m}.", f"This server has {count}, counted from 0.")
    return serving.models[m]


All = Annotated[Serving, Depends(_all)]
"""Everything that is served, for an endpoint of several models."""
Model = Annotated[Served, Depends(_model)]
"""The database that ``{m}`` of the path names."""
