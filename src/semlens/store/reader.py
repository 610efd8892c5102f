"""A finished database, read lazily: what grows with the images only a few rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from semlens.data.digests import content_digests
from semlens.data.images import Images
from semlens.data.prefetch import default_workers
from semlens.embedders.base import Embedder
from semlens.embedders.load import load_embedder
from semlens.errors import StaleError
from semlens.models.subject import SubjectModel
from semlens.recipe import fingerprint
from semlens.store.build_files import BuildFiles
from semlens.store.class_relevance import ClassRelevance
from semlens.store.derived import Derived
from semlens.store.examples import Examples
from semlens.store.files import file_digest
from semlens.store.manifest import Manifest
from semlens.store.once import once
from semlens.store.vectors import Vectors


def data_fingerprint(ids: Sequence[str], digests: Sequence[str]) -> str:
    """Identify a data set by its ids and the hashes of its contents."""
    return fingerprint(list(ids), list(digests))


def _stale(kind: str, given: str, built: str) -> StaleError:
    return StaleError(
        f"The {kind} '{given}' is not the one of the database (its fingerprint differs).",
        f"Expected '{built}' with unchanged weights and preprocessing.",
        "Give that one, or build a new database.",
    )


class Database(Examples, Vectors, ClassRelevance, Derived):
    """Everything that a build has left on disk.

    Parameters
    ----------
    path
        The database's folder.
    embedder
        Its foundation model; loaded again by its SPEC on first use if not given.

    Raises
    ------
    StoreError
        If it is missing, unfinished, damaged or of another format.
    StaleError
        If ``embedder`` is not the one that it was built with.
    """

    def __init__(self, path: str | Path, embedder: Embedder | None = None) -> None:
        super().__init__(Path(path).expanduser())
        self.manifest = Manifest.load(self.path)
        self.files = BuildFiles(self.path, self.manifest)
        if embedder is not None:
            self.check_embedder(embedder)
            self.embedder = embedder

    @once
    def embedder(self) -> Embedder:
        """The foundation model of the database, verified by its fingerprint."""
        embedder = load_embedder(self.manifest.embedder.spec)
        self.check_embedder(embedder)
        return embedder

    # -- identity -----------------------------------------------------------------------

    def check_model(self, model: SubjectModel) -> None:
        """Refuse a model with other weights or preprocessing than the database's."""
        if model.fingerprint != self.manifest.model.fingerprint:
            raise _stale("model", model.spec, self.manifest.model.spec)

    def check_embedder(self, embedder: Embedder) -> None:
        """Refuse probes of another foundation model: their vectors mean something else."""
        if embedder.fingerprint != self.manifest.embedder.fingerprint:
            raise _stale("embedder", embedder.spec, self.manifest.embedder.spec)

    def check_images(self, images: Images, digests: Sequence[str] | None = None) -> None:
        """Hash the images (or take their ``digests``) and refuse any that have changed."""
        if digests is None:
            digests = list(content_digests(images, default_workers()))
        if data_fingerprint(images.ids, digests) == self.manifest.data.fingerprint:
            return
        known = dict(zip(self.samples["path"], self.samples["sha256"], strict=True))
        now = dict(zip(images.ids, digests, strict=True))
        changed = sum(known[k] != now[k] for k in known.keys() & now.keys())
        raise StaleError(
            f"The data '{images.spec}' has changed since the build: {changed} images differ, "
            f"{len(now.keys() - known.keys())} are new, {len(known.keys() - now.keys())} missing.",
            f"Expected the images of '{self.manifest.data.spec}'.",
            "Restore them, or build a new database.",
        )

    def verify(self) -> list[str]:
        """Hash every file of the build and return those that are missing or changed."""
        return [
            name
            for name, digest in self.manifest.files.items()
            if not (self.path / name).is_file() or file_digest(self.path / name) != digest
        ]

    def warm(self) -> None:
        """Read what the first search needs; the page of a server then need not wait for it."""
        _ = self.components, self.lengths
