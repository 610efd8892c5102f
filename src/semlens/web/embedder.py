"""One embedder for all databases that were built with it: loaded late, used by one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from semlens.analysis.probe import SEARCH_TEMPLATES, null_vector
from semlens.api import ConceptDatabase
from semlens.embedders.load import Embedder, load_embedder, reads_texts
from semlens.errors import EmbedderError, SemlensError


class SharedEmbedder(Embedder):
    """An embedder by what a manifest says of it; its weights are loaded on first use.

    Its calls are run one at a time: tokenizers are not safe in threads, and torch uses all
    cores for one call already.
    """

    def __init__(self, spec: str, fingerprint: str, dim: int, load: Callable[[], Embedder]) -> None:
        self.spec = spec
        self.fingerprint = fingerprint
        self.dim = dim
        self._load = load
        self._lock = threading.RLock()
        self._loaded: Embedder | None = None
        self._texts_known: bool | None = None
        self.failure: SemlensError | None = None
        """Why it could not be loaded, if it was tried."""

    @classmethod
    def of(cls, db: ConceptDatabase, device: str = "cpu") -> SharedEmbedder:
        """Describe the embedder of a database; one that it was opened with is used as it is."""
        source = db.manifest.embedder
        given = db.__dict__.get("embedder")
        if isinstance(given, SharedEmbedder):
            return given
        shared = cls(
            source.spec,
            source.fingerprint,
            db.manifest.dim,
            lambda: load_embedder(source.spec, device=device),
        )
        shared._loaded = given
        return shared

    @property
    def has_text(self) -> bool:  # type: ignore[override]
        """Whether it embeds texts; known without loading the weights."""
        if self._loaded is not None:
            return self._loaded.has_text
        if self.failure is not None:
            return False
        # not under the lock, which is held while the weights are loaded
        if self._texts_known is None:
            self._texts_known = reads_texts(self.spec)
        return self._texts_known

    @property
    def looked_at(self) -> bool:
        """Whether :attr:`has_text` is known at once: else a large library may be imported."""
        return self.ready or self.failure is not None or self._texts_known is not None

    @property
    def ready(self) -> bool:
        """Whether the weights are there."""
        return self._loaded is not None

    def loaded(self) -> Embedder:
        """Return the embedder itself.

        Raises
        ------
        EmbedderError
            If it cannot be loaded, or is not the one that the database was built with.
        """
        with self._lock:
            if self._loaded is None:
                try:
                    found = self._load()
                    self._check(found)
                except SemlensError as error:
                    self.failure = error
                    raise
                self._loaded, self.failure = found, None
            return self._loaded

    def warm(self) -> None:
        """Load it and embed the empty templates, so that the first search need not wait."""
        self.loaded()  # the templates may be known from another server of this process
        if self.has_text:
            null_vector(self, SEARCH_TEMPLATES)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Preprocess as the embedder does; safe in threads."""
        return self.loaded().preprocess(image)

    def embed_batch(self, batch: Tensor) -> Float32[Tensor, "b d"]:
        """Embed preprocessed images to unit vectors on the CPU."""
        with self._lock:
            return self.loaded().embed_batch(batch)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> Float32[Tensor, "n d"]:
        """Embed texts to unit vectors."""
        with self._lock:
            return self.loaded().embed_texts(texts, batch_size)

    def _images(self, batch: Tensor) -> Tensor:
        return self.embed_batch(batch)

    def _check(self, found: Embedder) -> None:
        if found.fingerprint != self.fingerprint:
            raise EmbedderError(
                f"The embedder '{found.spec}' has other weights or preprocessing than the "
                "database's.",
                f"Expected '{self.spec}' as it was at the build (its fingerprint differs).",
                "Give that one with --embedder, or build a new database.",
            )


def share(databases: Sequence[ConceptDatabase], device: str = "cpu") -> None:
    """Give databases of the same embedder one object, so that its weights are in memory once."""
    shared: dict[str, SharedEmbedder] = {}
    for db in databases:
        one = SharedEmbedder.of(db, device)
        known = shared.setdefault(one.fingerprint, one)
        if one.ready and not known.ready:
            shared[one.fingerprint] = one
    for db in databases:
        db.embedder = shared[db.manifest.embedder.fingerprint]
