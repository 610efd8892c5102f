"""Numbered JSON documents beside a database, with revisions that prevent lost edits."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from semlens.documents import read_json
from semlens.errors import BusyError, EditError, StoreError
from semlens.regular_files import read_text
from semlens.store.atomic_files import damaged, save_text

Document = dict[str, Any]
ID, REVISION = "id", "revision"
LOCK_TIMEOUT = 10.0
"""Seconds that a writer waits for another; writing a document takes milliseconds."""
_LAST_NUMBER_FILE = "last.txt"
"""File with the highest number so far, so that numbers are never reused."""


class JsonDocuments:
    """A folder of JSON documents, numbered from 1, each with a revision.

    An edit names the revision that it is based on, and is refused if the document has been edited
    since, so that no edit is lost. Documents are written atomically, see
    :func:`semlens.store.atomic_files.write_atomic`.

    Parameters
    ----------
    kind
        What a document is called in errors.
    writable
        Whether the folder can be written. Otherwise edits last as long as this object.
    """

    def __init__(self, folder: Path, kind: str, *, writable: bool = True) -> None:
        self.folder, self.kind, self.writable = folder, kind, writable
        self._memory: dict[int, Document | None] = {}  # None: removed
        self._lock, self._depth = threading.RLock(), 0

    def numbers(self) -> list[int]:
        """Return the numbers of all documents, lowest first."""
        # empty if the folder does not exist
        in_files = {int(p.stem) for p in self.folder.glob("*.json") if p.stem.isdecimal()}
        removed = {number for number, document in self._memory.items() if document is None}
        return sorted((in_files | self._memory.keys()) - removed)

    def read(self, number: int) -> Document:
        """Return a document.

        Raises
        ------
        StoreError
            If there is no such document, or its file is damaged.
        """
        if number in self._memory:
            document = self._memory[number]
            if document is None:
                raise self._missing(number)
            return copy.deepcopy(document)
        path = self._file(number)
        try:
            document = read_json(path)
            if not isinstance(document, dict) or type(document.get(REVISION)) is not int:
                raise ValueError(f"it has no '{REVISION}'")
            if type(document.get(ID)) is not int or document[ID] != number:
                raise ValueError(f"its '{ID}' is not {number}")
        except FileNotFoundError as error:
            raise self._missing(number) from error
        except (OSError, ValueError) as error:
            raise damaged(path, error) from error
        return document

    def add(self, content: Mapping[str, Any]) -> Document:
        """Save a new document and return it with its number and first revision."""
        with self.writing():
            last = max([self._last_number(), *self.numbers()], default=0)
            document = {ID: last + 1, REVISION: 1, **content}
            # the number first: if interrupted here, a number is skipped but never reused
            if self.writable:
                save_text(self.folder / _LAST_NUMBER_FILE, str(last + 1))
            self._write(document)
        return document

    def edit(
        self, number: int, revision: int, change: Callable[[Document], Mapping[str, Any]]
    ) -> Document:
        """Replace a document's content and return it with its new revision.

        Raises
        ------
        EditError
            If ``revision`` is not the document's current revision.
        StoreError
            If there is no such document, or it cannot be written.
        """
        with self.writing():
            current = self._read_revision(number, revision)
            document = {**change(current), ID: number, REVISION: current[REVISION] + 1}
            self._write(document)
        return document

    def remove(self, number: int, revision: int) -> None:
        """Remove a document; errors as for :meth:`edit`."""
        with self.writing():
            self._read_revision(number, revision)
            if self.writable:
                self._file(number).unlink(missing_ok=True)
            else:
                self._memory[number] = None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep other threads and processes from writing, so that what is read stays as it is.

        Raises
        ------
        BusyError
            If another process has been writing for :data:`LOCK_TIMEOUT` seconds.
        StoreError
            If the folder cannot be written.
        """
        with self._lock:
            self._depth += 1
            try:
                with self._lock_of_folder() if self._depth == 1 else nullcontext():
                    yield
            finally:
                self._depth -= 1

    @contextmanager
    def _lock_of_folder(self) -> Iterator[None]:
        if not self.writable:
            yield
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(str(self.folder / ".lock")).acquire(timeout=LOCK_TIMEOUT)
        except Timeout as error:
            raise BusyError(
                f"Another process has been writing to '{self.folder}' for {LOCK_TIMEOUT:g} s.",
                "Expected it to finish within milliseconds.",
                "Try again; if that does not help, end that process.",
            ) from error
        except OSError as error:
            raise StoreError(
                f"'{self.folder}' cannot be written ({error.strerror or error}).",
                "Expected a writable folder.",
                "Check its permissions and the disk.",
            ) from error
        with lock:
            yield

    def _read_revision(self, number: int, revision: int) -> Document:
        document = self.read(number)
        if document[REVISION] != revision:
            raise EditError(
                f"{self.kind.capitalize()} {number} has been edited since: it is at revision "
                f"{document[REVISION]}.",
                f"Expected an edit of that revision, not of {revision}.",
                "Load the newer one and repeat the edit.",
            )
        return document

    def _write(self, document: Document) -> None:
        if self.writable:
            text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
            save_text(self._file(document[ID]), text)
        else:
            self._memory[document[ID]] = copy.deepcopy(document)

    def _last_number(self) -> int:
        try:
            return int(read_text(self.folder / _LAST_NUMBER_FILE))
        except (OSError, ValueError):
            return max(self._memory, default=0)  # the caller also considers existing files

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.json"

    def _missing(self, number: int) -> StoreError:
        existing = ", ".join(map(str, self.numbers())) or "none"
        return StoreError(
            f"There is no {self.kind} {number}.", f"Existing: {existing}.", "Choose one of them."
        )
