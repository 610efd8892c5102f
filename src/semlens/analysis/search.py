"""Search: rank components by their alignment with a query (paper, 3.3 and 4.1.1).

A query combines texts, images and components, and optionally negative terms of the same kinds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64
from PIL import Image
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.analysis.noise import search_thresholds
from semlens.analysis.query_embedding import (
    SEARCH_TEMPLATES,
    ImageLike,
    QueryEmbedding,
    directions,
    embed_images,
    embed_texts,
    null_vector,
    unit,
)
from semlens.analysis.result import IMAGE_SUFFIXES, TABLE_SUFFIXES, Result
from semlens.draw.example_sheet import sheet
from semlens.draw.html import cards_html
from semlens.draw.text_table import rich_table
from semlens.errors import ConceptError
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Component, Components, Layers, as_components, as_list


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
        If there are no positive terms, or a component has no examples.
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
    text = " + ".join(positive.names) + "".join(
        f" - {n}" for n in (negative.names if negative else ())
    )
    return Query(
        text,
        positive.pooled(" + ".join(positive.names)),
        negative and negative.pooled(" + ".join(negative.names)),
        tuple(database.rows_of([*as_components(like), *as_components(unlike)])),
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


@dataclass(frozen=True)
class Hit:
    """One component of a search result."""

    rank: int
    component: Component
    alignment: float
    """Similarity with the query minus that with the null vector, minus that of negative terms."""
    cosine: float
    """Similarity with the positive terms (Eq. 3)."""
    row: int
    """Row in ``components.parquet``."""
    percentile: float
    """Share of the searched components with a lower alignment, in [0, 1]."""
    noise: float
    """Alignment that the best of as many components with random crops as examples exceeds with a
    probability of 5 %."""

    @property
    def above_noise(self) -> bool:
        """Whether the alignment is above noise."""
        return self.alignment > self.noise


@dataclass(frozen=True, repr=False)
class Hits(Result):
    """The components closest to a query, best first."""

    suffixes = (*IMAGE_SUFFIXES, *TABLE_SUFFIXES)

    query: str
    hits: tuple[Hit, ...]
    searched: int
    """Number of components that were ranked."""
    above_noise: int
    """Number of these that are above noise (:mod:`semlens.analysis.noise`)."""
    database: Database

    def __len__(self) -> int:
        """Return the number of hits."""
        return len(self.hits)

    def __getitem__(self, index: int) -> Hit:
        """Return a hit; 0 is the best."""
        return self.hits[index]

    @property
    def components(self) -> list[Component]:
        """The components, best first."""
        return [hit.component for hit in self.hits]

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per hit."""
        frame = pd.DataFrame([vars(hit) for hit in self.hits], columns=list(Hit.__annotations__))
        for position, name in enumerate(("layer", "index", "sign"), start=2):
            frame.insert(position, name, [getattr(c, name) for c in self.components])
        return frame.assign(
            component=[str(c) for c in self.components],
            above_noise=[hit.above_noise for hit in self.hits],
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "query": self.query,
            "searched": self.searched,
            "above_noise": self.above_noise,
            "hits": self.to_pandas().to_dict("records"),
        }

    def plot(self, columns: int = 10) -> Image.Image:
        """Draw the examples of each hit, one row per hit."""
        captions = [_caption(hit) for hit in self.hits]
        return sheet(self.database, [hit.row for hit in self.hits], columns, captions)

    def __rich__(self) -> RenderableType:
        """Return the table for the terminal."""
        title = f"'{self.query}' among {self.searched} components"
        columns = ["rank", "component", "alignment", "noise", "cosine"]
        return Group(rich_table(self.to_pandas(), title, columns), Text(self.summary()))

    def summary(self) -> str:
        """Return in a sentence how many components are above noise."""
        verb = "is" if self.above_noise == 1 else "are"
        return f"{self.above_noise or 'None'} of {self.searched} components {verb} above noise."

    def _repr_html_(self) -> str:
        """Return the hits with their examples as HTML for notebooks."""
        return cards_html(
            self.database,
            f"'{self.query}' among {self.searched} components",
            [(hit.row, f"rank {hit.rank}, {_caption(hit)}") for hit in self.hits],
        )


