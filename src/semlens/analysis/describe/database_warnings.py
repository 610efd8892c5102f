"""What a database lacks or what is wrong with its surroundings, and how each is mended."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from semlens.analysis.describe.build_command import beside, build_command, full_path
from semlens.data.images import Images
from semlens.data.load import is_saved
from semlens.embedders.load import DEFAULT, reads_texts
from semlens.errors import SemlensError
from semlens.store import file_names
from semlens.store.reader import Database

CHECKED = 16
"""Images whose bytes are compared with the build's: a folder that was exchanged has none right."""
_NAMED = 3
_PACKAGES = {"open_clip": ("open_clip", "open-clip"), "transformers": ("transformers", "hf")}


@dataclass(frozen=True)
class DatabaseWarning:
    """One thing that is missing or wrong."""

    kind: Literal[
        "layers", "relevance", "rules", "thumbnails", "texts", "embedder", "data", "unreadable",
        "not_finite",
    ]  # fmt: skip
    text: str
    """What is so, and what follows from it."""
    remedy: str
    """What to do about it."""
    command: str | None = None
    """A command for a terminal that does so, where one does."""


def database_warnings(
    database: Database,
    *,
    failure: SemlensError | None = None,
    ready: bool = False,
    texts: bool | None = None,
) -> list[DatabaseWarning]:
    """Return what a person should know before believing the database, the worst first.

    Neither the models are loaded nor all images read: of the embedder only its SPEC is looked
    at, of the images at most :data:`CHECKED`.

    Parameters
    ----------
    failure
        Why the embedder could not be loaded, if that was tried.
    ready
        Whether the embedder is loaded.
    texts
        Whether it reads texts; by default its SPEC is looked at, which may ask a hub.
    """
    found = [
        None if ready else _embedder(database, failure),
        _data(database),
        _unfinished(database),
        *_not_finite(database),
        _unreadable(database),
        *_relevance(database),
        _thumbnails(database),
    ]
    if found[0] is None:  # else it is the lesser evil
        found.append(_texts(database, texts))
    return [caution for caution in found if caution is not None]


def _embedder(database: Database, failure: SemlensError | None) -> DatabaseWarning | None:
    given = database.sources[2]
    spec = given if isinstance(given, str) else database.manifest.embedder.spec
    library, _, rest = spec.partition("/")
    package, extra = _PACKAGES.get(library, ("semlens", ""))
    gone = _gone(rest)
    again = shlex.join(["semlens", "serve", full_path(database), "--embedder", "NEW_PLACE"])
    if library.startswith("python:"):
        text = f"The embedder '{spec}' was a Python object"
        remedy = "Serve the database from Python, opened with the same object."
        command = f"semlens.serve(semlens.open({full_path(database)!r}, embedder=...))"
    elif find_spec(package) is None:
        text = f"The embedder '{spec}' needs the package '{package}'"
        remedy = "Install it and serve again."
        command = f"pip install 'semlens[{extra}]'"
    elif gone is not None:
        text = f"The weights of the embedder are not at '{gone}' any more"
        remedy, command = "Bring them back, or say where they are now.", again
    elif failure is not None:
        text = failure.value.removesuffix(".")
        remedy, command = failure.remedy, again
    else:
        return None
    text += ": nothing can be searched for by new words or pictures."
    return DatabaseWarning("embedder", text, remedy, command)


def _gone(rest: str) -> Path | None:
    """Return the absolute path in the rest of a SPEC if nothing is there."""
    start = 0 if rest.startswith("/") else rest.find("//") + 1
    path = Path(rest[start:])
    return path if path.is_absolute() and not path.exists() else None


