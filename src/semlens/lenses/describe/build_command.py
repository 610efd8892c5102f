"""Command lines that rebuild a database or extend it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from semlens.recipe import Recipe
from semlens.remote_files import remote_url
from semlens.store.reader import Database


def build_command(
    database: Database,
    *options: str,
    path: Path | None = None,
    embedder: str | None = None,
    layers: Sequence[str] = (),
) -> str | None:
    """Return the command that rebuilds, resumes or extends the database.

    ``--classes`` and ``--targets`` are missing: the database does not record these files.

    Parameters
    ----------
    options
        Further options.
    path, embedder
        Replace those of the database.
    layers
        Layers in addition to those of the database.

    Returns
    -------
    str or None
        None if a source was a Python object, which a command cannot name.
    """
    manifest = database.manifest
    sources = {
        "--model": manifest.model.spec,
        "--data": manifest.data.spec,
        "--embedder": embedder or manifest.embedder.spec,
    }
    if any(spec.startswith("python:") for spec in sources.values()):
        return None
    if manifest.boxes is not None:
        sources["--boxes"] = manifest.boxes.spec
    command = ["semlens", "build", str(path or database.location)]
    for option, spec in sources.items():
        command += [option, spec]
    command += [
        "--layers",
        ",".join([*database.layers, *layers]),
        *_settings(manifest.recipe, options),
        *options,
    ]
    return shlex.join(command)


def _settings(recipe: Recipe, options: Sequence[str]) -> Iterator[str]:
    """Yield the settings that differ from the defaults, as options."""
    defaults = Recipe()
    for name, value in recipe.model_dump().items():
        option = "--" + name.replace("_", "-")
        if value == getattr(defaults, name) or option in options:
            continue
        yield from ("--no-thumbnails",) if name == "thumbnails" else (option, str(value))


def sibling_path(database: Database, suffix: str) -> Path:
    """Return the path of a new database next to this one; in the current folder if it is remote."""
    path = Path(database.name if remote_url(database.location) else database.location)
    name = path.name.removesuffix(".semlens")
    return path.with_name(f"{name}-{suffix}.semlens")
