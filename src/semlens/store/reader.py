"""A finished database, read lazily: what grows with the images only a few rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from semlens.data.digests import content_digests
from semlens.data.images import Images
from semlens.data.load import check_spec
from semlens.data.prefetch import default_workers
from semlens.embedders.base import Embedder
from semlens.embedders.load import load_embedder
from semlens.errors import StaleError
from semlens.models.load import load_model
from semlens.models.subject import SubjectModel
from semlens.progress import report
from semlens.recipe import fingerprint
from semlens.store.build_files import BuildFiles, damaged_files
from semlens.store.built_images import BuiltImages
from semlens.store.class_relevance import ClassRelevance
from semlens.store.derived import Derived
from semlens.store.examples import Examples
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
    """Everything that a build has left on disk, with its model, images and embedder.

    The three are loaded on first use by their SPECs, unless they are given, and verified against
    the build. A database never runs code: a model from ``FILE.py:CALLABLE`` has to be given.

    Parameters
    ----------
    path
        The database's folder.
    model, images, embedder
        Objects, or SPECs of where they are now, in place of those of the build.
    device
        Where the model and the embedder run, if they are loaded here.

    Raises
    ------
    StoreError
        If it is missing, unfinished, damaged or of another format.
    StaleError
        If a ``model`` or an ``embedder`` that is given is not the one of the build.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        model: SubjectModel | str | None = None,
        images: Images | str | Path | None = None,
        embedder: Embedder | str | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(Path(path).expanduser())
        self.device = device
        self.manifest = Manifest.load(self.path)
        self.files = BuildFiles(self.path, self.manifest)
        self.sources = (model, images, embedder)
        """Model, images and embedder as they were given; None where the build says it."""
        if isinstance(model, SubjectModel):
            self.check_model(model)
        if isinstance(embedder, Embedder):
            self.check_embedder(embedder)

    # -- sources --------------------------------------------------------------------------

    @once
    def model(self) -> SubjectModel:
        """The subject model of the database, verified by its fingerprint."""
        model = self.sources[0]
        if not isinstance(model, SubjectModel):
            report("loading the model", 0, 1)
            spec = model or self.manifest.model.spec
            model = load_model(spec, device=self.device, run_files=self.sources[0] is not None)
            self.check_model(model)
            report("loading the model", 1, 1)
        layout = self.manifest.recipe.layout
        return model if layout == model.layout else replace(model, layout=layout)

    @once
    def images(self) -> Images:
        """The images of the database; each one that is read is verified by its digest."""
        given = self.sources[1]
        if not isinstance(given, Images):
            check_spec(str(given or self.manifest.data.spec))
        return BuiltImages(self, given)

    def original(self, sample: int, data: str | Path | None = None) -> Image.Image:
        """Return the original image of a sample as upright RGB, verified by its own hash.

        The rest of the data is neither listed nor hashed, and nothing is downloaded.

        Parameters
        ----------
        data
            Where the data is now, if not where it was built from.

        Raises
        ------
        DataError
            If the data or the image is not there.
        StaleError
            If the image has changed since the build.
        """
        images = self._originals.setdefault(str(data), BuiltImages(self, data or self.sources[1]))
        return images.read(sample)

    @once
    def _originals(self) -> dict[str, BuiltImages]:
        return {}

    @once
    def embedder(self) -> Embedder:
        """The foundation model of the database, verified by its fingerprint."""
        embedder = self.sources[2]
        if not isinstance(embedder, Embedder):
            report("loading the embedder", 0, 1)
            embedder = load_embedder(embedder or self.manifest.embedder.spec, device=self.device)
            self.check_embedder(embedder)
            report("loading the embedder", 1, 1)
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
        return damaged_files(self.path, self.manifest)

    def warm(self) -> None:
        """Read what the first search needs; the page of a server then need not wait for it."""
        _ = self.components, self.lengths
