"""Search: rank components by their alignment with a query (paper, 3.3 and 4.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int64
from PIL import Image
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.data.pictures import ImageLike
from semlens.draw.example_sheet import Meter, sheet
from semlens.draw.html import cards_html
from semlens.draw.text_table import rich_table, text_bar
from semlens.lens import lens
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.labelling.component_labels import saved_names
from semlens.lenses.noise import cached_on_database
from semlens.lenses.query_embedding import (
    SEARCH_TEMPLATES,
    QueryEmbedding,
    directions,
    embed_texts,
    null_vector,
    unit,
)
from semlens.lenses.result import IMAGE_SUFFIXES, TABLE_SUFFIXES, Result
from semlens.lenses.search.made_up import made_up_thresholds
from semlens.lenses.search.noise import search_thresholds
from semlens.lenses.search.query import Query, make_query
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Component, Components, Layers

VOCABULARY, STEP = "paper-vocabulary", 10
"""The words that set the scale: every tenth of this set, from all of its categories."""
PICTURES = 1.0
"""A full bar for queries with images or components: the largest cosine."""
_STEPS = np.array([1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10])


def words_scale(database: Database) -> float:
    """Return the alignment of a full bar, for queries by words: it is kept in the database.

    It is the same for all queries, so that their bars compare: one that started at the best hit of
    its own query would be full for a query that nothing answers.

    The largest alignment of any component with any of 68 words, rounded up to a plain number.
    """

    def largest() -> float:
        words = [concept.name for concept in ConceptSet.load(VOCABULARY).concepts[::STEP]]

        def compute() -> pd.DataFrame:
            embedder = database.embedder
            vectors = embed_texts(embedder, words, SEARCH_TEMPLATES)
            null = null_vector(embedder, SEARCH_TEMPLATES)
            query = QueryEmbedding(vectors, tuple(words), null, embedder.fingerprint)
            rows = np.flatnonzero(database.has_examples)
            products = database.products(directions(query), rows)
            return pd.DataFrame({"largest": [float(products.max(initial=0))]})

        digests = [digest for name in database.layers for digest in database.digests(name)]
        key = [database.manifest.embedder.fingerprint, words, list(SEARCH_TEMPLATES), digests]
        return float(database.cached("search-scale", key, compute)["largest"].iloc[0])

    return plain_number(cached_on_database(database, ("search-scale",), largest))


def plain_number(value: float) -> float:
    """Round a positive number up to one or two digits: 1, 1.5, 2, 2.5, 3, 4, 5, 6 or 8 times 10^k.

    1 for numbers that are not positive.
    """
    if not value > 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    step = _STEPS[np.searchsorted(_STEPS, value / power * (1 - 1e-9))]
    return float(f"{step * power:.2g}")


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
    noise: float
    """Alignment that it must exceed to be above noise: of such hits, at most 5 % are expected to be
    components with random crops as examples, and at most 5 % of searches for made-up words have
    one."""
    label: str | None
    """From the newest saved labels, with a mark if it is unsure."""

    @property
    def above_noise(self) -> bool:
        """Whether the alignment is above noise."""
        return self.alignment > self.noise


@dataclass(frozen=True, repr=False)
class Hits(Result):
    """The components closest to a query: those above noise first, then by alignment."""

    suffixes = (*IMAGE_SUFFIXES, *TABLE_SUFFIXES)

    query: str
    hits: tuple[Hit, ...]
    searched: int
    """Number of components that were ranked."""
    above_noise: int
    """Number of these that are above noise (:mod:`semlens.lenses.search.noise` and, for words,
    :mod:`semlens.lenses.search.made_up`)."""
    scale: float
    """Alignment of a full bar, the same for all queries (:mod:`semlens.lenses.search.search`)."""
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
            "scale": self.scale,
            "hits": self.to_pandas().to_dict("records"),
        }

    def plot(self, columns: int = 10) -> Image.Image:
        """Draw the examples of each hit, one row per hit, with a bar and its noise."""
        return sheet(
            self.database,
            [hit.row for hit in self.hits],
            columns,
            [_caption(hit) for hit in self.hits],
            names=[hit.label for hit in self.hits],
            meters=[Meter(hit.alignment, hit.noise, self.scale) for hit in self.hits],
            title=f"{self.summary()} Closest anyway:" if not self.above_noise else "",
        )

    def __rich__(self) -> RenderableType:
        """Return the table for the terminal."""
        frame = self.to_pandas()
        scale = f"0 to {self.scale:g}, | noise"
        frame[scale] = [text_bar(hit.alignment, hit.noise, self.scale) for hit in self.hits]
        labelled = ["label"] if any(hit.label for hit in self.hits) else []
        columns = ["rank", *labelled, "component", "alignment", "noise", scale]
        searched = f"'{self.query}' among {self.searched} components"
        if self.above_noise or not self.hits:
            return Group(rich_table(frame, searched, columns), Text(self.summary()))
        return Group(
            Text(f"'{self.query}': {self.summary()}", style="bold"),
            Text(TRY),
            rich_table(frame, f"closest anyway, {searched}", columns, style="dim"),
        )

    def summary(self) -> str:
        """Return in a sentence how many components stand out from noise."""
        if not self.above_noise:
            return "No component stands out from noise."
        verb = "component stands" if self.above_noise == 1 else "components stand"
        return f"{self.above_noise} {verb} out from noise."

    def _html(self) -> str:
        """Return the hits with their examples as HTML for notebooks."""
        title = f"'{self.query}' among {self.searched} components. {self.summary()}"
        return cards_html(
            self.database,
            title,
            [(hit.row, _notebook_caption(hit)) for hit in self.hits],
        )


TRY = "Try another word, or show what you mean as an image; the examples may still be right."
"""What to do if no hit is above noise."""


def _caption(hit: Hit) -> str:
    return f"alignment {hit.alignment:.3f}" + ("" if hit.above_noise else ", not above noise")


def _notebook_caption(hit: Hit) -> str:
    return ", ".join(filter(None, [f"rank {hit.rank}", hit.label, _caption(hit)]))


@lens("embedder", group="Search", command="")
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

    Those above noise come first (:mod:`semlens.lenses.search.noise` and, for words,
    :mod:`semlens.lenses.search.made_up`), then the others, each by alignment.

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
    database: Database,
    query: Query,
    *,
    top: int = 10,
    offset: int = 0,
    layers: Layers = None,
    compare: bool = True,
) -> Hits:
    """Rank components by a query; components without examples are excluded.

    Parameters
    ----------
    compare
        Whether to compare with noise, which is measured on first use. Without, components are
        ranked by alignment alone, none is above noise, and ``noise`` and ``scale`` are NaN.
    """
    rows = _searched(database, layers)
    if query.excluded_rows:
        rows = rows[~np.isin(rows, np.asarray(query.excluded_rows))]
    score = _query_alignment(database, query, rows)
    noise = np.full(len(rows), np.nan, np.float32)
    if compare:
        noise = np.maximum(
            search_thresholds(database, rows, query.direction, score),
            made_up_thresholds(database, rows, query, score),
        )
    above = score > noise
    best = _best(score, above, offset + top)[max(offset, 0) :]
    similarity = _cosines(database, query, rows[best])
    names = saved_names(database)
    labels = [None] * len(best) if names is None else names.shown_labels(rows[best].tolist())
    hits = tuple(
        Hit(
            rank,
            database.component(int(rows[i])),
            float(score[i]),
            cosine,
            int(rows[i]),
            float(noise[i]),
            label,
        )
        for rank, (i, cosine, label) in enumerate(
            zip(best, similarity, labels, strict=True), start=offset + 1
        )
    )
    scale = PICTURES if not query.by_words else words_scale(database) if compare else np.nan
    return Hits(query.text, hits, len(rows), int(above.sum()), scale, database)


def _searched(database: Database, layers: Layers) -> Int64[np.ndarray, " n"]:
    """Return the components with examples in ascending order; those of all layers are kept."""

    def find() -> Int64[np.ndarray, " n"]:
        rows = database.rows(layers)
        return np.sort(rows[database.has_examples[rows]])

    return cached_on_database(database, ("searched",), find) if layers is None else find()


def alignments(database: Database, query: Query) -> Float32[np.ndarray, " n"]:
    """Return the alignment of every component with a query, in row order.

    NaN for components without examples.
    """
    values = np.full(database.manifest.rows, np.nan, np.float32)
    rows = np.flatnonzero(database.has_examples)
    values[rows] = _query_alignment(database, query, rows)
    return values


def _query_alignment(
    database: Database, query: Query, rows: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, " n"]:
    """Return alignments (Eq. 4) minus those of the negative terms."""
    return database.products(query.direction[None], rows)[:, 0]


def _cosines(database: Database, query: Query, rows: Int64[np.ndarray, " k"]) -> list[float]:
    """Return the cosines of a few components with the positive terms (Eq. 3).

    Row by row: a matrix product rounds differently with each number of rows.
    """
    vectors = unit(database.concept_vectors(rows.tolist()))
    return (vectors * unit(query.positive.vectors)[0]).sum(1).tolist()


def _best(
    score: Float32[np.ndarray, " n"], above: Bool[np.ndarray, " n"], count: int
) -> Int64[np.ndarray, " k"]:
    """Return the indices of the ``count`` best scores, those above noise first; ties in order."""
    indices = np.arange(len(score))
    if 0 < count < len(score):  # sorting all would take longer
        least = -np.partition(-score, count - 1)[count - 1]
        indices = np.flatnonzero(above | (score >= least))
    order = np.lexsort((-score[indices], ~above[indices]))
    return indices[order][: max(count, 0)]
