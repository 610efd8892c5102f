"""Checking a database on disk: every file against its hash, and what the manifest says of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from semlens.errors import StoreError
from semlens.progress import progress_bars, report_progress
from semlens.regular_files import file_digest, user_path
from semlens.remote_files import remote_url
from semlens.store import file_names
from semlens.store.atomic_files import load_tensors
from semlens.store.checked_files import (
    BuildFiles,
    Expected,
    expected_files,
    find_file,
    header_problem,
    not_finite,
)
from semlens.store.invariants import Invariants
from semlens.store.json_documents import JsonDocuments
from semlens.store.manifest import MANIFEST_NAME, Manifest
from semlens.store.remote_database import RemoteDatabase
from semlens.store.sealed_files import load_sealed_table

RESTORE = "Restore it from a copy, or remove the database and build it again."
DELETE = "Delete it: it is computed again when it is needed."
UNIQUE = "Restore it from a copy, or delete it: it cannot be computed again."


@dataclass(frozen=True)
class Problem:
    """A file that is not as it should be."""

    file: str
    """Its path in the database."""
    problem: str
    remedy: str


@dataclass(frozen=True)
class Verification:
    """The result of :func:`verify`."""

    database: str
    files: int
    """Files that were checked."""
    size: int
    """Their bytes."""
    problems: tuple[Problem, ...]

    @property
    def sound(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {**asdict(self), "sound": self.sound}


def verify(database: str | Path) -> Verification:
    """Check every file of a database; nothing is changed, and nothing but its files is needed.

    A file of the build must have the hash, the columns or tensors, and the content that the
    manifest describes; a cached result and a saved audit must be readable.

    Parameters
    ----------
    database
        Folder of the database, which may be damaged, or its URL: then all its files are copied.

    Raises
    ------
    StoreError
        If the folder is not a finished database, or has another format.

    Examples
    --------
    >>> import semlens as sl
    >>> sl.verify("r18.semlens").problems                              # doctest: +SKIP
    ()
    """
    url = remote_url(database)
    remote = RemoteDatabase.open(url) if url is not None else None
    folder = remote.folder if remote else user_path(database)
    manifest = Manifest.load(folder)
    with progress_bars():
        if remote is not None:
            _copy_all(remote, manifest)
        problems = [*_build_problems(folder, manifest), *_analysis_problems(folder)]
    paths = [folder / name for name in (MANIFEST_NAME, *manifest.files)]
    paths += [find_file(folder, manifest, name) for name in manifest.files]
    present = {path for path in (*paths, *_analysis_files(folder)) if path.is_file()}
    return Verification(
        url or str(folder.resolve()),
        len(present),
        sum(path.stat().st_size for path in present),
        tuple(problems),
    )


def _copy_all(remote: RemoteDatabase, manifest: Manifest) -> None:
    """Copy every file of a database elsewhere; what cannot be copied is then missing here."""
    files = BuildFiles(remote.folder, manifest, check=False, remote=remote)
    for done, name in enumerate(manifest.files, start=1):
        with suppress(StoreError, KeyError):  # its problem is listed
            files.verified_path(name)
        report_progress("copy", done, len(manifest.files))
    for name in remote.analysis_files:
        with suppress(StoreError):
            remote.copy_analysis(name)


def _build_problems(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    """Yield the problems of the build's files: first their hashes, then their content."""
    expected = expected_files(manifest)
    for name in sorted(expected.keys() - manifest.files.keys()):
        yield Problem(MANIFEST_NAME, f"it does not list '{name}'", RESTORE)
    intact: set[str] = set()
    for done, (name, digest) in enumerate(manifest.files.items(), start=1):
        path = find_file(folder, manifest, name)
        if problem := _file_problem(path, digest, expected.get(name)):
            yield Problem(name, problem, RESTORE)
        else:
            intact.add(name)
        report_progress("verify", done, len(manifest.files))
    files = BuildFiles(folder, manifest, check=False)
    for name, problem in Invariants(files, manifest, frozenset(intact)).check():
        yield Problem(name, problem, RESTORE)


def _file_problem(path: Path, digest: str, expected: Expected | None) -> str | None:
    try:
        if file_digest(path) != digest:
            return "its SHA-256 differs from that of the manifest"
        if expected is None:
            return "the build has no such file"
        problem = header_problem(path, expected)
        if problem or not isinstance(expected, dict):
            return problem
        return not_finite(load_tensors(path))
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except StoreError as error:
        return f"it cannot be read ({error.__cause__})"


def _analysis_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / file_names.ANALYSIS).rglob("*") if path.is_file())


def _analysis_problems(folder: Path) -> Iterator[Problem]:
    """Yield the cached results and saved audits that cannot be read."""
    for path in sorted((folder / file_names.ANALYSIS).glob("*.parquet")):
        try:
            load_sealed_table(path)
        except StoreError as error:
            yield Problem(_name(path, folder), f"it cannot be read ({error.__cause__})", DELETE)
    audits = JsonDocuments(folder / file_names.AUDITS, "audit", writable=False)
    for number in audits.numbers():
        name = f"{file_names.AUDITS}/{number}.json"
        try:
            found = audits.read(number)["id"]
        except StoreError as error:
            yield Problem(name, f"it cannot be read ({error.__cause__})", UNIQUE)
            continue
        if found != number:
            yield Problem(name, f"it says that it is audit {found}", UNIQUE)


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
