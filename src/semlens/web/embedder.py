"""Embedder shared by all databases that were built with it: lazily loaded, one call at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from semlens.concept_database import ConceptDatabase
from semlens.embedders.embedder import Embedder
from semlens.embedders.load import embeds_texts
from semlens.errors import SemlensError
from semlens.lenses.query_embedding import SEARCH_TEMPLATES, null_vector


class SharedEmbedder(Embedder):
    """The embedder of a database; its weights are loaded on first use.

    Calls run one at a time: tokenizers are not thread-safe, and torch already uses all cores
    for a single call.
    """

    def __init__(self, db: ConceptDatabase) -> None:
        source = vars(db).get("embedder", db.sources[2])
        self.spec = source if isinstance(source, str) else db.manifest.embedder.spec
        self.fingerprint = db.manifest.embedder.fingerprint
        self.dim = db.manifest.dim
        self._load = partial(ConceptDatabase.embedder.func, db)
        self._lock = threading.RLock()
        self._loaded = source if isinstance(source, Embedder) else None
        self._has_text: bool | None = None
        self.failure: SemlensError | None = None
        """Error of the last attempt to load it, if that failed."""

    @property
    def has_text(self) -> bool:  # type: ignore[override]
        """Whether it embeds texts; does not load the weights."""
        if self._loaded is not None:
            return self._loaded.has_text
        if self.failure is not None:
            return False
        # without the lock, which is held while the weights are loaded
        if self._has_text is None:
            self._has_text = embeds_texts(self.spec)
        return self._has_text

    @property
    def inspected(self) -> bool:
        """Whether :attr:`has_text` is known already; otherwise it may import a large library."""
        return self.ready or self.failure is not None or self._has_text is not None

    @property
    def ready(self) -> bool:
        """Whether the weights are loaded."""
        return self._loaded is not None

    def loaded(self) -> Embedder:
        """Return the embedder itself.

        Raises
        ------
        EmbedderError
            If it cannot be loaded.
        StaleError
            If it is not the embedder that the database was built with.
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
        """Load the weights and embed the empty prompts, so that the first search is fast."""
        self.loaded()  # the prompts may be cached by another server of this process
        if self.has_text:
            null_vector(self, SEARCH_TEMPLATES)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Preprocess an image; thread-safe."""
        return self.loaded().preprocess(image)

    def understands(self, text: str) -> bool:
        """Whether any part of a text is in the vocabulary."""
        with self._lock:
            return self.loaded().understands(text)

    def embed_batch(self, batch: Tensor) -> Float32[Tensor, "b d"]:
        """Embed preprocessed images as unit vectors on the CPU."""
        with self._lock:
            return self.loaded().embed_batch(batch)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> Float32[Tensor, "n d"]:
        """Embed texts as unit vectors."""
        with self._lock:
            return self.loaded().embed_texts(texts, batch_size)

    def _images(self, batch: Tensor) -> Tensor:
        return self.embed_batch(batch)


def share(databases: Sequence[ConceptDatabase]) -> None:
    """Make databases with the same embedder share one object, so that its weights load once."""
    shared: dict[str, SharedEmbedder] = {}
    for db in databases:
        current = vars(db).get("embedder")
        embedder = current if isinstance(current, SharedEmbedder) else SharedEmbedder(db)
        if embedder.ready > shared.setdefault(embedder.fingerprint, embedder).ready:
            shared[embedder.fingerprint] = embedder
    for db in databases:
        db.embedder = shared[db.manifest.embedder.fingerprint]