def _caption(hit: Hit) -> str:
    return f"alignment {hit.alignment:.3f}" + ("" if hit.above_noise else ", not above noise")


@question("embedder")
def search(
    database: Database,
    *texts: str,
    images: ImageLike | Sequence[ImageLike] = (),
    like: Components = (),
    without: Annotated[
        str | Sequence[str], setting("Text whose alignment is subtracted. Can be repeated.")
    ] = (),
    without_images: ImageLike | Sequence[ImageLike] = (),
    unlike: Components = (),
    top: Annotated[int, setting("Number of components.", ge=0)] = 10,
    offset: Annotated[int, setting("Number of best components to skip.", ge=0)] = 0,
    layers: Layers = None,
    templates: Sequence[str] = SEARCH_TEMPLATES,
) -> Hits:
    """Rank components by their alignment with texts, images and other components.

    Each hit says whether it is above noise, see :mod:`semlens.analysis.noise`.

    Parameters
    ----------
    texts, images, like
        What to search for, in any combination; several terms are averaged. A folder of images
        is one term, their mean. Components of the query are not part of the result.
    without, without_images, unlike
        Negative terms: their alignment is subtracted. Images with a defect minus the same
        images without it are a query for the defect.
    top, offset
        Number of hits, and number of best components to skip.
    layers
        Layers to search; all by default.

    Raises
    ------
    ConceptError
        If the query is empty.
    EmbedderError
        If there is a text and the embedder has no text tower.
    """
    query = make_query(
        database, texts, images, like,
        without=without, without_images=without_images, unlike=unlike, templates=templates,
    )  # fmt: skip
    return rank(database, query, top=top, offset=offset, layers=layers)


def rank(
    database: Database, query: Query, *, top: int = 10, offset: int = 0, layers: Layers = None
) -> Hits:
    """Rank components by a query; components without examples are excluded."""
    rows = database.rows(layers)
    rows = np.sort(rows[database.has_examples[rows]])
    if query.excluded_rows:
        rows = rows[~np.isin(rows, np.asarray(query.excluded_rows))]
    score, similarity = _query_alignment(database, query, rows)
    noise = search_thresholds(database, rows, _direction(query))
    best = _top_with_ties(score, offset + top)
    # ``best`` holds all ties with its last entry, so every other component has a lower score
    lower = len(rows) - np.searchsorted(-score[best], -score[best], "right")
    hits = tuple(
        Hit(
            rank,
            database.component(int(rows[i])),
            float(score[i]),
            float(similarity[i]),
            int(rows[i]),
            float(lower[rank - 1] / len(rows)),
            float(noise[i]),
        )
        for rank, i in enumerate(best[: offset + top], start=1)
        if rank > offset
    )
    above_noise = int(np.count_nonzero(score > noise))
    return Hits(query.text, hits, len(rows), above_noise, database)


def alignments(database: Database, query: Query) -> Float32[np.ndarray, " n"]:
    """Return the alignment of every component with a query, in row order.

    NaN for components without examples.
    """
    values = np.full(database.manifest.rows, np.nan, np.float32)
    rows = np.flatnonzero(database.has_examples)
    values[rows] = _query_alignment(database, query, rows)[0]
    return values


def _query_alignment(
    database: Database, query: Query, rows: Int64[np.ndarray, " n"]
) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Return alignments (Eq. 4) minus those of the negative terms, and cosines (Eq. 3)."""
    probes = np.stack([_direction(query), unit(query.positive.vectors)[0]])
    similarity = database.products(probes, rows)
    return similarity[:, 0], similarity[:, 1]


def _direction(query: Query) -> Float32[np.ndarray, " d"]:
    """Return the vector whose inner product with a unit vector is its alignment."""
    direction = directions(query.positive)[0]
    return direction if query.negative is None else direction - directions(query.negative)[0]


def _top_with_ties(score: Float32[np.ndarray, " n"], count: int) -> Int64[np.ndarray, " k"]:
    """Return the indices of the ``count`` largest scores and of all ties with the last of them.

    In descending order; ties keep their original order.
    """
    indices = np.arange(len(score))
    if 0 < count < len(score):
        least = -np.partition(-score, count - 1)[count - 1]
        indices = np.flatnonzero(score >= least)
    return indices[np.argsort(-score[indices], kind="stable")] if count > 0 else indices[:0]
