"""Routes of search: by words, by image or by components, and the similarity of all components."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Response
from fastapi import Query as InQuery
from pydantic import BaseModel, Field

from semlens.analysis.saved_labels import PREFIX, LabelHit, saved_labels, search_labels
from semlens.analysis.search import Hit, Query, alignments, make_query, rank
from semlens.types import Component
from semlens.web.app_state import AppState, Context, LayerNames, ModelContext, State
from semlens.web.embedder import SharedEmbedder
from semlens.web.errors import HttpError
from semlens.web.responses import tensors
from semlens.web.upload import UPLOAD, Upload

router = APIRouter(prefix="/models/{m}", tags=["search"])

Words = Annotated[str, Field(max_length=200)]
Texts = Annotated[list[Words], InQuery(max_length=16)]
Count = Annotated[int, InQuery(ge=1, le=200)]
Cursor = Annotated[int, InQuery(ge=0, lt=10**9)]
QueryId = Annotated[int | None, InQuery(ge=1)]


class SearchHit(BaseModel):
    """A search result."""

    rank: int
    """From 1, best first."""
    row: int
    component: str
    alignment: float
    """Similarity with the query minus that with the empty prompt (Eq. 4); in a label search,
    the alignment of the component with its label."""
    cosine: float | None
    """Similarity with the query (Eq. 3); null in a label search."""
    percentile: float | None
    """Share of the searched components with a lower alignment, in [0, 1]; null in a label
    search."""
    noise: float | None
    """Alignment that a hit must exceed to be above noise; null in a label search."""
    above_noise: bool | None
    """Whether it does; null in a label search."""
    label: str | None
    """From the newest saved labels."""


class SearchResponse(BaseModel):
    """A page of search results, best first."""

    query: str
    searched: int
    """Number of components ranked; in a label search, number of components with a label."""
    above_noise: int | None
    """Number of these that are above noise; null in a label search."""
    mode: Literal["vector", "label"]
    notice: str | None
    """Reason why only labels were searched."""
    hits: list[SearchHit]
    cursor: str | None
    """Start of the next page; null on the last one."""
    query_id: int | None
    """Id of a query with an image or components, for ``search`` and ``similarity``."""


class SearchRequest(BaseModel):
    """Components and words to search for (``like``, ``q``) and to avoid."""

    like: Annotated[list[Component], Field(max_length=200)] = []
    unlike: Annotated[list[Component], Field(max_length=200)] = []
    q: Annotated[list[Words], Field(max_length=16)] = []
    without: Annotated[list[Words], Field(max_length=16)] = []
    layers: Annotated[list[str] | None, Field(max_length=1000)] = None
    k: Annotated[int, Field(ge=1, le=200)] = 20


@router.get("/search")
def search(
    context: Context,
    state: State,
    q: Texts = [],  # noqa: B006  # FastAPI reads it only
    without: Texts = [],  # noqa: B006
    query_id: QueryId = None,
    layers: LayerNames = None,
    k: Count = 20,
    cursor: Cursor = 0,
) -> SearchResponse:
    """Rank components by words, or by an earlier query with ``query_id``.

    If the embedder cannot embed texts, the words are searched in the saved labels.
    """
    if query_id is None and not context.db.embedder.has_text:
        return _by_label(context, q, without, layers, k, cursor)
    query = _query(context, state, q, without, query_id)
    return _by_vector(context, state, query, layers, k, cursor, query_id)


@router.post("/search/image", openapi_extra=UPLOAD)
def search_image(
    context: Context,
    state: State,
    image: Upload,
    q: Texts = [],  # noqa: B006
    without: Texts = [],  # noqa: B006
    layers: LayerNames = None,
    k: Count = 20,
) -> SearchResponse:
    """Rank components by an image in the body of the request, and optional words."""
    _load(context, state)
    query = make_query(context.db, q, image, without=without)
    query_id = state.queries.add(context.number, query)
    return _by_vector(context, state, query, layers, k, 0, query_id)


@router.post("/search/components")
def search_components(context: Context, state: State, request: SearchRequest) -> SearchResponse:
    """Rank components by their similarity to other components, and by words.

    The components of the request are not among the results.
    """
    if request.q or request.without:
        _load(context, state)
    query = make_query(
        context.db, request.q, like=request.like, without=request.without, unlike=request.unlike
    )
    query_id = state.queries.add(context.number, query)
    return _by_vector(context, state, query, request.layers, request.k, 0, query_id)


@router.get("/similarity", response_class=Response)
def similarity(
    context: Context,
    state: State,
    q: Texts = [],  # noqa: B006
    without: Texts = [],  # noqa: B006
    query_id: QueryId = None,
) -> Response:
    """Return alignment f32[n] in row order as safetensors; NaN for components without examples."""
    query = _query(context, state, q, without, query_id)
    return tensors({"alignment": alignments(context.db, query)})


def _query(
    context: ModelContext,
    state: AppState,
    q: list[str],
    without: list[str],
    query_id: int | None,
) -> Query:
    if query_id is None:
        _load(context, state)
        return make_query(context.db, q, without=without)
    if q or without:
        raise HttpError(
            400,
            f"The query {query_id} was combined with words.",
            "Expected either a query id or words.",
            "Send the words together with the image.",
        )
    return state.queries.get(context.number, query_id)


def _load(context: ModelContext, state: AppState) -> None:
    """Load the embedder in the background, once."""
    embedder = context.db.embedder
    if isinstance(embedder, SharedEmbedder) and not embedder.ready:
        description = f"Loading the embedder {embedder.spec}"
        key = f"embedder/{embedder.fingerprint}"
        state.jobs.result(key, description, embedder.warm, short=True)


def _by_vector(
    context: ModelContext,
    state: AppState,
    query: Query,
    layers: list[str] | None,
    k: int,
    offset: int,
    query_id: int | None,
) -> SearchResponse:
    ranking = rank(context.db, query, top=k, offset=offset, layers=layers)
    labels = _labels(context, state)
    hits = [
        _hit(hit, label=labels[hit.row] if labels else None, above_noise=hit.above_noise)
        for hit in ranking.hits
    ]
    end = offset + len(hits)
    return SearchResponse(
        query=query.text,
        searched=ranking.searched,
        above_noise=ranking.above_noise,
        mode="vector",
        notice=None,
        hits=hits,
        cursor=str(end) if len(hits) == k and end < ranking.searched else None,
        query_id=query_id,
    )


def _by_label(
    context: ModelContext,
    q: list[str],
    without: list[str],
    layers: list[str] | None,
    k: int,
    offset: int,
) -> SearchResponse:
    ranking = search_labels(context.db, q, without=without, top=k, offset=offset, layers=layers)
    end = offset + len(ranking.hits)
    return SearchResponse(
        query=ranking.query,
        searched=ranking.searched,
        above_noise=None,
        mode="label",
        notice=f"The embedder '{context.db.manifest.embedder.spec}' cannot embed texts or could "
        "not be loaded, so the search uses the saved labels only.",
        hits=[
            _hit(hit, cosine=None, percentile=None, noise=None, above_noise=None)
            for hit in ranking.hits
        ],
        cursor=str(end) if end < ranking.total else None,
        query_id=None,
    )


def _hit(hit: Hit | LabelHit, **fields: str | bool | None) -> SearchHit:
    return SearchHit.model_validate({**vars(hit), "component": str(hit.component), **fields})


def _labels(context: ModelContext, state: AppState) -> list[str | None] | None:
    """Return the newest saved labels by row; read again only when newer ones are saved."""
    saved = context.db.list_analyses(PREFIX)
    if not saved:
        return None

    def read() -> list[str | None] | None:
        table = saved_labels(context.db)
        return None if table is None else table["label"].tolist()

    return state.jobs.result(
        f"labels/{context.number}/{saved}", "Reading the labels", read, short=True, large=True
    )
