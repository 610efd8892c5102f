"""Routes of the component table: pages of rows, and the table as CSV."""

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
from semlens.web.app_state import MAX_INT, AppState, Context, ModelContext, State, records
from semlens.web.jobs import JobPending, JobStatus
from semlens.web.responses import attachment, csv
from semlens.web.routes.overview import all_scores

router = APIRouter(prefix="/models/{m}", tags=["components"])
_CHUNK = 5000


class ComponentRow(BaseModel):
    """A row of the component table; unknown values are null."""

    row: int
    component: str
    layer: str
    label: str | None
    label_alignment: float | None
    """Alignment with the label, or with the best candidate if it is below the threshold."""
    examples: int
    firing_rate: float | None
    """Share of the samples on which the readout is above zero."""
    maximum: float | None
    """Largest readout over all samples."""
    clarity: float | None
    redundancy: float | None
    polysemanticity: float | None
    relevance_mean: float | None
    """Mean share of the layer's relevance for the class."""
    relevance_max: float | None


class ComponentPage(BaseModel):
    """A page of the component table."""

    components: int
    """Number of all components."""
    total: int
    """Number of components that match the filters."""
    cursor: int | None
    """Start of the next page; null on the last one."""
    labels: str | None
    """Name of the saved labels in the table."""
    relevance: str | None
    """Name of the class whose relevance is in the table."""
    pending_scores: JobStatus | None
    """Set while the measures are being computed: the table has none yet."""
    rows: list[ComponentRow]


class TableQuery(ComponentFilter):
    """Query parameters of the table."""

    layers: list[str] | None = Field(None, alias="layer")
    target: int | None = Field(None, alias="class", ge=0, le=MAX_INT)

    @property
    def needs_measures(self) -> bool:
        """Whether the query sorts or filters by a measure."""
        return self.sort in MEASURES or self.measure is not None


class PageQuery(TableQuery):
    """Query parameters of a page of the table."""

    cursor: Annotated[int, Field(ge=0)] = 0
    k: Annotated[int, Field(ge=1, le=1000)] = 100


def _table(
    context: ModelContext, state: AppState, query: TableQuery
) -> tuple[pd.DataFrame, str | None, JobStatus | None]:
    """Return the table of all components, the name of its labels, and the pending measures."""
    scores, pending = None, None
    try:
        scores = all_scores(context, state)
    except JobPending as job:
        if query.needs_measures:
            raise
        pending = job.status
    tables = label_tables(context.db)
    newest = tables[0] if tables else None
    key = f"table {context.number} {query.target} {newest} {scores is not None}"

    def compute() -> pd.DataFrame:
        labels = saved_labels(context.db, newest.name) if newest else None
        frame = None if scores is None else scores.frame
        return component_table(context.db, frame, labels, query.target)

    frame = state.jobs.result(key, "Computing the table", compute, short=True, large=True)
    return frame, newest.name if newest else None, pending


@router.get("/components")
def components(
    context: Context, state: State, query: Annotated[PageQuery, Query()]
) -> ComponentPage:
    """Return a page of the component table; ``cursor`` is the position of its first row."""
    context.db.layer_names(query.layers)
    frame, labels, pending = _table(context, state, query)
    rows = query.select(frame)
    end = query.cursor + query.k
    return ComponentPage(
        components=len(frame),
        total=len(rows),
        cursor=end if end < len(rows) else None,
        labels=labels,
        relevance=None if query.target is None else class_name(context.db, query.target),
        pending_scores=pending,
        rows=records(ComponentRow, frame.iloc[rows[query.cursor : end]]),
    )


@router.get("/components.csv", response_class=StreamingResponse)
def components_csv(
    context: Context, state: State, query: Annotated[TableQuery, Query()]
) -> StreamingResponse:
    """Return all rows of the table as CSV; waits for the measures."""
    context.db.layer_names(query.layers)
    all_scores(context, state)
    frame, _, _ = _table(context, state, query)
    rows = query.select(frame)

    def lines() -> Iterator[str]:
        for start in range(0, max(len(rows), 1), _CHUNK):
            yield csv(frame.iloc[rows[start : start + _CHUNK]], header=start == 0)

    headers = attachment(f"{context.db.path.name.removesuffix('.semlens')}-components.csv")
    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8", headers=headers)
