"""Search queries as vectors: texts, images and components, and negative terms of these kinds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from semlens.errors import ConceptError
from semlens.lenses.query_embedding import (
    SEARCH_TEMPLATES,
    ImageLike,
    QueryEmbedding,
    directions,
    embed_images,
    embed_texts,
    null_vector,
    unit,
)
from semlens.store.reader import Database
from semlens.types import Components, as_components, as_list

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
    positive = embed_query(
        database, as_list(texts), as_list(images), as_components(like), templates
    )
    if positive is None:
        raise ConceptError(
            "The query is empty.",
            "Expected a text, an image or a component.",
            "Add one.",
        )
    negative = embed_query(
        database, as_list(without), as_list(without_images), as_components(unlike), templates
    )
    terms = len(as_list(texts)), len(as_list(without))
    others = [*as_list(images), *as_components(like)]
    negative_others = [*as_list(without_images), *as_components(unlike)]
    text = " + ".join(positive.names) + "".join(
        f" - {n}" for n in (negative.names if negative else ())
    )
    query = Query(
        text,
        positive.pooled(" + ".join(positive.names)),
        negative and negative.pooled(" + ".join(negative.names)),
        tuple(database.rows_of([*as_components(like), *as_components(unlike)])),
        not others,
        None if others or negative_others else terms,
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


def embed_query(
    database: Database,
    texts: Sequence[str] = (),
    images: Sequence[ImageLike] = (),
    components: Components = (),
    templates: Sequence[str] = SEARCH_TEMPLATES,
) -> QueryEmbedding | None:
    """Return one vector per text, image and component; None if there are none."""
    components = as_components(components)
    vectors: list[np.ndarray] = []
    null: np.ndarray | None = None
    if any(not text.strip() for text in texts):
        raise ConceptError(
            "A text of the query is empty.", "Expected at least one word.", "Remove it."
        )
    if any(not _is_whole(text) for text in texts):
        raise ConceptError(
            "A text of the query holds half a character (a lone surrogate).",
            "Expected text that can be written as UTF-8.",
            "Type it again.",
        )
    unknown = [text for text in texts if not database.embedder.understands(text)]
    if unknown:
        raise ConceptError(
            f"The embedder '{database.manifest.embedder.spec}' knows nothing in '{unknown[0]}'.",
            "Expected words of its vocabulary.",
            "Use other words, or search with an image.",
        )
    if texts:
        vectors.append(embed_texts(database.embedder, texts, templates))
    if images:
        vectors.append(embed_images(database.embedder, images))
    if vectors:
        null = null_vector(database.embedder, templates)
    if components:
        vectors.append(_component_vectors(database, components))
    if not vectors:
        return None
    files = [Path(i).name if isinstance(i, str | Path) else "image" for i in images]
    names = (*texts, *files, *map(str, components))
    return QueryEmbedding(
        np.concatenate(vectors), names, null, database.manifest.embedder.fingerprint
    )


def _is_whole(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _component_vectors(
    database: Database, components: Iterable[object]
) -> Float32[np.ndarray, "n d"]:
    """Return unit concept vectors; raise ConceptError for a component without examples."""
    names = [str(component) for component in components]
    vectors = database.concept_vectors(database.rows_of(names))
    empty = [name for name, vector in zip(names, vectors, strict=True) if not vector.any()]
    if empty:
        raise ConceptError(
            f"The component '{empty[0]}' has no examples, and therefore no vector.",
            "Expected a component with examples.",
            "Choose another component.",
        )
    return unit(vectors)
