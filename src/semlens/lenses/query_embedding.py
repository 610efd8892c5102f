"""Query embeddings: texts and images as vectors in semantic space, and alignment with them.

See sections 3.3 and C of the paper, and for alignment its Eqs. 3 and 4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64
from PIL import Image

from semlens.data.array_files import as_array_picture
from semlens.data.image_folder import ImageFolder
from semlens.data.pictures import ImageLike, as_picture
from semlens.data.rendering import Rendering
from semlens.embedders.embedder import Embedder
from semlens.errors import ConceptError, ImageError
from semlens.lenses.concepts import ConceptSet
from semlens.progress import report_progress
from semlens.regular_files import is_folder, user_path
from semlens.store.reader import Database

SEARCH_TEMPLATES = ("{}", "a {}", "an image of a close up of {}")
"""Templates for search (paper, C)."""
LABEL_TEMPLATES = ("{}", "{}-like", "a {}", "an image of a close up of {}")
"""Templates for labels and dissection (paper, p. 68)."""

CACHE_FROM = 100
"""Number of texts from which their vectors are cached in the database."""
PROMPTS_PER_BLOCK = 64
"""Prompts embedded between two reports of progress."""
IMAGES_PER_BLOCK = 64
"""Images of a folder that are held in memory at once."""


@dataclass(frozen=True, eq=False)
class QueryEmbedding:
    """Vectors to compare components with, and the null vector of the empty prompt.

    Parameters
    ----------
    vectors
        float32[q d], the mean of each concept's template (or image) embeddings; not
        normalised, since only cosines are computed from them.
    names
        One per vector.
    null
        float32[d], or None for an embedder without a text tower: alignment is then the cosine.
    embedder
        Fingerprint of the embedder.
    """

    vectors: Float32[np.ndarray, "q d"]
    names: tuple[str, ...]
    null: Float32[np.ndarray, " d"] | None
    embedder: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the vectors."""
        digest = hashlib.sha256(self.vectors.tobytes())
        digest.update(b"" if self.null is None else self.null.tobytes())
        return digest.hexdigest()

    def pooled(self, name: str) -> QueryEmbedding:
        """Average all vectors into one (paper, C: several prompts are pooled)."""
        return QueryEmbedding(
            self.vectors.mean(0, keepdims=True), (name,), self.null, self.embedder
        )


