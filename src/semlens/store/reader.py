"""Reading a finished database and its images lazily."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image

from semlens.data.array_files import rendering_of_spec
from semlens.data.images import Images, content_digest, decode
from semlens.data.load import ImagesLike, as_images, check_spec, stored_reader
from semlens.data.prefetch import default_workers
from semlens.data.rendering import Rendering
from semlens.data.verified_images import content_digests
from semlens.dictionaries.dictionary import Dictionary
from semlens.embedders.embedder import Embedder
from semlens.embedders.load import load_for_database, needs_model
from semlens.embedders.precomputed import PrecomputedVectors, WithoutFile
from semlens.errors import DataError, ImageError, StaleError
from semlens.models.load import ModelLike, as_model, load_model
from semlens.models.subject import SubjectModel
from semlens.progress import report_progress
from semlens.recipe import fingerprint
from semlens.regular_files import user_path
from semlens.remote_files import remote_url
from semlens.store import file_names
from semlens.store.analysis_cache import AnalysisCache
from semlens.store.checked_files import BuildFiles
from semlens.store.component_index import ClassRelevanceIndex
from semlens.store.dictionary_files import load_dictionary
from semlens.store.examples import ReferenceReader, Vectors
from semlens.store.locked_cached_property import locked_cached_property
from semlens.store.manifest import Manifest
from semlens.store.model_output import with_stored_output
from semlens.store.remote_database import RemoteDatabase
from semlens.store.verify import Verification, verify

_MISSING_DATA_REMEDY = "Restore it, or pass the current location of the data as images (--data)."


class DatabaseImages(Images):
    """The images of a database; only images that are read are accessed and hashed.

    Folders are not listed: images are read by path. A data set in files, or of Hugging Face, is
    opened with the first image; nothing is downloaded from the hub. Thread-safe.

    Parameters
    ----------
    images
        The images, or a SPEC of their current location; by default that of the build.

    Raises
    ------
    DataError
        If ``images`` has other samples or another order.
    """

    def __init__(self, database: Database, images: Images | str | Path | None = None) -> None:
        self._database = database
        self._images = images if isinstance(images, Images) else None
        self._given = images is not None
        self.spec = str(
            images.spec if isinstance(images, Images) else images or database.manifest.data.spec
        )
        if self._images is not None and list(self._images.ids) != list(self.ids):
            raise DataError(
                f"'{self.spec}' holds {len(self._images)} samples, not those of the database.",
                f"Expected the {len(self)} images of '{database.manifest.data.spec}'.",
                "Pass the images that the database was built from, in their order.",
            )

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._database.manifest.samples

    @property
    def ids(self) -> Sequence[str]:  # type: ignore[override]
        """Paths of the samples; read on demand, since there may be millions."""
        return self._database.samples["path"].tolist()

    @property
    def targets(self) -> Sequence[str] | None:  # type: ignore[override]
        """Class name of each sample at the time of the build."""
        return self._database.samples["target"].tolist()

    def content(self, sample: int) -> bytes | Image.Image:
        """Return the content of a sample.

        Raises
        ------
        StaleError
            If it has changed since the build.
        DataError
            If it no longer exists.
        """
        saved_sample = self._database.sample(sample)
        try:
            content = self._content(sample, saved_sample.path)
        except ImageError as error:
            raise DataError(
                f"The image '{saved_sample.path}' is no longer in '{self.spec}': {error.value}",
                "Expected the data that the database was built from.",
                _MISSING_DATA_REMEDY,
            ) from error
        if content_digest(content) != saved_sample.sha256:
            raise StaleError(
                f"The image '{saved_sample.path}' of '{self.spec}' has changed since the build.",
                "Expected the image from which the examples were cropped.",
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
        if self._images is not None:
            return self._images.content(sample)
        return self._read(sample, path)

    @locked_cached_property
    def _read(self) -> Callable[[int, str], bytes | Image.Image]:
        return stored_reader(self.spec, given=self._given)


def data_fingerprint(ids: Sequence[str], digests: Sequence[str]) -> str:
    """Return the fingerprint of a data set from its ids and the hashes of its contents."""
    return fingerprint(list(ids), list(digests))


def _stale(kind: str, spec: str, built_spec: str) -> StaleError:
    return StaleError(
        f"The {kind} '{spec}' is not the one of the database (its fingerprint differs).",
        f"Expected '{built_spec}' with unchanged weights and preprocessing.",
        "Use that one, or build a new database.",
    )


class Database(ReferenceReader, Vectors, ClassRelevanceIndex, AnalysisCache):
    """A finished database on disk, with its model, images and embedder.

    Model, images and embedder are loaded from their SPECs on first use, unless they are passed, and
    verified against the build. A database never runs code: a model from ``FILE.py:CALLABLE`` must
    be passed.

    Parameters
    ----------
    path
        The database's folder, or its URL. Files of a URL are copied when they are first used.
    model, images, embedder
        Objects, or SPECs of their current locations, in place of those of the build.
    device
        Device for the model and the embedder, if they are loaded from SPECs.

    Raises
    ------
    StoreError
        If it is missing, unfinished, damaged or of another format.
    StaleError
        If ``model`` or ``embedder`` is an object other than that of the build.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        model: ModelLike | None = None,
        images: ImagesLike | None = None,
        embedder: Embedder | str | None = None,
        device: str = "cpu",
    ) -> None:
        url = remote_url(path)
        remote = RemoteDatabase.open(url) if url is not None else None
        super().__init__(remote.folder if remote else user_path(path), remote)
        self.location = url or str(self.path.resolve())
        """The absolute path or the URL that it was opened from."""
        self.device = device
        self.manifest = Manifest.load(self.path)
        self.files = BuildFiles(self.path, self.manifest, remote=remote)
        vectors = self.manifest.vectors
        is_whole = isinstance(embedder, PrecomputedVectors | WithoutFile)
        if vectors is not None and isinstance(embedder, Embedder) and not is_whole:
            embedder = WithoutFile(embedder, vectors)
        if model is not None and not isinstance(model, str):
            model = with_stored_output(as_model(model), self.manifest)
        if images is not None and not isinstance(images, str | Path):
            images = as_images(images)
        self.model_lock = threading.RLock()
        """Held while the model runs, where several threads ask questions."""
        self.sources = (model, images, embedder)
        """Model, images and embedder as passed; None for those of the build."""
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
            report_progress("loading the model", 0, 1)
            model = load_model(
                model or self.manifest.model.spec, device=self.device, run_files=model is not None
            )
            model = with_stored_output(model, self.manifest)
            self.check_model(model)
            report_progress("loading the model", 1, 1)
        layout = self.manifest.recipe.layout
        if layout != model.layout:
            model = replace(model, layout=layout)
        return model.with_dictionaries(self.dictionaries)

    @locked_cached_property
    def dictionaries(self) -> list[Dictionary]:
        """The directions whose codes are components, in the order of their layers."""
        names = [layer.name for layer in self.manifest.layers if layer.dictionary is not None]
        return [
            load_dictionary(self.files.verified_path(file_names.dictionary_file(name)))
            for name in names
        ]

    @locked_cached_property
    def images(self) -> Images:
        """The images of the database; each image is verified by its digest when read."""
        images = self.sources[1]
        if not isinstance(images, Images):
            check_spec(str(images or self.manifest.data.spec))
        return DatabaseImages(self, images)

    @property
    def rendering(self) -> Rendering | None:
        """How the database's samples are drawn, if they are arrays; None for pictures."""
        given = self.sources[1]
        if isinstance(given, Images):
            return given.rendering
        spec = str(given or self.manifest.data.spec)
        return rendering_of_spec(spec, run_files=given is not None)

    def original(self, sample: int, data: str | Path | None = None) -> Image.Image:
        """Return the original image of a sample as upright RGB, verified by its own hash.

        The rest of the data is neither listed nor hashed, and nothing is downloaded.

        Parameters
        ----------
        data
            Current location of the data, if not that of the build.

        Raises
        ------
        DataError
            If the data or the image does not exist.
        StaleError
            If the image has changed since the build.
        """
        images = self._images_by_spec.setdefault(
            str(data), DatabaseImages(self, data or self.sources[1])
        )
        return images.read(sample)

    @locked_cached_property
    def _images_by_spec(self) -> dict[str, DatabaseImages]:
        return {}

    @locked_cached_property
    def embedder(self) -> Embedder:
        """The foundation model of the database, verified by its fingerprint."""
        embedder = self.sources[2]
        if not isinstance(embedder, Embedder):
            report_progress("loading the embedder", 0, 1)
            spec = embedder or self.manifest.embedder.spec
            model = self.model if needs_model(spec) else None
            embedder = load_for_database(
                spec, self.manifest.vectors, device=self.device, model=model
            )
            self.check_embedder(embedder)
            report_progress("loading the embedder", 1, 1)
        return embedder

    def __reduce__(self) -> tuple[Callable[[str], Database], tuple[str]]:
        """Pickle by location: a database is opened again where it is unpickled.

        Of a model, images and an embedder that were passed, their SPECs are kept. A Python object
        has to be passed again.
        """
        names = ("model", "images", "embedder")
        specs = {
            name: spec
            for name, source in zip(names, self.sources, strict=True)
            if (spec := getattr(source, "spec", source)) and not str(spec).startswith("python:")
        }
        return partial(type(self), device=self.device, **specs), (self.location,)

    @property
    def name(self) -> str:
        """The name of the database's folder."""
        return Path(self.location).name

    # -- identity -----------------------------------------------------------------------

    def check_model(self, model: SubjectModel) -> None:
        """Raise an error if the model's weights or preprocessing differ from the database's."""
        model = with_stored_output(model, self.manifest)
        if self.manifest.output is None:  # what was not known at the build may be given now
            model = replace(model, output=None, task="auto")
        if model.fingerprint != self.manifest.model.fingerprint:
            raise _stale("model", model.spec, self.manifest.model.spec)

    def check_embedder(self, embedder: Embedder) -> None:
        """Raise an error for another foundation model, whose vectors are not comparable."""
        if embedder.fingerprint != self.manifest.embedder.fingerprint:
            raise _stale("embedder", embedder.spec, self.manifest.embedder.spec)

    def check_images(self, images: Images, digests: Sequence[str] | None = None) -> None:
        """Hash the images (or use their ``digests``) and raise an error if any has changed."""
        if digests is None:
            digests = list(content_digests(images, default_workers()))
        if data_fingerprint(images.ids, digests) == self.manifest.data.fingerprint:
            return
        saved = dict(zip(self.samples["path"], self.samples["sha256"], strict=True))
        current = dict(zip(images.ids, digests, strict=True))
        changed = sum(saved[k] != current[k] for k in saved.keys() & current.keys())
        raise StaleError(
            f"The data '{images.spec}' has changed since the build: {changed} images differ, "
            f"{len(current.keys() - saved.keys())} are new and "
            f"{len(saved.keys() - current.keys())} are missing.",
            f"Expected the images of '{self.manifest.data.spec}'.",
            "Restore them, or build a new database.",
        )

    def verify(self) -> Verification:
        """Check every file of the database; see :func:`semlens.verify`."""
        return verify(self.location)

    def warm(self) -> None:
        """Load what the first search needs, so that a server's first page need not wait for it."""
        _ = self.components, self.norms
