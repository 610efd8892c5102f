"""Probes: what is searched for, as vectors of the semantic space (paper, 3.3 and C)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image

from semlens.analysis.concepts import ConceptSet
from semlens.data.pixels import decode, upright_rgb
from semlens.embedders.base import Embedder
from semlens.errors import ConceptError, ImageError

SEARCH_TEMPLATES = ("{}", "a {}", "an image of a close up of {}")
"""Templates for search (paper, C)."""
LABEL_TEMPLATES = ("{}", "{}-like", "a {}", "an image of a close up of {}")
"""Templates for labels and dissection (paper, p. 68)."""

PROMPTS = 256
"""How many prompts are embedded between two reports of progress."""

ImageLike = Image.Image | str | Path

Told = Callable[[int, int], None]
"""Is told how many prompts are embedded, and of how many."""


@dataclass(frozen=True, eq=False)
class Probe:
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

    def joined(self, name: str) -> Probe:
        """Average all vectors to one (paper, C: several prompts are pooled)."""
        return Probe(self.vectors.mean(0, keepdims=True), (name,), self.null, self.embedder)


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
    told: Told = lambda *_: None,
) -> Float32[np.ndarray, "q d"]:
    """Embed each text in each template and average over the templates.

    Every (text, template) pair is embedded once and belongs to its own text, however many
    are asked for together. What was embedded before is remembered, and nothing is told.
    """
    return _embedded(
        _Known(embedder.fingerprint, embedder.has_text, embedder, told),
        tuple(texts),
        check_templates(templates),
    )


@dataclass(frozen=True)
class _Known:
    """An embedder by what it is, so that any class of embedders can be remembered."""

    fingerprint: str
    has_text: bool
    """A twin that reads no texts still has to refuse them."""
    embedder: Embedder = field(compare=False)
    told: Told = field(compare=False)


@lru_cache(maxsize=32)
def _embedded(
    known: _Known, texts: tuple[str, ...], templates: tuple[str, ...]
) -> Float32[np.ndarray, "q d"]:
    """Remember what was embedded: a vocabulary is asked for again and again."""
    prompts = [template.replace("{}", text) for text in texts for template in templates]
    parts: list[np.ndarray] = []
    for start in range(0, len(prompts), PROMPTS):
        parts.append(known.embedder.embed_texts(prompts[start : start + PROMPTS]).numpy())
        known.told(min(start + PROMPTS, len(prompts)), len(prompts))
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


def make_probe(
    embedder: Embedder,
    texts: Sequence[str] = (),
    images: Sequence[ImageLike] = (),
    templates: Sequence[str] = SEARCH_TEMPLATES,
) -> Probe:
    """Make a probe with one vector per text and per image.

    Raises
    ------
    ConceptError
        If there is neither, or an image cannot be read.
    EmbedderError
        If there is a text and the embedder has no text tower.
    """
    if not texts and not images:
        raise ConceptError(
            "The probe is empty.", "Expected a text or an image.", "Say what to look for."
        )
    blank = [text for text in texts if not text.strip()]
    if blank:
        raise ConceptError(
            "A text of the probe is empty.", "Expected some words.", "Say what to look for."
        )
    parts: list[np.ndarray] = []
    if texts:
        parts.append(embed_texts(embedder, texts, templates))
    if images:
        parts.append(embedder.embed_images([open_image(image) for image in images]).numpy())
    names = [*texts, *(_name(image) for image in images)]
    null = null_vector(embedder, templates)
    return Probe(np.concatenate(parts), tuple(names), null, embedder.fingerprint)


def _name(image: ImageLike) -> str:
    return "image" if isinstance(image, Image.Image) else Path(image).name


def concept_probe(
    embedder: Embedder,
    concepts: ConceptSet,
    templates: Sequence[str] | None = None,
    told: Told = lambda *_: None,
) -> Probe:
    """Make a probe with one vector per concept of a set; images are averaged per concept."""
    templates = templates or concepts.templates or LABEL_TEMPLATES
    vectors = np.zeros((len(concepts), embedder.dim), np.float32)
    texts = [i for i, concept in enumerate(concepts.concepts) if not concept.images]
    if texts:
        names = [concepts.concepts[i].name for i in texts]
        vectors[texts] = embed_texts(embedder, names, templates, told)
    for place, concept in enumerate(concepts.concepts):
        if concept.images:
            pictures = [open_image(path) for path in concept.images]
            vectors[place] = embedder.embed_images(pictures).numpy().mean(0)
    names = tuple(concept.name for concept in concepts.concepts)
    return Probe(vectors, names, null_vector(embedder, templates), embedder.fingerprint)
