"""Search: the components that are closest to a probe (paper, 3.3 and 4.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32
from PIL import Image

from semlens.analysis.align import alignment, cosine
from semlens.analysis.probe import SEARCH_TEMPLATES, ImageLike, Probe, make_probe
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
                    "row": hit.row,
                }
                for hit in self.hits
            ],
            columns=["rank", "layer", "index", "sign", "alignment", "cosine", "row"],
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
    embedder: Embedder,
    texts: Sequence[str] = (),
    images: Sequence[ImageLike] = (),
    *,
    without: Sequence[str] = (),
    without_images: Sequence[ImageLike] = (),
    top: int = 10,
    layers: Sequence[str] | None = None,
    templates: Sequence[str] = SEARCH_TEMPLATES,
) -> Hits:
    """Rank components by their alignment with a probe.

    Parameters
    ----------
    texts, images
        What to look for; several are averaged to one probe, mixed as liked.
    without, without_images
        Negative terms: their alignment is subtracted.
    layers
        Layers to search; all by default.

    Raises
    ------
    StaleError
        If the embedder is not the one of the database.
    EmbedderError
        If there is a text and the embedder has no text tower.
    """
    database.check_embedder(embedder)
    query = " + ".join([*texts, *(_label(image) for image in images)])
    probe = make_probe(embedder, texts, images, templates).joined(query)
    negative = None
    if without or without_images:
        names = [*without, *(_label(image) for image in without_images)]
        query += "".join(f" - {name}" for name in names)
        negative = make_probe(embedder, without, without_images, templates).joined(query)
    return search_probe(database, probe, negative, top=top, layers=layers, query=query)


def search_probe(
    database: Database,
    probe: Probe,
    negative: Probe | None = None,
    *,
    top: int = 10,
    layers: Sequence[str] | None = None,
    query: str = "",
) -> Hits:
    """Rank components by a probe of one vector; components without examples are left out."""
    rows = database.rows(layers)
    rows = rows[database.alive[rows]]
    theta = database.theta if len(rows) == len(database.theta) else database.theta[rows]
    score: Float32[np.ndarray, " n"] = alignment(theta, probe)[:, 0]
    if negative is not None:
        score = score - alignment(theta, negative)[:, 0]
    similarity = cosine(theta, probe.vectors)[:, 0]
    order = np.lexsort((rows, -score))[: max(top, 0)]
    hits = tuple(
        Hit(
            rank,
            database.component(int(rows[i])),
            float(score[i]),
            float(similarity[i]),
            int(rows[i]),
        )
        for rank, i in enumerate(order, start=1)
    )
    return Hits(query or probe.names[0], hits, len(rows), database)


def _label(image: ImageLike) -> str:
    return Path(image).name if isinstance(image, str | Path) else "image"
