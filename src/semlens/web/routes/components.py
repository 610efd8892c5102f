"""The component table, as a page and as a file, and the labels in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import pandas as pd
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from semlens.analysis.classes import class_name
from semlens.analysis.describe.component_table import ComponentFilter, component_table
from semlens.analysis.saved_labels import label_tables, saved_labels
from semlens.analysis.scores import MEASURES
from semlens.web.app_state import LARGEST, All, AppState, Model, ModelContext, records
from semlens.web.jobs import JobPending, JobStatus
from semlens.web.responses import csv, named_file
from semlens.web.routes.overview import rated

router = APIRouter(prefix="/models/{m}", tags=["components"])
_CHUNK = 5000


class ComponentRow(BaseModel):
    """One component; null is what is not known of it."""

    row: int
    component: str
    layer: str
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
    rating: JobStatus | None
    """The measures are still being computed: this table is without them."""
    rows: list[ComponentRow]


class TableQuery(ComponentFilter):
    """What is asked of the table, from the query of the address."""

    layers: list[str] | None = Field(None, alias="layer")
    target: int | None = Field(None, alias="class", ge=0, le=LARGEST)

    @property
    def needs_measures(self) -> bool:
        """Whether there is no answer without them."""
        return self.sort in MEASURES or self.measure is not None


class PageQuery(TableQuery):
    """The same, and which of the rows."""

    cursor: Annotated[int, Field(ge=0)] = 0
    k: Annotated[int, Field(ge=1, le=1000)] = 100


def _table(
    served: ModelContext, serving: AppState, asked: TableQuery
) -> tuple[pd.DataFrame, str | None, JobStatus | None]:
    """Return the table of all components, the name of its labels, and whether it lacks measures."""
    scores, rating = None, None
    try:
        scores = rated(served, serving)
    except JobPending as work:
        if asked.needs_measures:
            raise
        rating = work.state
    tables = label_tables(served.db)
    newest = tables[0] if tables else None
    key = f"table {served.number} {asked.target} {newest} {scores is not None}"

    def make() -> pd.DataFrame:
        labels = saved_labels(served.db, newest.name) if newest else None
        frame = None if scores is None else scores.frame
        return component_table(served.db, frame, labels, asked.target)

    frame = serving.work.result(key, "making the table", make, short=True, large=True)
    return frame, newest.name if newest else None, rating


@router.get("/components")
def components(served: Model, serving: All, asked: Annotated[PageQuery, Query()]) -> ComponentPage:
    """Return one page of the component table; ``cursor`` is the place of its first row."""
    served.db.layer_names(asked.layers)
    frame, labels, rating = _table(served, serving, asked)
    rows = asked.select(frame)
    end = asked.cursor + asked.k
    return ComponentPage(
        components=len(frame),
        total=len(rows),
        cursor=end if end < len(rows) else None,
        labels=labels,
        relevance=None if asked.target is None else class_name(served.db, asked.target),
        rating=rating,
        rows=records(ComponentRow, frame.iloc[rows[asked.cursor : end]]),
    )


@router.get("/components.csv", response_class=StreamingResponse)
def components_csv(
    served: Model, serving: All, asked: Annotated[TableQuery, Query()]
) -> StreamingResponse:
    """Return the same table as a file, with all rows; it waits for the measures."""
    served.db.layer_names(asked.layers)
    rated(served, serving)
    frame, _, _ = _table(served, serving, asked)
    rows = asked.select(frame)

    def lines() -> Iterator[str]:
        for start in range(0, max(len(rows), 1), _CHUNK):
            yield csv(frame.iloc[rows[start : start + _CHUNK]], header=start == 0)

    headers = named_file(f"{served.db.path.name.removesuffix('.semlens')}-components.csv")
    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8", headers=headers)
