"""Search: queries, and the components that are closest to one (paper, 3.3 and 4.1.1).

A query is made of texts, images and components to look for, and of others to keep away from.
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
from rich.console import RenderableType

from semlens.analysis.query_embedding import (
    SEARCH_TEMPLATES,
    ImageLike,
    QueryEmbedding,
    embed_texts,
    null_vector,
    open_image,
    unit,
)
from semlens.analysis.result import PICTURES, TABLES, Result
from semlens.draw.example_sheet import sheet
from semlens.draw.html import cards_html
from semlens.draw.text_table import rich_table
from semlens.errors import ConceptError
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Component, Components, Layers, as_components, as_list


@dataclass(frozen=True, eq=False)
class Query:
    """What is searched for."""

    text: str
    """The query as people write it: ``dog + photo.png - grass``."""
    probe: QueryEmbedding
    """One vector."""
    negative: QueryEmbedding | None = None
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
    probe = embed_query(database, as_list(texts), as_list(images), as_components(like), templates)
    if probe is None:
        raise ConceptError(
            "The query is empty.",
            "Expected a text, an image or a component.",
            "Say what to look for.",
        )
    away = as_list(without), as_list(without_images), as_components(unlike)
    negative = embed_query(database, *away, templates)
    text = " + ".join(probe.names) + "".join(
        f" - {n}" for n in (negative.names if negative else ())
    )
    return Query(
        text,
        probe.joined(" + ".join(probe.names)),
        negative and negative.joined(" + ".join(negative.names)),
        tuple(database.rows_of([*as_components(like), *away[2]])),
    )


def embed_query(
    database: Database,
    texts: Sequence[str] = (),
    images: Sequence[ImageLike] = (),
    components: Components = (),
    templates: Sequence[str] = SEARCH_TEMPLATES,
) -> QueryEmbedding | None:
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
    pictures = [Path(i).name if isinstance(i, str | Path) else "image" for i in images]
    names = (*texts, *pictures, *map(str, components))
    return QueryEmbedding(
        np.concatenate(vectors), names, null, database.manifest.embedder.fingerprint
    )


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


@dataclass(frozen=True)
class Hit:
    """One component that was found."""

    rank: int
    component: Component
    alignment: float
    """Similarity with the probe less similarity with the null, less that of negative terms."""
    cosine: float
    """Similarity with the probe (Eq. 3)."""
    row: int
    """Row in ``components.parquet``."""
    percentile: float
    """Share of the searched components with a lower alignment, in [0, 1]."""


@dataclass(frozen=True, repr=False)
class Hits(Result):
    """The components closest to a query, best first."""

    ends = (*PICTURES, *TABLES)

    query: str
    hits: tuple[Hit, ...]
    searched: int
    """How many components were ranked."""
    database: Database

    def __len__(self) -> int:
        """Return the number of hits."""
        return len(self.hits)

    def __getitem__(self, place: int) -> Hit:
        """Return a hit; 0 is the best."""
        return self.hits[place]

    @property
    def components(self) -> list[Component]:
        """The components, best first."""
        return [hit.component for hit in self.hits]

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per hit."""
        frame = pd.DataFrame([vars(hit) for hit in self.hits], columns=list(Hit.__annotations__))
        for place, name in enumerate(("layer", "index", "sign"), start=2):
            frame.insert(place, name, [getattr(c, name) for c in self.components])
        return frame.assign(component=[str(c) for c in self.components])

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "query": self.query,
            "searched": self.searched,
            "hits": self.to_pandas().to_dict("records"),
        }

    def plot(self, columns: int = 10) -> Image.Image:
        """Draw the hits' examples, a row each."""
        captions = [f"alignment {hit.alignment:.3f}" for hit in self.hits]
        return sheet(self.database, [hit.row for hit in self.hits], columns, captions)

    def __rich__(self) -> RenderableType:
        """Return the table."""
        title = f"'{self.query}' among {self.searched} components"
        return rich_table(self.to_pandas(), title, ["rank", "component", "alignment", "cosine"])

    def _repr_html_(self) -> str:
        """Return the hits with their examples for notebooks."""
        return cards_html(
            self.database,
            f"'{self.query}' among {self.searched} components",
            [(hit.row, f"rank {hit.rank}, alignment {hit.alignment:.3f}") for hit in self.hits],
        )


@question("embedder")
def search(
    database: Database,
    *texts: str,
    images: ImageLike | Sequence[ImageLike] = (),
    like: Components = (),
    without: Annotated[
        str | Sequence[str], setting("A text to stay away from; may be given again.")
    ] = (),
    without_images: ImageLike | Sequence[ImageLike] = (),
    unlike: Components = (),
    top: Annotated[int, setting("How many components.", ge=0)] = 10,
    offset: Annotated[int, setting("How many better ones are passed over.", ge=0)] = 0,
    layers: Layers = None,
    templates: Sequence[str] = SEARCH_TEMPLATES,
) -> Hits:
    """Rank components by their alignment with texts, images, other components or a mixture.

    Parameters
    ----------
    texts, images, like
        What to look for, in any combination; several are averaged. Components that are given
        are not found themselves.
    without, without_images, unlike
        Negative terms: their alignment is subtracted.
    top, offset
        How many hits, and how many better ones are passed over.
    layers
        Layers to search; all by default.

    Raises
    ------
    ConceptError
        If there is nothing to look for.
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
    """Rank components by a query; components without examples are left out."""
    rows = database.rows(layers)
    rows = np.sort(rows[database.has_examples[rows]])
    if query.leave_out:
        rows = rows[~np.isin(rows, np.asarray(query.leave_out))]
    score, similarity = _aligned(database, query, rows)
    better = _first(score, offset + top)
    # equal ones are all of them among the first, so that what is left is really lower
    lower = len(rows) - np.searchsorted(-score[better], -score[better], "right")
    hits = tuple(
        Hit(
            rank,
            database.component(int(rows[i])),
            float(score[i]),
            float(similarity[i]),
            int(rows[i]),
            float(lower[rank - 1] / len(rows)),
        )
        for rank, i in enumerate(better[: offset + top], start=1)
        if rank > offset
    )
    return Hits(query.text, hits, len(rows), database)


def alignments(database: Database, query: Query) -> Float32[np.ndarray, " n"]:
    """Return the alignment of every component with a query, in row order.

    NaN for components without examples.
    """
    found = np.full(database.manifest.rows, np.nan, np.float32)
    rows = np.flatnonzero(database.has_examples)
    found[rows] = _aligned(database, query, rows)[0]
    return found


def _aligned(
    database: Database, query: Query, rows: Int64[np.ndarray, " n"]
) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Return alignments, less those of the negative probe, and cosines with the probe (Eq. 4)."""
    terms: list[tuple[np.ndarray, float]] = []
    for term, sign in ((query.probe, 1.0), (query.negative, -1.0)):
        if term is not None:
            terms.append((term.vectors[0], sign))
            if term.null is not None:
                terms.append((term.null, -sign))
    vectors, weights = zip(*terms, strict=True)
    similarity = database.cosines(np.stack(vectors), rows)
    return similarity @ np.array(weights, np.float32), similarity[:, 0]


def _first(score: Float32[np.ndarray, " n"], count: int) -> Int64[np.ndarray, " k"]:
    """Return the places of the ``count`` largest and of all that equal the last of them.

    The largest first, and of equal ones the first.
    """
    places = np.arange(len(score))
    if 0 < count < len(score):
        least = -np.partition(-score, count - 1)[count - 1]
        places = np.flatnonzero(score >= least)
    return places[np.argsort(-score[places], kind="stable")] if count > 0 else places[:0]
