"""The command that made a database, to be run again or with something more."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from semlens.recipe import Recipe
from semlens.store.reader import Database


def build_command(
    database: Database,
    *more: str,
    path: Path | None = None,
    embedder: str | None = None,
    layers: Sequence[str] = (),
) -> str | None:
    """Return the command that builds the database again, or goes on with it.

    The files given as ``--classes`` or ``--targets`` are not known any more.

    Parameters
    ----------
    more
        Further options.
    path, embedder
        Others than the database's own.
    layers
        Layers besides the database's own.

    Returns
    -------
    str or None
        None where a Python object took part, which no command can name.
    """
    made = database.manifest
    specs = {
        "--model": made.model.spec,
        "--data": made.data.spec,
        "--embedder": embedder or made.embedder.spec,
    }
    if any(spec.startswith("python:") for spec in specs.values()):
        return None
    words = ["semlens", "build", str(path or full_path(database))]
    for option, spec in specs.items():
        words += [option, spec]
    words += [
        "--layers",
        ",".join([*database.layers, *layers]),
        *_settings(made.recipe, more),
        *more,
    ]
    return shlex.join(words)


def _settings(recipe: Recipe, more: Sequence[str]) -> Iterator[str]:
    """Yield the settings that are not the usual ones, as options."""
    usual = Recipe()
    for name, value in recipe.model_dump().items():
        option = "--" + name.replace("_", "-")
        if value == getattr(usual, name) or option in more:
            continue
        yield from ("--no-thumbnails",) if name == "thumbnails" else (option, str(value))


def full_path(database: Database) -> str:
    """Return the whole path: a command is copied into any terminal."""
    return str(database.path.resolve())


def beside(database: Database, what: str) -> Path:
    """Return the path of a new database beside this one."""
    path = database.path.resolve()
    name = path.name.removesuffix(".semlens")
    return path.with_name(f"{name}-{what}.semlens")
