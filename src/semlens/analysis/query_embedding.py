"""Probes: what is searched for, as vectors of the semantic space, and alignment with them.

See the paper's 3.3 and C, and for alignment its Eqs. 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float32
from PIL import Image

from semlens.analysis.concepts import ConceptSet
from semlens.data.images import decode, upright_rgb
from semlens.embedders.load import Embedder
from semlens.errors import ConceptError, ImageError
from semlens.progress import report
from semlens.store.reader import Database

SEARCH_TEMPLATES = ("{}", "a {}", "an image of a close up of {}")
"""Templates for search (paper, C)."""
LABEL_TEMPLATES = ("{}", "{}-like", "a {}", "an image of a close up of {}")
"""Templates for labels and dissection (paper, p. 68)."""

KEEP_FROM = 100
"""Texts of a set from which their vectors are kept in the database."""
PROMPTS = 256
"""How many prompts are embedded between two reports of progress."""

ImageLike = Image.Image | str | Path


@dataclass(frozen=True, eq=False)
class QueryEmbedding:
    """Vectors to compare components with, and the null vector of the empty templates.

    Parameters
    ----------
    vectors
        float32[q d], the mean of each concept's template (or image) embeddings; not
        normalised, since a cosine follows.
    names
        One per vector.
    null
        float32[d], or None for an embedder without texts: alignment is then the cosine.
    embedder
        Fingerprint of the embedder that made it.
    """

    vectors: Float32[np.ndarray, "q d"]
    names: tuple[str, ...]
    null: Float32[np.ndarray, " d"] | None
    embedder: str

    def joined(self, name: str) -> QueryEmbedding:
        """Average all vectors to one (paper, C: several prompts are pooled)."""
        return QueryEmbedding(
            self.vectors.mean(0, keepdims=True), (name,), self.null, self.embedder
        )


def check_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Return the templates.

    Raises
    ------
    ConceptError
        If there is none, or one lacks the place of the concept.
    """
    wrong = [t for t in templates if "{}" not in t]
    if wrong or not templates:
        raise ConceptError(
            f"The template {wrong[0]!r} has no {{}}." if wrong else "There is no template.",
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

    Every (text, template) pair is embedded once and belongs to its own text, however many
    are asked for together. What was embedded before is remembered.
    """
    return _embedded(
        _EmbedderKey(embedder.fingerprint, embedder.has_text, embedder),
        tuple(texts),
        check_templates(templates),
    )


@dataclass(frozen=True)
class _EmbedderKey:
    """An embedder by what it is, so that any class of embedders can be remembered."""

    fingerprint: str
    has_text: bool
    """A twin that reads no texts still has to refuse them."""
    embedder: Embedder = field(compare=False)


@lru_cache(maxsize=32)
def _embedded(
    known: _EmbedderKey, texts: tuple[str, ...], templates: tuple[str, ...]
) -> Float32[np.ndarray, "q d"]:
    """Remember what was embedded: a vocabulary is asked for again and again."""
    prompts = [template.replace("{}", text) for text in texts for template in templates]
    parts: list[np.ndarray] = []
    for start in range(0, len(prompts), PROMPTS):
        parts.append(known.embedder.embed_texts(prompts[start : start + PROMPTS]).numpy())
        report("embedding texts", min(start + PROMPTS, len(prompts)), len(prompts))
    vectors = np.concatenate(parts) if parts else np.zeros((0, known.embedder.dim), np.float32)
    vectors = vectors.reshape(len(texts), len(templates), -1).mean(1)
    vectors.flags.writeable = False
    return vectors


def null_vector(embedder: Embedder, templates: Sequence[str]) -> Float32[np.ndarray, " d"] | None:
    """Embed the empty templates and average them; None without a text tower."""
    return embed_texts(embedder, [""], templates)[0] if embedder.has_text else None


def open_image(image: ImageLike) -> Image.Image:
    """Return a picture or the picture of a file as upright RGB.

    Raises
    ------
    ConceptError
        If the file cannot be read.
    """
    if isinstance(image, Image.Image):
        return upright_rgb(image)
    try:
        return decode(Path(image).expanduser().read_bytes(), str(image))
    except (OSError, ImageError) as error:
        raise ConceptError(
            f"The probe image '{image}' cannot be read ({error}).",
            "Expected an image file.",
            "Check the path.",
        ) from error


def embed_concepts(
    database: Database, concepts: ConceptSet, templates: Sequence[str] | None = None
) -> QueryEmbedding:
    """Make a probe with one vector per concept of a set; images are averaged per concept.

    The texts of a large set are embedded once per database, and kept.
    """
    embedder = database.embedder
    templates = check_templates(templates or concepts.templates or LABEL_TEMPLATES)
    vectors = np.zeros((len(concepts), embedder.dim), np.float32)
    texts = [i for i, concept in enumerate(concepts.concepts) if not concept.images]
    if texts:
        names = [concepts.concepts[i].name for i in texts]
        vectors[texts] = _kept_texts(database, names, templates)
    for place, concept in enumerate(concepts.concepts):
        if concept.images:
            pictures = [open_image(path) for path in concept.images]
            vectors[place] = embedder.embed_images(pictures).numpy().mean(0)
    names = tuple(concept.name for concept in concepts.concepts)
    return QueryEmbedding(vectors, names, null_vector(embedder, templates), embedder.fingerprint)


def _kept_texts(
    database: Database, texts: Sequence[str], templates: Sequence[str]
) -> Float32[np.ndarray, "q d"]:
    """Embed texts, or return what a database keeps of a large set."""
    embedder = database.embedder
    if len(texts) < KEEP_FROM:
        return embed_texts(embedder, texts, templates)
    kept = database.cached(
        "texts",
        [embedder.fingerprint, list(texts), list(templates)],
        lambda: pd.DataFrame({"vector": list(embed_texts(embedder, texts, templates))}),
    )
    return np.stack(kept["vector"].tolist()).astype(np.float32)


def unit(vectors: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Scale rows to length one; a row of zeros stays zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, np.float32(1e-12))


def cosine(
    theta: Float32[np.ndarray, "n d"], probes: Float32[np.ndarray, "q d"]
) -> Float32[np.ndarray, "n q"]:
    """Cosine similarity of every component with every probe vector (Eq. 3)."""
    # dividing afterwards spares a copy of theta
    length = np.sqrt(np.einsum("nd,nd->n", theta, theta))[:, None]
    return (theta @ unit(probes).T) / np.maximum(length, np.float32(1e-12))


def alignment(
    theta: Float32[np.ndarray, "n d"], probe: QueryEmbedding
) -> Float32[np.ndarray, "n q"]:
    """Similarity with the probe less similarity with the empty templates (Eq. 4).

    Without a text tower there is no null vector, and alignment is the plain cosine.
    """
    if probe.null is None:
        return cosine(theta, probe.vectors)
    similarity = cosine(theta, np.concatenate([probe.vectors, probe.null[None]]))
    return similarity[:, :-1] - similarity[:, -1:]
