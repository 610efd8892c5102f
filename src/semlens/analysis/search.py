"""Search: the components that are closest to a probe (paper, 3.3 and 4.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64
from PIL import Image

from semlens.analysis.probe import SEARCH_TEMPLATES, ImageLike, Probe
from semlens.analysis.query import Query, Terms, make_query
from semlens.draw.html import cards_html
from semlens.draw.sheet import sheet
from semlens.embedders.base import Embedder
from semlens.store.files import save_csv
from semlens.store.reader import Database
from semlens.types import Component


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


@dataclass(frozen=True)
class Hits:
    """The components closest to a probe, best first."""

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
        return pd.DataFrame(
            [
                {
                    "rank": hit.rank,
                    "layer": hit.component.layer,
                    "index": hit.component.index,
                    "sign": hit.component.sign,
                    "alignment": hit.alignment,
                    "cosine": hit.cosine,
                    "percentile": hit.percentile,
                    "row": hit.row,
                }
                for hit in self.hits
            ],
            columns=[
                "rank",
                "layer",
                "index",
                "sign",
                "alignment",
                "cosine",
                "percentile",
                "row",
            ],
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "query": self.query,
            "searched": self.searched,
            "hits": [
                {**record, "component": str(hit.component)}
                for record, hit in zip(self.to_pandas().to_dict("records"), self.hits, strict=True)
            ],
        }

    def save(self, path: str | Path) -> None:
        """Write the table as CSV."""
        save_csv(Path(path), self.to_pandas())

    def picture(self, columns: int = 10) -> Image.Image:
        """Draw the hits' examples, a row each."""
        captions = [f"alignment {hit.alignment:.3f}" for hit in self.hits]
        return sheet(self.database, [hit.row for hit in self.hits], columns, captions)

    def _repr_html_(self) -> str:
        """Return the hits with their examples for notebooks."""
        return cards_html(
            self.database,
            f"'{self.query}' among {self.searched} components",
            [(hit.row, f"rank {hit.rank}, alignment {hit.alignment:.3f}") for hit in self.hits],
        )

    def __repr__(self) -> str:
        """Return the table as text."""
        head = f"Hits for '{self.query}' among {self.searched} components\n"
        return head + self.to_pandas().drop(columns="row").to_string(index=False)


def search(
    database: Database,
    embedder: Embedder | None,
    texts: Sequence[str] = (),
    images: Sequence[ImageLike] = (),
    *,
    like: Sequence[int] = (),
    without: Sequence[str] = (),
    without_images: Sequence[ImageLike] = (),
    unlike: Sequence[int] = (),
    top: int = 10,
    offset: int = 0,
    layers: Sequence[str] | None = None,
    templates: Sequence[str] = SEARCH_TEMPLATES,
) -> Hits:
    """Rank components by their alignment with a probe.

    Parameters
    ----------
    embedder
        None for the database's own, which is loaded if a text or an image has to be embedded.
    texts, images, like
        What to look for; several are averaged to one probe, mixed as liked. ``like`` are rows
        of components, which are not found themselves.
    without, without_images, unlike
        Negative terms: their alignment is subtracted.
    top, offset
        How many hits, and how many better ones are passed over.
    layers
        Layers to search; all by default.

    Raises
    ------
    StaleError
        If the embedder is not the one of the database.
    EmbedderError
        If there is a text and the embedder has no text tower.
    """
    query = make_query(
        database,
        Terms(texts, images, like),
        Terms(without, without_images, unlike),
        embedder=embedder,
        templates=templates,
    )
    return search_query(database, query, top=top, offset=offset, layers=layers)


def search_query(
    database: Database,
    query: Query,
    *,
    top: int = 10,
    offset: int = 0,
    layers: Sequence[str] | None = None,
) -> Hits:
    """Rank components by a query; see :func:`search_probe`."""
    return search_probe(
        database,
        query.probe,
        query.negative,
        top=top,
        offset=offset,
        layers=layers,
        leave_out=query.leave_out,
        query=query.text,
    )


def search_probe(
    database: Database,
    probe: Probe,
    negative: Probe | None = None,
    *,
    top: int = 10,
    offset: int = 0,
    layers: Sequence[str] | None = None,
    leave_out: Sequence[int] = (),
    query: str = "",
) -> Hits:
    """Rank components by a probe of one vector; components without examples are left out.

    Parameters
    ----------
    top, offset
        How many hits, and how many better ones are passed over.
    leave_out
        Rows that are not searched.
    """
    rows = database.rows(layers)
    rows = np.sort(rows[database.alive[rows]])
    if leave_out:
        rows = rows[~np.isin(rows, np.asarray(leave_out))]
    score, similarity = _aligned(database, probe, negative, rows)
    offset, top = max(offset, 0), max(top, 0)
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
    return Hits(query or probe.names[0], hits, len(rows), database)


def alignments(
    database: Database, probe: Probe, negative: Probe | None = None
) -> Float32[np.ndarray, " n"]:
    """Return the alignment of every component with a probe of one vector, in row order.

    NaN for components without examples.
    """
    found = np.full(database.manifest.rows, np.nan, np.float32)
    rows = np.flatnonzero(database.alive)
    found[rows] = _aligned(database, probe, negative, rows)[0]
    return found


def _aligned(
    database: Database, probe: Probe, negative: Probe | None, rows: Int64[np.ndarray, " n"]
) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Return alignments, less those of the negative probe, and cosines with the probe (Eq. 4)."""
    vectors: list[np.ndarray] = []
    weights: list[float] = []
    for term, sign in ((probe, 1.0), (negative, -1.0)):
        if term is not None:
            vectors.append(term.vectors[:1])
            weights.append(sign)
            if term.null is not None:
                vectors.append(term.null[None])
                weights.append(-sign)
    similarity = database.cosines(np.concatenate(vectors), rows)
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
