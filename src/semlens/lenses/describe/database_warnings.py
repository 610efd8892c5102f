"""Warnings about a database: what is missing or wrong, and how to fix it."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from semlens.data.images import Images
from semlens.data.load import is_saved_dataset
from semlens.embedders.load import DEFAULT_EMBEDDER, embeds_texts, missing_package
from semlens.errors import SemlensError
from semlens.recipe import Recipe
from semlens.regular_files import read_bytes, user_path
from semlens.remote_files import remote_url
from semlens.store import file_names
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


CHECKED = 16
"""Images whose bytes are compared with the build: in a replaced folder none of them matches."""
_NAMED = 3


@dataclass(frozen=True)
class DatabaseWarning:
    """One thing that is missing or wrong, and its remedy."""

    kind: Literal[
        "layers", "relevance", "rules", "thumbnails", "texts", "embedder", "data", "unreadable",
        "not_finite",
    ]  # fmt: skip
    text: str
    """The finding and its consequence."""
    remedy: str
    """What to do about it, in a sentence."""
    command: str | None = None
    """A command that applies the remedy, if there is one."""


def database_warnings(
    database: Database,
    *,
    failure: SemlensError | None = None,
    ready: bool = False,
    texts: bool | None = None,
) -> list[DatabaseWarning]:
    """Return what to know before relying on the database, most severe first.

    This is fast: no model is loaded, only the SPEC of the embedder is inspected, and at most
    :data:`CHECKED` images are read.

    Parameters
    ----------
    failure
        The error of an attempt to load the embedder, if there was one.
    ready
        Whether the embedder is loaded.
    texts
        Whether it reads texts; by default derived from its SPEC, which may query a hub.
    """
    warnings = [
        None if ready else _embedder(database, failure),
        _data(database),
        _unfinished(database),
        *_not_finite(database),
        _unreadable(database),
        *_relevance(database),
        _thumbnails(database),
    ]
    if warnings[0] is None:  # otherwise the embedder's own warning is the more severe one
        warnings.append(_texts(database, texts))
    return [warning for warning in warnings if warning is not None]


def _embedder(database: Database, failure: SemlensError | None) -> DatabaseWarning | None:
    source = database.sources[2]
    spec = source if isinstance(source, str) else database.manifest.embedder.spec
    library, _, rest = spec.partition("/")
    not_installed = missing_package(spec)
    missing = _missing_path(rest)
    serve = shlex.join(["semlens", "serve", database.location, "--embedder", "NEW_PLACE"])
    if library.startswith("python:"):
        text = f"The embedder '{spec}' was a Python object"
        remedy = "Serve the database from Python, opened with the same object."
        command = f"semlens.serve(semlens.open({database.location!r}, embedder=...))"
    elif not_installed is not None:
        package, extra = not_installed
        text = f"The embedder '{spec}' needs the package '{package}'"
        remedy = "Install it and serve again."
        command = f"pip install 'semlens[{extra}]'"
    elif missing is not None:
        text = f"The weights of the embedder are no longer at '{missing}'"
        remedy, command = "Restore them, or give their new location.", serve
    elif failure is not None:
        text = failure.value.removesuffix(".")
        remedy, command = failure.remedy, serve
    else:
        return None
    text += ": new searches by text or image are not possible."
    return DatabaseWarning("embedder", text, remedy, command)


def _missing_path(name: str) -> Path | None:
    """Return the absolute path in a SPEC without its library, if nothing exists there."""
    start = 0 if name.startswith("/") else name.find("//") + 1
    path = Path(name[start:])
    return path if path.is_absolute() and not path.exists() else None


def _data(database: Database) -> DatabaseWarning | None:
    source = database.sources[1]
    spec = source.spec if isinstance(source, Images) else str(source or database.manifest.data.spec)
    if isinstance(source, Images) and spec.startswith("python:"):
        return None  # the images were passed as an object
    root = user_path(spec)
    serve = shlex.join(["semlens", "serve", database.location, "--data", "NEW_PLACE"])
    if spec.startswith("python:"):
        return DatabaseWarning(
            "data",
            f"The images '{spec}' were a Python object: whole images cannot be shown.",
            "Give the location of the files, if there are any.",
            serve,
        )
    if spec.startswith("datasets/") and not root.exists():
        return None  # a data set of a hub: checking for it may take minutes
    if not root.exists():
        return DatabaseWarning(
            "data",
            f"The images are no longer at '{root}': whole images cannot be shown, and measurements "
            "that need them fail.",
            "Restore them, or give their new location.",
            serve,
        )
    checked, changed = _changed(database, root)
    if not changed:
        return None
    return DatabaseWarning(
        "data",
        f"{len(changed)} of {_images(checked)} that were compared are missing or have changed "
        f"since the build ({_some(changed)}).",
        "Restore them, give their new location, or build a new database from them.",
        serve,
    )


def _changed(database: Database, root: Path) -> tuple[int, list[str]]:
    """Return how many images were compared, and the ids of those that differ from the build."""
    if is_saved_dataset(root):
        return 0, []  # the images of a saved data set are not files
    positions = np.linspace(0, database.manifest.samples - 1, CHECKED).round().astype(int)
    compared, changed = 0, list[str]()
    for position in dict.fromkeys(positions.tolist()):
        sample = database.sample(position)
        if sample.error is not None:
            continue
        compared += 1
        try:
            same = hashlib.sha256(read_bytes(root / sample.path)).hexdigest() == sample.sha256
        except OSError:
            same = False
        if not same:
            changed.append(sample.path)
    return compared, changed


def _unfinished(database: Database) -> DatabaseWarning | None:
    if not (database.path / file_names.PARTIAL).is_dir():
        return None
    return DatabaseWarning(
        "layers",
        "A build that extends the database has stopped or is still running: its additions are not "
        "shown.",
        "Run the same 'semlens build' again, with all its layers: it resumes where it stopped.",
        # without the new layers the build would count as complete and drop its partial files
        build_command(database, layers=["FURTHER_LAYERS"]),
    )


def _not_finite(database: Database) -> Iterator[DatabaseWarning]:
    for entry in database.manifest.layers:
        if entry.not_finite:
            yield DatabaseWarning(
                "not_finite",
                f"In layer '{entry.name}' some activations on {_images(entry.not_finite)} were not "
                "finite and are excluded.",
                "Check these images and the numeric type of the model.",
            )


def _unreadable(database: Database) -> DatabaseWarning | None:
    count = database.manifest.unreadable
    if not count:
        return None
    table = database.files.table(file_names.SAMPLES, ["path", "error"])
    broken = table.filter(table["error"].is_valid())["path"].to_pylist()
    return DatabaseWarning(
        "unreadable",
        f"{_images(count)} could not be read and were skipped ({_some(broken)}).",
        "Show why each was skipped.",
        shlex.join(["semlens", "status", database.location]),
    )


def _relevance(database: Database) -> Iterator[DatabaseWarning]:
    entry = database.manifest.relevance
    missing = [
        name
        for name in database.layers
        if file_names.relevance_file(name) not in database.manifest.files
    ]
    if entry is None or missing:
        scope = "" if entry is None else f" for {', '.join(missing)}"
        yield DatabaseWarning(
            "relevance",
            f"There is no class relevance{scope}: classes, their graph and their audit cannot "
            "be shown.",
            "Run the build again with --relevance (and with its --classes and --targets, if it "
            "had any): only relevance is computed.",
            build_command(database, "--relevance"),
        )
    elif entry.rules == "gradient":
        yield DatabaseWarning(
            "rules",
            "Class relevance is gradient times input, because there are no exact rules for this "
            "model. It is noisier than conditional relevance.",
            "Interpret it with care, or use a model whose layers have rules (docs: relevance).",
        )


def _texts(database: Database, texts: bool | None) -> DatabaseWarning | None:
    spec = database.manifest.embedder.spec
    if embeds_texts(spec) if texts is None else texts:
        return None
    return DatabaseWarning(
        "texts",
        f"The embedder '{spec}' reads no texts: components can be searched by image only, "
        "and have no labels.",
        "Build a second database with an embedder that reads images and texts.",
        build_command(database, path=sibling_path(database, "text"), embedder=DEFAULT_EMBEDDER),
    )


def _thumbnails(database: Database) -> DatabaseWarning | None:
    if database.manifest.recipe.thumbnails:
        return None
    return DatabaseWarning(
        "thumbnails",
        "The database has no thumbnails: every example is cropped from its image, which takes "
        "longer and needs the images to stay where they are.",
        "Build it with thumbnails.",
        build_command(database, "--thumbnails", path=sibling_path(database, "thumbnails")),
    )


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
