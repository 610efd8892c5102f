"""One embedder for all databases that were built with it: loaded late, used by one thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from semlens.analysis.query_embedding import SEARCH_TEMPLATES, null_vector
from semlens.api import ConceptDatabase
from semlens.embedders.load import Embedder, embeds_texts
from semlens.errors import SemlensError


class SharedEmbedder(Embedder):
    """An embedder by what a manifest says of it; its weights are loaded on first use.

    Its calls are run one at a time: tokenizers are not safe in threads, and torch uses all
    cores for one call already.
    """

    def __init__(self, db: ConceptDatabase) -> None:
        given = vars(db).get("embedder", db.sources[2])
        self.spec = given if isinstance(given, str) else db.manifest.embedder.spec
        self.fingerprint = db.manifest.embedder.fingerprint
        self.dim = db.manifest.dim
        self._load = partial(ConceptDatabase.embedder.func, db)
        self._lock = threading.RLock()
        self._loaded = given if isinstance(given, Embedder) else None
        self._texts_known: bool | None = None
        self.failure: SemlensError | None = None
        """Why it could not be loaded, if it was tried."""

    @property
    def has_text(self) -> bool:  # type: ignore[override]
        """Whether it embeds texts; known without loading the weights."""
        if self._loaded is not None:
            return self._loaded.has_text
        if self.failure is not None:
            return False
        # not under the lock, which is held while the weights are loaded
        if self._texts_known is None:
            self._texts_known = embeds_texts(self.spec)
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
            If it cannot be loaded.
        StaleError
            If it is not the one that the database was built with.
        """
        with self._lock:
            if self._loaded is None:
                try:
                    self._loaded, self.failure = self._load(), None
                except SemlensError as error:
                    self.failure = error
                    raise
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


def share(databases: Sequence[ConceptDatabase]) -> None:
    """Give databases of the same embedder one object, so that its weights are in memory once."""
    shared: dict[str, SharedEmbedder] = {}
    for db in databases:
        known = vars(db).get("embedder")
        one = known if isinstance(known, SharedEmbedder) else SharedEmbedder(db)
        if one.ready > shared.setdefault(one.fingerprint, one).ready:
            shared[one.fingerprint] = one
    for db in databases:
        db.embedder = shared[db.manifest.embedder.fingerprint]
