"""Routes of the component table: pages of rows, and the table as CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, TypeVar

import pandas as pd
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from semlens.lenses.classes import class_name
from semlens.lenses.describe.component_table import ComponentFilter, component_table
from semlens.lenses.labelling.component_labels import PREFIX
from semlens.lenses.scores import MEASURES
from semlens.web.app_state import MAX_INT, AppState, Context, ModelContext, State, records
from semlens.web.jobs import JobPending, JobStatus
from semlens.web.label_sources import component_names
from semlens.web.responses import attachment, csv
from semlens.web.routes.overview import all_scores

router = APIRouter(prefix="/models/{m}", tags=["components"])
_CHUNK = 5000
T = TypeVar("T")


class ListedComponent(BaseModel):
    """A row of the component table; unknown values are null."""

    row: int
    component: str
    layer: str
    label: str | None
    confidence: float | None
    """Probability that the label is right; null if unknown."""
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
    """Source of the labels in the table; null while there are none."""
    relevance: str | None
    """Name of the class whose relevance is in the table."""
    pending_scores: JobStatus | None
    """Set while the measures are being computed: the table has none yet."""
    pending_labels: JobStatus | None
    """Set while the components are being labelled."""
    rows: list[ListedComponent]


class TableQuery(ComponentFilter):
    """Query parameters of the table."""

    layers: list[str] | None = Field(None, alias="layer")
    target: int | None = Field(None, alias="class", ge=0, le=MAX_INT)

    @property
    def needs_measures(self) -> bool:
        """Whether the query sorts or filters by a measure."""
        return self.sort in MEASURES or self.measure is not None

    @property
    def needs_labels(self) -> bool:
        """Whether the query sorts by label."""
        return self.sort in ("label", "confidence")


class PageQuery(TableQuery):
    """Query parameters of a page of the table."""

    cursor: Annotated[int, Field(ge=0)] = 0
    k: Annotated[int, Field(ge=1, le=1000)] = 100


@dataclass(frozen=True, eq=False)
class _Table:
    """The table of all components, the source of its labels, and what it still lacks."""

    frame: pd.DataFrame
    labels: str | None
    pending_scores: JobStatus | None
    pending_labels: JobStatus | None


def _table(context: ModelContext, state: AppState, query: TableQuery) -> _Table:
    scores, pending_scores = _ready(lambda: all_scores(context, state), query.needs_measures)
    names, pending_labels = _ready(lambda: component_names(context, state), query.needs_labels)
    source = names and names.source
    saved = context.db.list_analyses(PREFIX)
    key = f"table {context.number} {query.target} {source} {saved} {scores is not None}"
    frame = state.jobs.result(
        key,
        "Computing the table",
        lambda: component_table(
            context.db, scores and scores.frame, names and names.frame, query.target
        ),
        short=True,
        large=True,
    )
    return _Table(frame, source, pending_scores, pending_labels)


def _ready(compute: Callable[[], T], needed: bool) -> tuple[T | None, JobStatus | None]:
    """Return a result, or the status of its job unless the query needs it."""
    try:
        return compute(), None
    except JobPending as job:
        if needed:
            raise
        return None, job.status


@router.get("/components")
def components(
    context: Context, state: State, query: Annotated[PageQuery, Query()]
) -> ComponentPage:
    """Return a page of the component table; ``cursor`` is the position of its first row."""
    context.db.layer_names(query.layers)
    table = _table(context, state, query)
    frame, rows = table.frame, query.select(table.frame)
    end = query.cursor + query.k
    return ComponentPage(
        components=len(frame),
        total=len(rows),
        cursor=end if end < len(rows) else None,
        labels=table.labels,
        relevance=None if query.target is None else class_name(context.db, query.target),
        pending_scores=table.pending_scores,
        pending_labels=table.pending_labels,
        rows=records(ListedComponent, frame.iloc[rows[query.cursor : end]]),
    )


@router.get("/components.csv", response_class=StreamingResponse)
def components_csv(
    context: Context, state: State, query: Annotated[TableQuery, Query()]
) -> StreamingResponse:
    """Return all rows of the table as CSV; waits for measures and labels."""
    context.db.layer_names(query.layers)
    all_scores(context, state)
    component_names(context, state)
    frame = _table(context, state, query).frame
    rows = query.select(frame)

    def lines() -> Iterator[str]:
        for start in range(0, max(len(rows), 1), _CHUNK):
            yield csv(frame.iloc[rows[start : start + _CHUNK]], header=start == 0)

    headers = attachment(f"{context.db.name.removesuffix('.semlens')}-components.csv")
    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8", headers=headers)
