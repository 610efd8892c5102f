"""Copying a published database into a folder of this machine, file by file, each verified."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from semlens.data.image_folder import PARALLEL_READS
from semlens.data.prefetch import prefetch
from semlens.errors import StoreError, nearest, shortened
from semlens.hub.client import Repository
from semlens.progress import report_progress
from semlens.regular_files import file_digest, user_path
from semlens.remote_files import RemoteFolder, remote_url
from semlens.store import file_names
from semlens.store.atomic_files import write_atomic
from semlens.store.manifest import MANIFEST_NAME, Manifest
from semlens.store.remote_database import RemoteDatabase, read_manifest
from semlens.store.writer import write_lock

LOCATIONS: Mapping[str, str] = {}
"""URL of the published database of a recipe; none has been published yet."""
_FOLDER = files("semlens") / "assets" / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the bundled recipes."""
    return sorted(Path(f.name).stem for f in _FOLDER.iterdir() if f.name.endswith(".toml"))


def recipe_text(name: str) -> str | None:
    """Return the TOML of a bundled recipe; None if there is none of this name.

    Examples
    --------
    >>> "torchvision/resnet50" in recipe_text("resnet50")
    True
    """
    return (_FOLDER / f"{name}.toml").read_text("utf-8") if name in recipe_names() else None


def not_published(name: str) -> StoreError:
    """Return the error for a name of which there is no published database."""
    known = recipe_names()
    if name in known:
        return StoreError(
            f"The database '{name}' has not been published yet.",
            "Expected USER/NAME of a published one, or its URL.",
            f"Build it: semlens build {name}.semlens --config {name} --data IMAGES",
        )
    return StoreError(
        f"'{shortened(name)}' is not the name of a database.",
        f"Expected USER/NAME on the hub, a URL, or a known name such as {nearest(name, known)}.",
        "Check the name.",
    )


ENDING = ".semlens"


def pull_database(source: str, folder: str | Path | None = None) -> Path:
    """Copy a database to this machine; see :func:`semlens.pull`."""
    url = database_url(source)
    target = user_path(folder) if folder is not None else Path(_folder_name(url))
    remote = RemoteFolder(url, StoreError)
    text = read_manifest(remote)
    if (target / MANIFEST_NAME).is_file() and (target / MANIFEST_NAME).read_bytes() != text:
        raise StoreError(
            f"'{target}' is another database than '{url}'.",
            "Expected a new folder, or one that an interrupted copy left.",
            "Choose another folder, or remove this one.",
        )
    with write_lock(target):
        incoming = target / file_names.PARTIAL
        write_atomic(incoming / MANIFEST_NAME, lambda part: part.write_bytes(text))
        manifest = Manifest.load(incoming)
        _copy_files(RemoteDatabase(remote, target), manifest)
        # last, so that a folder with a manifest is a complete database
        (incoming / MANIFEST_NAME).replace(target / MANIFEST_NAME)
        shutil.rmtree(incoming)
    return target


def database_url(source: str) -> str:
    """Return the URL of a database from a known name, ``USER/NAME[@REVISION]`` or a URL.

    Raises
    ------
    StoreError
        If it is none of these, or a known name of which no database has been published.
    """
    if (url := remote_url(source)) is not None:
        return url
    if "/" in source:
        return Repository.parse(source).url
    if source in LOCATIONS:
        return LOCATIONS[source]
    raise not_published(source)


def _folder_name(url: str) -> str:
    """Return the name of the folder for a database: that of the repository, without a revision."""
    name = url.rpartition("/")[2] if "@" not in url else url.partition("@")[0].rpartition("/")[2]
    return name if name.endswith(ENDING) else f"{name}{ENDING}"


def _copy_files(database: RemoteDatabase, manifest: Manifest) -> None:
    """Copy what is missing or different here; what an interrupted copy left is taken over."""

    def copy(name: str) -> None:
        path = database.folder / name
        if not path.is_file() or file_digest(path) != manifest.files[name]:
            database.copy(name, manifest.files[name])

    copies = prefetch(copy, manifest.files, PARALLEL_READS)
    for done, _ in enumerate(copies, start=1):
        report_progress("copy", done, len(manifest.files))
    deque(prefetch(database.copy_analysis, database.analysis_files, PARALLEL_READS), maxlen=0)
