"""A finished database and its images, read lazily: what grows with them a few rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from semlens.data.images import Images, content_digest, decode, read_file
from semlens.data.load import check_spec, is_saved_dataset, load_hugging_face
from semlens.data.prefetch import default_workers
from semlens.data.verified_images import content_digests
from semlens.embedders.load import Embedder, load_embedder
from semlens.errors import DataError, ImageError, StaleError
from semlens.models.load import load_model
from semlens.models.subject import SubjectModel
from semlens.progress import report
from semlens.recipe import fingerprint
from semlens.store.analysis_cache import AnalysisCache
from semlens.store.build_files import BuildFiles, damaged_files
from semlens.store.component_index import ClassRelevanceIndex
from semlens.store.examples import Examples, Vectors
from semlens.store.locked_cached_property import locked_cached_property
from semlens.store.manifest import Manifest

_REMEDY = "Put it back, or say where the data is now."


class BuiltImages(Images):
    """A database's images: only those that are read are looked for and hashed.

    A folder is not listed: an image is read by its path. A Hugging Face data set is opened with
    the first image. Nothing is downloaded. Safe in threads.

    Parameters
    ----------
    given
        The images, or a SPEC of where they are now; by default where the database says.

    Raises
    ------
    DataError
        If ``given`` holds other samples or another order.
    """

    def __init__(self, database: Database, given: Images | str | Path | None = None) -> None:
        self._database = database
        self._given = given if isinstance(given, Images) else None
        self.spec = str(
            given.spec if isinstance(given, Images) else given or database.manifest.data.spec
        )
        if self._given is not None and list(self._given.ids) != list(self.ids):
            raise DataError(
                f"'{self.spec}' holds {len(self._given)} samples, not those of the database.",
                f"Expected the {len(self)} images of '{database.manifest.data.spec}'.",
                "Give the images that the database was built from, in their order.",
            )

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._database.manifest.samples

    @property
    def ids(self) -> Sequence[str]:  # type: ignore[override]
        """Their paths; read when they are asked for, since there may be millions."""
        return self._database.samples["path"].tolist()

    @property
    def targets(self) -> Sequence[str] | None:  # type: ignore[override]
        """The class name of each sample, as at the build."""
        return self._database.samples["target"].tolist()

    def content(self, sample: int) -> bytes | Image.Image:
        """Return what a sample holds.

        Raises
        ------
        StaleError
            If it has changed since the build.
        DataError
            If it is not there any more.
        """
        known = self._database.sample(sample)
        try:
            content = self._content(sample, known.path)
        except ImageError as error:
            raise DataError(
                f"The image '{known.path}' is not in '{self.spec}' any more: {error.value}",
                "Expected the data that the database was built from.",
                _REMEDY,
            ) from error
        if content_digest(content) != known.sha256:
            raise StaleError(
                f"The image '{known.path}' of '{self.spec}' has changed since the build.",
                "Expected the very image that the examples were cut from.",
                "Restore it, or build a new database.",
            )
        return content

    def read(self, sample: int) -> Image.Image:
        """Return a sample as upright RGB; see :meth:`content`."""
        content = self.content(sample)
        if isinstance(content, bytes):
            return decode(content, self._database.sample(sample).path)
        return content

    def _content(self, sample: int, path: str) -> bytes | Image.Image:
        if self._given is not None:
            return self._given.content(sample)
        root = Path(self.spec).expanduser()
        if root.is_dir() and not is_saved_dataset(root):
            return read_file(root / path, path)
        return self._rows.content(sample)

    @locked_cached_property
    def _rows(self) -> Images:
        if not (self.spec.startswith("datasets/") or Path(self.spec).expanduser().is_dir()):
            raise DataError(
                f"The data '{self.spec}' is not on this machine.",
                "Expected the folder or data set that the database was built from.",
                _REMEDY,
            )
        return load_hugging_face(self.spec, offline=True)


def data_fingerprint(ids: Sequence[str], digests: Sequence[str]) -> str:
    """Identify a data set by its ids and the hashes of its contents."""
    return fingerprint(list(ids), list(digests))


def _stale(kind: str, given: str, built: str) -> StaleError:
    return StaleError(
        f"The {kind} '{given}' is not the one of the database (its fingerprint differs).",
        f"Expected '{built}' with unchanged weights and preprocessing.",
        "Give that one, or build a new database.",
    )


class Database(Examples, Vectors, ClassRelevanceIndex, AnalysisCache):
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

    @locked_cached_property
    def model(self) -> SubjectModel:
        """The subject model of the database, verified by its fingerprint."""
        model = self.sources[0]
        if not isinstance(model, SubjectModel):
            report("loading the model", 0, 1)
            model = load_model(
                model or self.manifest.model.spec, device=self.device, run_files=model is not None
            )
            self.check_model(model)
            report("loading the model", 1, 1)
        layout = self.manifest.recipe.layout
        return model if layout == model.layout else replace(model, layout=layout)

    @locked_cached_property
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

    @locked_cached_property
    def _originals(self) -> dict[str, BuiltImages]:
        return {}

    @locked_cached_property
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
