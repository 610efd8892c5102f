"""Several databases that one question is about: they must be of one space, and be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from semlens.errors import RecipeError, StaleError
from semlens.store.reader import Database
from semlens.types import as_list


def as_databases(
    given: Database | Sequence[Database], others: Sequence[Database] = ()
) -> list[Database]:
    """Return databases, given as one, a list or several arguments; they must be of one space.

    Raises
    ------
    StaleError
        If the embedders differ.
    RecipeError
        If there is none, one is given twice, or something else is given.
    """
    databases: list[Database] = [*as_list(given), *others]
    for one in databases:
        if not isinstance(one, Database):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise RecipeError(
                f"{one!r} is given where a database is meant.",
                "Expected a database, a list of them, or several.",
                "Open it with semlens.open; give settings by their names, as in concepts=....",
            )
    check_databases(databases)
    return databases


def check_databases(databases: Sequence[Database]) -> None:
    """Refuse databases of different embedders, and one folder given twice.

    Raises
    ------
    StaleError
        If the embedders differ: cosines between their spaces mean nothing.
    RecipeError
        If there is none, or one is given twice.
    """
    if not databases:
        raise RecipeError("There is no database.", "Expected at least one.", "Name some.")
    first = databases[0]
    seen: set[str] = set()
    for database in databases:
        folder = str(database.path.resolve())
        if folder in seen:
            raise RecipeError(
                f"The database '{database.path}' is given twice.",
                "Expected different ones: a model has nothing that it has not.",
                "Leave one out.",
            )
        seen.add(folder)
        mine, other = first.manifest.embedder, database.manifest.embedder
        if mine.fingerprint != other.fingerprint:
            same = " (same name, other weights or preprocessing)" if mine.spec == other.spec else ""
            raise StaleError(
                f"'{first.path}' was embedded by '{mine.spec}', '{database.path}' by "
                f"'{other.spec}'{same}.",
                "Expected one embedder: vectors of two spaces cannot be compared.",
                f"Build one of them again with the embedder '{mine.spec}'.",
            )


def database_names(databases: Sequence[Database]) -> list[str]:
    """Name databases by their folders, with as many parents as tell them apart."""
    parts = [_plain(database.path.resolve()).parts for database in databases]
    deep = 1
    while deep < max(map(len, parts)) and len({p[-deep:] for p in parts}) < len(parts):
        deep += 1
    names = ["/".join(p[-deep:]) for p in parts]
    if len(set(names)) == len(names):
        return names
    names = [database.path.resolve().name for database in databases]  # only the suffixes differ
    return names if len(set(names)) == len(names) else [str(d.path.resolve()) for d in databases]


def _plain(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".semlens"))
