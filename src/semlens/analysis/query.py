"""Queries: texts, images and components to look for, and others to keep away from (paper, 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semlens.analysis.align import unit
from semlens.analysis.probe import SEARCH_TEMPLATES, ImageLike, Probe, make_probe
from semlens.embedders.base import Embedder
from semlens.errors import ConceptError
from semlens.store.reader import Database


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


@dataclass(frozen=True)
class Terms:
    """One side of a query: what is averaged to one vector."""

    texts: Sequence[str] = ()
    images: Sequence[ImageLike] = ()
    components: Sequence[int] = ()
    """Rows; each counts as its unit concept vector."""

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.texts or self.images or self.components)

    def names(self, database: Database) -> list[str]:
        """Return the terms as people write them."""
        components = [str(database.component(row)) for row in self.components]
        return [*self.texts, *(image_name(image) for image in self.images), *components]


def make_query(
    database: Database,
    terms: Terms,
    without: Terms | None = None,
    *,
    embedder: Embedder | None = None,
    templates: Sequence[str] = SEARCH_TEMPLATES,
) -> Query:
    """Turn both sides of a query into vectors.

    A side of components only needs no embedder and has no null vector: its alignment is the
    cosine.

    Parameters
    ----------
    embedder
        By default the database's own.

    Raises
    ------
    ConceptError
        If there is nothing to look for, or a component has no examples.
    EmbedderError
        If there is a text and the embedder has no text tower.
    LayerError
        If there is no component of a row.
    StaleError
        If the embedder is not the one of the database.
    """
    names = terms.names(database)
    positive = _probe(database, terms, embedder, templates).joined(" + ".join(names))
    without = without or Terms()
    away = without.names(database)
    text = " + ".join(names) + "".join(f" - {name}" for name in away)
    negative = None
    if without:
        negative = _probe(database, without, embedder, templates).joined(" + ".join(away))
    return Query(text, positive, negative, (*terms.components, *without.components))


def _probe(
    database: Database, terms: Terms, embedder: Embedder | None, templates: Sequence[str]
) -> Probe:
    known = database.manifest.embedder.fingerprint
    parts: list[Probe] = []
    if terms.texts or terms.images or not terms.components:
        embedder = embedder if embedder is not None else database.embedder
        database.check_embedder(embedder)
        parts.append(make_probe(embedder, terms.texts, terms.images, templates))
    if terms.components:
        parts.append(_components(database, terms.components))
    vectors = np.concatenate([part.vectors for part in parts])
    nulls = [part.null for part in parts if part.null is not None]
    return Probe(
        vectors,
        tuple(name for part in parts for name in part.names),
        nulls[0] if nulls else None,
        known,
    )


def _components(database: Database, rows: Sequence[int]) -> Probe:
    names = tuple(str(database.component(row)) for row in rows)
    vectors = database.concept_vectors(rows)
    silent = [name for name, vector in zip(names, vectors, strict=True) if not vector.any()]
    if silent:
        raise ConceptError(
            f"The component '{silent[0]}' has no examples, and so no vector.",
            "Expected one that reacts to some image.",
            "Choose another one.",
        )
    return Probe(unit(vectors), names, None, database.manifest.embedder.fingerprint)


def image_name(image: ImageLike) -> str:
    """Return what a query calls an image."""
    return Path(image).name if isinstance(image, str | Path) else "image"