def check_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Return the templates after checking them.

    Raises
    ------
    ConceptError
        If there are none, or one has no ``{}``.
    """
    invalid = [t for t in templates if "{}" not in t]
    if invalid or not templates:
        raise ConceptError(
            f"The template {invalid[0]!r} has no {{}}." if invalid else "There is no template.",
            "Expected {} where the concept goes.",
            "Write for example 'a photo of a {}'.",
        )
    return tuple(templates)


def embed_texts(
    embedder: Embedder,
    texts: Sequence[str],
    templates: Sequence[str],
) -> Float32[np.ndarray, "q d"]:
    """Embed each text in each template and average over the templates.

    Each text's vector depends on that text and the templates only, not on the other texts.
    Results are cached.
    """
    return _embed_cached(
        _EmbedderKey(embedder.fingerprint, embedder.has_text, embedder),
        tuple(texts),
        check_templates(templates),
    )


@dataclass(frozen=True)
class _EmbedderKey:
    """Cache key of an embedder, which itself need not be hashable."""

    fingerprint: str
    has_text: bool
    """Part of the key, so that an equal embedder without a text tower still raises an error."""
    embedder: Embedder = field(compare=False)


@lru_cache(maxsize=32)
def _embed_cached(
    key: _EmbedderKey, texts: tuple[str, ...], templates: tuple[str, ...]
) -> Float32[np.ndarray, "q d"]:
    """Embed texts with a cache, since the same vocabularies are used repeatedly."""
    prompts = [template.replace("{}", text) for text in texts for template in templates]
    # texts of one block are padded to the longest of it
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    vectors = np.zeros((len(prompts), key.embedder.dim), np.float32)
    for start in range(0, len(prompts), PROMPTS_PER_BLOCK):
        block = order[start : start + PROMPTS_PER_BLOCK]
        vectors[block] = key.embedder.embed_texts([prompts[number] for number in block]).numpy()
        report_progress("embedding texts", start + len(block), len(prompts))
    vectors = vectors.reshape(len(texts), len(templates), -1).mean(1)
    vectors.flags.writeable = False
    return vectors


def null_vector(embedder: Embedder, templates: Sequence[str]) -> Float32[np.ndarray, " d"] | None:
    """Embed the templates with an empty text and average them; None without a text tower."""
    return embed_texts(embedder, [""], templates)[0] if embedder.has_text else None


def open_image(image: ImageLike, rendering: Rendering | None = None) -> Image.Image:
    """Return an image, or the image in a file, as upright RGB; see :func:`semlens.as_picture`.

    Parameters
    ----------
    rendering
        Of a database of arrays, how these are drawn: the image is an array, or in a file.

    Raises
    ------
    ConceptError
        If it cannot be read.
    """
    try:
        if rendering is not None:
            return as_array_picture(image, rendering)
        return as_picture(image)
    except ImageError as error:
        if not isinstance(image, str | Path):
            raise ConceptError(error.value, error.expected, error.remedy) from error
        raise ConceptError(
            f"The image '{image}' cannot be read ({error.value.rstrip('.')}).",
            "Expected an image file.",
            "Check the path.",
        ) from error


def embed_images(
    embedder: Embedder, images: Sequence[ImageLike], rendering: Rendering | None = None
) -> Float32[np.ndarray, "q d"]:
    """Embed each image; a folder counts as one, the mean of its images.

    Parameters
    ----------
    rendering
        As for :func:`open_image`.

    Raises
    ------
    ConceptError
        If a file cannot be read.
    DataError
        If a folder has no images.
    """
    vectors = [
        _folder_vector(embedder, ImageFolder(user_path(image)))
        if isinstance(image, str | Path) and is_folder(user_path(image))
        else embedder.embed_images([open_image(image, rendering)]).numpy()[0]
        for image in images
    ]
    return np.stack(vectors) if vectors else np.zeros((0, embedder.dim), np.float32)


def _folder_vector(embedder: Embedder, images: ImageFolder) -> Float32[np.ndarray, " d"]:
    blocks: list[np.ndarray] = []
    for start in range(0, len(images), IMAGES_PER_BLOCK):
        stop = min(start + IMAGES_PER_BLOCK, len(images))
        pictures = [images.read(sample) for sample in range(start, stop)]
        blocks.append(embedder.embed_images(pictures).numpy())
        report_progress("embedding images", stop, len(images))
    return np.concatenate(blocks).mean(0)


def embed_concepts(
    database: Database, concepts: ConceptSet, templates: Sequence[str] | None = None
) -> QueryEmbedding:
    """Embed each concept of a set; the images of a concept are averaged.

    The text vectors of a large set are cached in the database.
    """
    embedder = database.embedder
    templates = check_templates(templates or concepts.templates or LABEL_TEMPLATES)
    vectors = np.zeros((len(concepts), embedder.dim), np.float32)
    texts = [i for i, concept in enumerate(concepts.concepts) if not concept.images]
    if texts:
        names = [concepts.concepts[i].name for i in texts]
        vectors[texts] = embed_texts_of(database, names, templates)
    for row, concept in enumerate(concepts.concepts):
        if concept.images:
            images = [open_image(path) for path in concept.images]
            vectors[row] = embedder.embed_images(images).numpy().mean(0)
    names = tuple(concept.name for concept in concepts.concepts)
    return QueryEmbedding(vectors, names, null_vector(embedder, templates), embedder.fingerprint)


def embed_texts_of(
    database: Database, texts: Sequence[str], templates: Sequence[str]
) -> Float32[np.ndarray, "q d"]:
    """Embed texts; the vectors of many texts are cached in the database."""
    embedder = database.embedder
    if len(texts) < CACHE_FROM:
        return embed_texts(embedder, texts, templates)
    cached = database.cached(
        "texts",
        [embedder.fingerprint, list(texts), list(templates)],
        lambda: pd.DataFrame({"vector": list(embed_texts(embedder, texts, templates))}),
    )
    return np.stack(cached["vector"].tolist()).astype(np.float32)


def unit(vectors: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Scale rows to unit length; a row of zeros stays zero."""
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norm, np.float32(1e-12))


def directions(query: QueryEmbedding) -> Float32[np.ndarray, "q d"]:
    """Return vectors whose inner products with a unit vector are its alignments (Eqs. 3 and 4).

    Unit vectors, minus that of the empty prompt; without a text tower there is none, and
    alignment is the plain cosine.
    """
    units = unit(query.vectors)
    return units if query.null is None else units - unit(query.null[None])


def alignment(
    theta: Float32[np.ndarray, "n d"], query: QueryEmbedding
) -> Float32[np.ndarray, "n q"]:
    """Similarity with the query minus similarity with the empty prompt (Eq. 4)."""
    # dividing after the product avoids a normalised copy of theta
    norm = np.sqrt(np.einsum("nd,nd->n", theta, theta))[:, None]
    return (theta @ directions(query).T) / np.maximum(norm, np.float32(1e-12))


ALIGNED_ROWS = 1024
"""Vectors that are compared with the concepts in one step, so that the result is in the cache."""


def alignment_blocks(
    theta: Float32[np.ndarray, "m d"],
    query: QueryEmbedding,
    rows: Int64[np.ndarray, " n"] | None = None,
) -> Iterator[tuple[slice, Float32[np.ndarray, "b q"]]]:
    """Yield the alignments of a few vectors at a time, with their positions.

    The array is used again for the next block: copy what is needed.

    Parameters
    ----------
    rows
        The vectors of theta to compare; all by default.
    """
    rows = np.arange(len(theta)) if rows is None else rows
    columns = np.ascontiguousarray(directions(query).T)
    buffer = np.empty((min(ALIGNED_ROWS, len(rows)), columns.shape[1]), np.float32)
    for start in range(0, len(rows), ALIGNED_ROWS):
        units = unit(theta[rows[start : start + ALIGNED_ROWS]])
        block = slice(start, start + len(units))
        yield block, np.matmul(units, columns, out=buffer[: len(units)])
