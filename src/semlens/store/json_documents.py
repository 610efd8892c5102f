"""Numbered documents that people edit, beside a database: several writers, none lost."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from semlens.errors import BusyError, EditError, StoreError
from semlens.store.atomic_files import damaged, save_text

Document = dict[str, Any]
ID, REVISION = "id", "revision"
PATIENCE = 10.0
"""Seconds that a writer waits for another: writing one takes some milliseconds."""
_LAST = "last.txt"
"""Holds the highest number that was ever given, so that none is given again."""


class JsonDocuments:
    """A folder of JSON documents that are numbered from 1, each with a count of its edits.

    Who edits a document says which revision they have read; if it has been edited since, that is
    refused, and nobody's edit is lost. A document is a whole file or none: see
    :func:`semlens.store.atomic_files.write_atomic`.

    Parameters
    ----------
    what
        What one of them is called in errors.
    keeps
        Whether the folder can be written. If not, edits last as long as this object.
    """

    def __init__(self, folder: Path, what: str, *, keeps: bool = True) -> None:
        self.folder, self.what, self.keeps = folder, what, keeps
        self._memory: dict[int, Document | None] = {}  # None: removed
        self._guard = threading.Lock()

    def numbers(self) -> list[int]:
        """Return the numbers of all documents, lowest first."""
        # nothing is found in a folder that is not there
        found = {int(p.stem) for p in self.folder.glob("*.json") if p.stem.isdecimal()}
        removed = {number for number, one in self._memory.items() if one is None}
        return sorted((found | self._memory.keys()) - removed)

    def read(self, number: int) -> Document:
        """Return a document.

        Raises
        ------
        StoreError
            If there is none of this number, or its file is damaged.
        """
        if number in self._memory:
            document = self._memory[number]
            if document is None:
                raise self._missing(number)
            return copy.deepcopy(document)
        path = self._file(number)
        try:
            document = json.loads(path.read_text("utf-8"))
            if not isinstance(document, dict) or not {ID, REVISION} <= document.keys():
                raise ValueError(f"it has no '{ID}' and '{REVISION}'")
        except FileNotFoundError as error:
            raise self._missing(number) from error
        except (OSError, ValueError) as error:
            raise damaged(path, error) from error
        return document

    def add(self, content: Mapping[str, Any]) -> Document:
        """Keep a new document and return it with its number and its first revision."""
        with self._writing():
            last = max([self._last(), *self.numbers()], default=0)
            document = {ID: last + 1, REVISION: 1, **content}
            # first the number: if this ends here, one is left out and none is given twice
            if self.keeps:
                save_text(self.folder / _LAST, str(last + 1))
            self._write(document)
        return document

    def edit(
        self, number: int, revision: int, change: Callable[[Document], Mapping[str, Any]]
    ) -> Document:
        """Replace what a document says, and return it with its new revision.

        Raises
        ------
        EditError
            If ``revision`` is not the one that the document has now.
        StoreError
            If there is no such document, or it cannot be written.
        """
        with self._writing():
            known = self._current(number, revision)
            document = {**change(known), ID: number, REVISION: known[REVISION] + 1}
            self._write(document)
        return document

    def remove(self, number: int, revision: int) -> None:
        """Remove a document, under the same condition as for an edit."""
        with self._writing():
            self._current(number, revision)
            if self.keeps:
                self._file(number).unlink(missing_ok=True)
            else:
                self._memory[number] = None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._guard:
            if not self.keeps:
                yield
                return
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                held = FileLock(str(self.folder / ".lock")).acquire(timeout=PATIENCE)
            except Timeout as error:
                raise BusyError(
                    f"Another process has been writing to '{self.folder}' for {PATIENCE:g} s.",
                    "Expected a writer that ends at once.",
                    "Try again; if it stays so, end that process.",
                ) from error
            except OSError as error:
                raise StoreError(
                    f"'{self.folder}' cannot be written ({error.strerror or error}).",
                    "Expected a place that can be written.",
                    "Check its permissions and the disk.",
                ) from error
            with held:
                yield

    def _current(self, number: int, revision: int) -> Document:
        known = self.read(number)
        if known[REVISION] != revision:
            raise EditError(
                f"{self.what.capitalize()} {number} has been edited since: it is at revision "
                f"{known[REVISION]}.",
                f"Expected an edit of that one, not of revision {revision}.",
                "Load the newer one and make the edit again.",
            )
        return known

    def _write(self, document: Document) -> None:
        if self.keeps:
            text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
            save_text(self._file(document[ID]), text)
        else:
            self._memory[document[ID]] = copy.deepcopy(document)

    def _last(self) -> int:
        try:
            return int((self.folder / _LAST).read_text("utf-8"))
        except (OSError, ValueError):
            return max(self._memory, default=0)  # the numbers of the files say the rest

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.json"

    def _missing(self, number: int) -> StoreError:
        known = ", ".join(map(str, self.numbers())) or "none"
        return StoreError(
            f"There is no {self.what} {number}.", f"There are: {known}.", "Choose one of them."
        )
