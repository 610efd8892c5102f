"""Search queries as vectors: texts, images and components, and negative terms of these kinds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from semlens.data.pictures import ImageLike, listed_pictures
from semlens.errors import ConceptError
from semlens.lenses.query_embedding import (
    SEARCH_TEMPLATES,
    QueryEmbedding,
    directions,
    embed_images,
    embed_texts,
    null_vector,
    unit,
)
from semlens.store.reader import Database
from semlens.types import Component, Components, as_components, as_list

SMALLEST_DIRECTION = 1e-5
"""Length of a query's direction, a difference of unit vectors, below which it is rounding error."""


@dataclass(frozen=True, eq=False)
class Query:
    """A search query as vectors."""

    text: str
    """The query in words: ``dog + photo.png - grass``."""
    positive: QueryEmbedding
    """One vector: the mean of the positive terms."""
    negative: QueryEmbedding | None = None
    """One vector whose alignment is subtracted."""
    excluded_rows: tuple[int, ...] = ()
    """Rows that are not searched: the components in the query."""
    by_words: bool = True
    """Whether all positive terms are texts."""
    texts: tuple[int, int] | None = None
    """Numbers of positive and negative terms if all of them are texts."""
    templates: tuple[str, ...] = SEARCH_TEMPLATES

    @property
    def direction(self) -> Float32[np.ndarray, " d"]:
        """The vector whose inner product with a unit vector is its alignment."""
        direction = directions(self.positive)[0]
        return direction if self.negative is None else direction - directions(self.negative)[0]


@dataclass(frozen=True)
class Terms:
    """The positive or the negative terms of a query, which are averaged into one vector."""

    texts: Sequence[str] = ()
    images: Sequence[ImageLike] = ()
    components: Sequence[Component] = ()

    @classmethod
    def of(
        cls,
        texts: str | Sequence[str],
        images: ImageLike | Sequence[ImageLike] = (),
        components: Components = (),
    ) -> Terms:
        """Take one term or several of each kind, as callers give them."""
        return cls(as_list(texts), listed_pictures(images), as_components(components))

    @property
    def by_words(self) -> bool:
        """Whether all terms are texts."""
        return not self.images and not self.components

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each term."""
        files = [Path(i).name if isinstance(i, str | Path) else "image" for i in self.images]
        return (*self.texts, *files, *map(str, self.components))


def make_query(
    database: Database,
    texts: str | Sequence[str] = (),
    images: ImageLike | Sequence[ImageLike] = (),
    like: Components = (),
    *,
    without: str | Sequence[str] = (),
    without_images: ImageLike | Sequence[ImageLike] = (),
    unlike: Components = (),
    templates: Sequence[str] = SEARCH_TEMPLATES,
) -> Query:
    """Embed a query: its positive and its negative terms are averaged into one vector each.

    Terms that are all components need no embedder and have no null vector: their alignment is
    the cosine.

    Raises
    ------
    ConceptError
        If there are no positive terms, they equal the negative ones or the empty text, or a
        component has no examples.
    EmbedderError
        If there is a text and the embedder has no text tower.
    LayerError
        If the database has no such component.
    """
    wanted = Terms.of(texts, images, like)
    avoided = Terms.of(without, without_images, unlike)
    positive = embed_terms(database, wanted, templates)
    if positive is None:
        raise ConceptError(
            "The query is empty.",
            "Expected a text, an image or a component.",
            "Add one.",
        )
    negative = embed_terms(database, avoided, templates)
    in_words = " + ".join(wanted.names)
    query = Query(
        in_words + "".join(f" - {name}" for name in avoided.names),
        positive.pooled(in_words),
        negative and negative.pooled(" + ".join(avoided.names)),
        tuple(database.rows_of([*wanted.components, *avoided.components])),
        wanted.by_words,
        (len(wanted.texts), len(avoided.texts)) if wanted.by_words and avoided.by_words else None,
        tuple(templates),
    )
    if np.linalg.norm(query.direction) < SMALLEST_DIRECTION:
        raise _without_direction(query)
    return query


def _without_direction(query: Query) -> ConceptError:
    """Return the error for a query to which all components are equally similar."""
    if query.negative is not None:
        return ConceptError(
            f"What '{query.text}' searches for and what it avoids are the same.",
            "Expected terms that differ.",
            "Remove one of them.",
        )
    return ConceptError(
        f"For the embedder, '{query.text}' means the same as an empty text.",
        "Expected words that it knows.",
        "Use other words, or search with an image.",
    )


def embed_terms(
    database: Database, terms: Terms, templates: Sequence[str] = SEARCH_TEMPLATES
) -> QueryEmbedding | None:
    """Return one vector per term; None if there are none."""
    vectors: list[np.ndarray] = []
    null: np.ndarray | None = None
    if any(not text.strip() for text in terms.texts):
        raise ConceptError(
            "A text of the query is empty.", "Expected at least one word.", "Remove it."
        )
    if any(not _is_whole(text) for text in terms.texts):
        raise ConceptError(
            "A text of the query holds half a character (a lone surrogate).",
            "Expected text that can be written as UTF-8.",
            "Type it again.",
        )
    unknown = [text for text in terms.texts if not database.embedder.understands(text)]
    if unknown:
        raise ConceptError(
            f"The embedder '{database.manifest.embedder.spec}' knows nothing in '{unknown[0]}'.",
            "Expected words of its vocabulary.",
            "Use other words, or search with an image.",
        )
    if terms.texts:
        vectors.append(embed_texts(database.embedder, terms.texts, templates))
    if terms.images:
        vectors.append(embed_images(database.embedder, terms.images, database.rendering))
    if vectors:
        null = null_vector(database.embedder, templates)
    if terms.components:
        vectors.append(_component_vectors(database, terms.components))
    if not vectors:
        return None
    return QueryEmbedding(
        np.concatenate(vectors), terms.names, null, database.manifest.embedder.fingerprint
    )


def _is_whole(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _component_vectors(
    database: Database, components: Sequence[Component]
) -> Float32[np.ndarray, "n d"]:
    """Return unit concept vectors; raise ConceptError for a component without examples."""
    vectors = database.concept_vectors(database.rows_of(components))
    empty = [one for one, vector in zip(components, vectors, strict=True) if not vector.any()]
    if empty:
        raise ConceptError(
            f"The component '{empty[0]}' has no examples, and therefore no vector.",
            "Expected a component with examples.",
            "Choose another component.",
        )
    return unit(vectors)
