"""The component table, as a page and as a file, and the labels in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pandas as pd
from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from semlens.analysis.describe.table import Choice, component_table
from semlens.analysis.kept_labels import kept_labels, label_tables
from semlens.analysis.result import plain
from semlens.analysis.scores import MEASURES
from semlens.analysis.target import class_name
from semlens.web.download import csv, named_file
from semlens.web.routes.overview import rated
from semlens.web.routes.place import MaybeClass, layer_names
from semlens.web.served import All, Model, Served, Serving
from semlens.web.work import StillWorking

router = APIRouter(prefix="/models/{m}", tags=["components"])
_CHUNK = 5000


class ComponentRow(BaseModel):
    """One component; null is what is not known of it."""

    row: int
    layer: int
    index: int
    name: str
    label: str | None
    label_alignment: float | None
    """Of the component with its label, or with the best one that it did not get."""
    examples: int
    firing_rate: float | None
    """Share of the samples on which it is above zero."""
    maximum: float | None
    """Largest readout of all samples."""
    clarity: float | None
    redundancy: float | None
    polysemanticity: float | None
    relevance_mean: float | None
    """Share of its layer's relevance for the class, on average over its samples."""
    relevance_max: float | None


class Rating(BaseModel):
    """The measures are still being computed: this table is without them."""

    done: int
    total: int
    seconds: float


class ComponentPage(BaseModel):
    """Some components in the order that was asked for."""

    components: int
    """How many components there are."""
    total: int
    """How many of them are chosen."""
    cursor: int | None
    """Where the next page starts, or null at the end."""
    labels: str | None
    """Name of the kept labels that are shown."""
    relevance: str | None
    """Name of the class whose relevance is shown."""
    rating: Rating | None
    rows: list[ComponentRow]


class Asked:
    """What is asked of the table, from the query of the address."""

    def __init__(
        self,
        sort: str = "row",
        descending: bool = False,
        layer: Annotated[list[int] | None, Query()] = None,
        text: Annotated[str, Query(max_length=200)] = "",
        target: MaybeClass = None,
        measure: str | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        self.layers = layer
        self.target = target
        self.settings: dict[str, Any] = {
            "sort": sort,
            "descending": descending,
            "text": text,
            "measure": measure,
            "low": -np.inf if low is None else low,
            "high": np.inf if high is None else high,
        }

    @property
    def needs_measures(self) -> bool:
        """Whether there is no answer without them."""
        return self.settings["sort"] in MEASURES or self.settings["measure"] is not None

    def choice(self, served: Served) -> Choice:
        """Return what is asked for, with the names of the layers.

        Raises
        ------
        LayerError
            If there is no such layer.
        """
        return Choice(layers=layer_names(served, self.layers or ()), **self.settings)


Question = Annotated[Asked, Depends()]


def _table(
    served: Served, serving: Serving, asked: Asked
) -> tuple[pd.DataFrame, str | None, Rating | None]:
    """Return the table of all components, the name of its labels, and whether it lacks measures."""
    scores, rating = None, None
    try:
        scores = rated(served, serving)
    except StillWorking as work:
        if asked.needs_measures:
            raise
        rating = Rating(done=work.done, total=work.total, seconds=work.seconds)
    tables = label_tables(served.db)
    newest = tables[0] if tables else None
    key = f"table {served.number} {asked.target} {newest} {scores is not None}"

    def make(_: object) -> pd.DataFrame:
        labels = kept_labels(served.db, newest.name) if newest else None
        frame = None if scores is None else scores.frame
        return component_table(served.db, frame, labels, asked.target)

    frame = serving.work.result(key, "making the table", make, short=True, large=True)
    return frame, newest.name if newest else None, rating


@router.get("/components")
def components(
    served: Model,
    serving: All,
    asked: Question,
    cursor: Annotated[int, Query(ge=0)] = 0,
    k: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ComponentPage:
    """Return one page of the component table; ``cursor`` is the place of its first row."""
    choice = asked.choice(served)
    frame, labels, rating = _table(served, serving, asked)
    rows = choice.of(frame)
    page = frame.iloc[rows[cursor : cursor + k]]
    numbers = {name: number for number, name in enumerate(served.db.layers)}
    page = page.assign(layer=page["layer"].map(numbers))
    return ComponentPage(
        components=len(frame),
        total=len(rows),
        cursor=cursor + k if cursor + k < len(rows) else None,
        labels=labels,
        relevance=None if asked.target is None else class_name(served.db, asked.target),
        rating=rating,
        rows=[ComponentRow(**record) for record in plain(page.to_dict("records"))],
    )


@router.get("/components.csv", response_class=StreamingResponse)
def components_csv(served: Model, serving: All, asked: Question) -> StreamingResponse:
    """Return the same table as a file, with all rows; it waits for the measures."""
    choice = asked.choice(served)
    rated(served, serving)
    frame, _, _ = _table(served, serving, asked)
    rows = choice.of(frame)

    def lines() -> Iterator[str]:
        for start in range(0, max(len(rows), 1), _CHUNK):
            yield csv(frame.iloc[rows[start : start + _CHUNK]], header=start == 0)

    headers = named_file(f"{served.db.path.name.removesuffix('.semlens')}-components.csv")
    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8", headers=headers)