def _data(database: Database) -> DatabaseWarning | None:
    given = database.sources[1]
    spec = given.spec if isinstance(given, Images) else str(given or database.manifest.data.spec)
    if isinstance(given, Images) and spec.startswith("python:"):
        return None  # they are there
    root = Path(spec).expanduser()
    moved = shlex.join(["semlens", "serve", full_path(database), "--data", "NEW_PLACE"])
    if spec.startswith("python:"):
        return DatabaseWarning(
            "data",
            f"The images '{spec}' were a Python object: whole images cannot be shown.",
            "Say where they are as files, if they are anywhere.",
            moved,
        )
    if spec.startswith("datasets/") and not root.exists():
        return None  # of a hub: looking for it may take minutes
    if not root.exists():
        return DatabaseWarning(
            "data",
            f"The images are not at '{root}' any more: whole images cannot be shown, and nothing "
            "that needs them can be measured.",
            "Bring them back, or say where they are now.",
            moved,
        )
    checked, changed = _changed(database, root)
    if not changed:
        return None
    return DatabaseWarning(
        "data",
        f"Of {_images(checked)} that were compared, {len(changed)} are missing or have changed "
        f"since the build ({_some(changed)}).",
        "Restore them, or say where they are now; or build a new database of them.",
        moved,
    )


def _changed(database: Database, root: Path) -> tuple[int, list[str]]:
    """Return how many images were compared, and the ids of those that are not the build's."""
    if is_saved(root):
        return 0, []  # a saved data set, whose images are no files
    places = np.linspace(0, database.manifest.samples - 1, CHECKED).round().astype(int)
    compared, changed = 0, list[str]()
    for place in dict.fromkeys(places.tolist()):
        sample = database.sample(place)
        if sample.error is not None:
            continue
        compared += 1
        try:
            same = hashlib.sha256((root / sample.path).read_bytes()).hexdigest() == sample.sha256
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
        "A build that was to add to the database has stopped, or is still running: what it adds "
        "is not shown.",
        "Run the same 'semlens build' again, with all its layers: it goes on where it stopped.",
        # without these it would be content with what is there, and drop what was begun
        build_command(database, layers=["FURTHER_LAYERS"]),
    )


def _not_finite(database: Database) -> Iterator[DatabaseWarning]:
    for entry in database.manifest.layers:
        if entry.not_finite:
            yield DatabaseWarning(
                "not_finite",
                f"In layer '{entry.name}' some component was not a finite number on "
                f"{_images(entry.not_finite)}: there it has no value.",
                "Look at these images and at the model's numeric type.",
            )


def _unreadable(database: Database) -> DatabaseWarning | None:
    count = database.manifest.unreadable
    if not count:
        return None
    table = database.files.table(file_names.SAMPLES, ["path", "error"])
    broken = table.filter(table["error"].is_valid())["path"].to_pylist()
    return DatabaseWarning(
        "unreadable",
        f"{_images(count)} could not be read and took no part ({_some(broken)}).",
        "See why each was skipped.",
        shlex.join(["semlens", "status", full_path(database)]),
    )


def _relevance(database: Database) -> Iterator[DatabaseWarning]:
    entry = database.manifest.relevance
    lacking = [
        n for n in database.layers if file_names.relevance_file(n) not in database.manifest.files
    ]
    if entry is None or lacking:
        where = "" if entry is None else f" for {', '.join(lacking)}"
        yield DatabaseWarning(
            "relevance",
            f"There is no class relevance{where}: classes, their graph and their audit cannot "
            "be shown.",
            "Run the build again with --relevance (and with its --classes and --targets, if it "
            "had any): only that is computed.",
            build_command(database, "--relevance"),
        )
    elif entry.rules == "gradient":
        yield DatabaseWarning(
            "rules",
            "Class relevance is gradient times input: for this model there are no exact rules. "
            "It is noisier than conditional relevance.",
            "Trust it less, or give the model layers that have rules (docs: relevance).",
        )


def _texts(database: Database, texts: bool | None) -> DatabaseWarning | None:
    spec = database.manifest.embedder.spec
    if reads_texts(spec) if texts is None else texts:
        return None
    return DatabaseWarning(
        "texts",
        f"The embedder '{spec}' reads no texts: components can be searched for by picture only, "
        "and get no labels.",
        "Build a second database with an embedder of images and texts.",
        build_command(database, path=beside(database, "text"), embedder=DEFAULT),
    )


def _thumbnails(database: Database) -> DatabaseWarning | None:
    if database.manifest.recipe.thumbnails:
        return None
    return DatabaseWarning(
        "thumbnails",
        "The database has no thumbnails: every picture is cut from the images, which takes longer "
        "and needs them to stay where they are.",
        "Build it with thumbnails.",
        build_command(database, "--thumbnails", path=beside(database, "thumbnails")),
    )


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
