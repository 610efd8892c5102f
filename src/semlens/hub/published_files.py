"""What of a database is published: its files without private paths, and without crops if wished."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from semlens.documents import read_json
from semlens.errors import StoreError
from semlens.regular_files import file_digest
from semlens.remote_files import remote_url
from semlens.store import file_names
from semlens.store.atomic_files import damaged, load_sealed_table, save_sealed_table
from semlens.store.checked_files import find_file
from semlens.store.manifest import MANIFEST_NAME, Manifest, Source, public_spec
from semlens.store.reader import Database

RESULTS = ("label-", "labels-", "mean-", "norms-", "scores-", "search-scale-")
"""Kinds of cached results that are published. Others can contain whole images, or what was asked
of a database."""
_THUMBNAILS = "thumbnails/"
_BUILT_FROM = b"database"


@dataclass(frozen=True)
class Published:
    """The files of a database as they are published.

    Parameters
    ----------
    files
        Path on this machine of each file, by its path in the repository; the manifest is one.
    manifest
        The published manifest. Its fingerprint differs from that of the database if a path was
        shortened or the crops were left out.
    crops
        Whether the crops are published.
    """

    files: dict[str, Path]
    manifest: Manifest
    fingerprint: str
    crops: bool

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files.values())


def published_files(
    database: Database, staging: Path, *, crops: bool, results: bool, audits: bool
) -> Published:
    """Collect the files of a database that are published.

    Absolute paths in SPECs of the model, the data and the embedder are shortened to their last
    part: they say who built it, and where. Saved labels and audits name the build that they belong
    to, so they are written for the published one.

    Parameters
    ----------
    staging
        Folder for files that differ from those of the database.
    crops
        Whether to include thumbnails of the crops, which are parts of the images.
    results
        Whether to include saved labels and measures of components.
    audits
        Whether to include saved audits, with the notes of their reviewers.

    Raises
    ------
    StoreError
        If the database is elsewhere, a file has changed since the build, or a saved result is
        damaged.
    """
    if remote_url(database.location) is not None:
        raise StoreError(
            f"'{database.location}' is not on this machine.",
            "Expected a folder of this machine to publish.",
            "Copy it first: semlens db pull.",
        )
    manifest = _public_manifest(database.manifest, crops)
    files = {name: database.files.verified_path(name) for name in manifest.files}
    files[MANIFEST_NAME] = find_file(database.path, database.manifest, MANIFEST_NAME)
    fingerprint = database.fingerprint
    if manifest != database.manifest:
        manifest.save(staging)
        files[MANIFEST_NAME] = staging / MANIFEST_NAME
        fingerprint = file_digest(files[MANIFEST_NAME])
    for name in _analysis_names(database.path, results=results, audits=audits):
        copy = _for_build(database, name, staging, fingerprint)
        if copy is not None:
            files[name] = copy
    return Published(files, manifest, fingerprint, crops and manifest.recipe.thumbnails)


def _public_manifest(manifest: Manifest, crops: bool) -> Manifest:
    public = {
        name: Source(spec=public_spec(source.spec), fingerprint=source.fingerprint)
        for name in ("model", "data", "embedder", "boxes")
        if isinstance(source := getattr(manifest, name), Source)
    }
    changed = manifest.model_copy(update=public)
    if crops or not manifest.recipe.thumbnails:
        return changed
    files = {name: d for name, d in manifest.files.items() if not name.startswith(_THUMBNAILS)}
    recipe = manifest.recipe.model_copy(update={"thumbnails": False})
    return changed.model_copy(update={"files": files, "recipe": recipe})


def _analysis_names(folder: Path, *, results: bool, audits: bool) -> Iterator[str]:
    """Yield the names of the results and audits to be published."""
    analysis = folder / file_names.ANALYSIS
    for path in sorted(analysis.glob("*.parquet")) if results else ():
        if path.name.startswith(RESULTS):
            yield f"{file_names.ANALYSIS}/{path.name}"
    for path in sorted((folder / file_names.AUDITS).glob("*.json")) if audits else ():
        yield f"{file_names.AUDITS}/{path.name}"


def _for_build(database: Database, name: str, staging: Path, fingerprint: str) -> Path | None:
    """Return a result or an audit as one of the published build; None if it is of an earlier one.

    Audits of an earlier build are published as they are: people wrote them.
    """
    path, copy = database.path / name, staging / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".json"):
        try:
            document = read_json(path)
        except (OSError, ValueError) as error:
            raise damaged(path, error) from error
        is_record = isinstance(document, dict)
        if is_record and document.get("database") == database.fingerprint != fingerprint:
            copy.write_text(json.dumps({**document, "database": fingerprint}, indent=2), "utf-8")
            return copy
        return path
    table = load_sealed_table(path)
    metadata = dict(table.schema.metadata or {})
    built_from = metadata.get(_BUILT_FROM)
    if built_from is None or database.fingerprint == fingerprint:
        return path
    if built_from.decode() != database.fingerprint:
        return None
    metadata[_BUILT_FROM] = fingerprint.encode()
    save_sealed_table(copy, table.replace_schema_metadata(metadata))
    return copy
