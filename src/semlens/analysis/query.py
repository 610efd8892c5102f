"""Queries: texts, images and components to look for, and others to keep away from (paper, 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from semlens.analysis.align import unit
from semlens.analysis.probe import (
    SEARCH_TEMPLATES,
    ImageLike,
    Probe,
    embed_texts,
    null_vector,
    open_image,
)
from semlens.errors import ConceptError
from semlens.store.reader import Database
from semlens.types import Components, as_components, as_list


@dataclass(frozen=True, eq=False)
class Query:
    """What is searched for."""

    text: str
    """The query as people write it: ``dog + photo.png - grass``."""
    probe: Probe
    """One vector."""
    negative: Probe | None = None
    """One vector whose alignment is subtracted."""
    leave_out: tuple[int, ...] = ()
    """Rows that are not searched: the components that were given."""


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
    """Turn both sides of a query into one vector each: the mean of what is given for it.

    A side of components only needs no embedder and has no null vector: its alignment is the
    cosine.

    Raises
    ------
    ConceptError
        If there is nothing to look for, or a component has no examples.
    EmbedderError
        If there is a text and the embedder has no text tower.
    LayerError
        If the database has no component of a name.
    """
    probe = make_probe(database, as_list(texts), as_list(images), as_components(like), templates)
    if probe is None:
        raise ConceptError(
            "The query is empty.",
            "Expected a text, an image or a component.",
            "Say what to look for.",
        )
    away = as_list(without), as_list(without_images), as_components(unlike)
    negative = make_probe(database, *away, templates)
    text = " + ".join(probe.names) + "".join(
        f" - {n}" for n in (negative.names if negative else ())
    )
    given = database.rows_of([*as_components(like), *away[2]])
    joined = None if negative is None else negative.joined(" + ".join(negative.names))
    return Query(text, probe.joined(" + ".join(probe.names)), joined, tuple(given))


def make_probe(
    database: Database,
    texts: Sequence[str] = (),
    images: Sequence[ImageLike] = (),
    components: Components = (),
    templates: Sequence[str] = SEARCH_TEMPLATES,
) -> Probe | None:
    """Return a vector per text, image and component; None where there is none of them."""
    components = as_components(components)
    vectors: list[np.ndarray] = []
    null: np.ndarray | None = None
    if any(not text.strip() for text in texts):
        raise ConceptError(
            "A text of the query is empty.", "Expected some words.", "Say what to look for."
        )
    if texts:
        vectors.append(embed_texts(database.embedder, texts, templates))
    if images:
        vectors.append(database.embedder.embed_images([open_image(i) for i in images]).numpy())
    if vectors:
        null = null_vector(database.embedder, templates)
    if components:
        vectors.append(_component_vectors(database, components))
    if not vectors:
        return None
    names = (*texts, *map(image_name, images), *map(str, components))
    known = database.manifest.embedder.fingerprint
    return Probe(np.concatenate(vectors), names, null, known)


def _component_vectors(
    database: Database, components: Iterable[object]
) -> Float32[np.ndarray, "n d"]:
    """Return unit concept vectors; a component without examples has none and is refused."""
    names = [str(component) for component in components]
    vectors = database.concept_vectors(database.rows_of(names))
    silent = [name for name, vector in zip(names, vectors, strict=True) if not vector.any()]
    if silent:
        raise ConceptError(
            f"The component '{silent[0]}' has no examples, and so no vector.",
            "Expected one that reacts to some image.",
            "Choose another one.",
        )
    return unit(vectors)


def image_name(image: ImageLike) -> str:
    """Return what a query calls an image."""
    return Path(image).name if isinstance(image, str | Path) else "image"
