"""Routes of search: by words, by image or by components, and the similarity of all components."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Response
from fastapi import Query as InQuery
from pydantic import BaseModel, Field

from semlens.draw.encode_images import encode_webp
from semlens.lenses.query_embedding import SEARCH_TEMPLATES
from semlens.lenses.result import plain
from semlens.lenses.search.label_search import LabelHit, search_labels
from semlens.lenses.search.made_up import measured_reach
from semlens.lenses.search.query import Query, make_query
from semlens.lenses.search.search import Hit, alignments, rank, words_scale
from semlens.lenses.search.suggested import SuggestedQuery, suggested_queries
from semlens.types import Component
from semlens.web.app_state import AppState, Context, LayerNames, ModelContext, State
from semlens.web.embedder import SharedEmbedder
from semlens.web.errors import HttpError, not_found
from semlens.web.responses import RequestModel, tensors
from semlens.web.upload import UPLOAD, Upload

PICTURE = 128
"""Longest side of the picture of a search by image, in pixels."""

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
    alignment: float | None
    """Similarity with the query minus that with the empty prompt (Eq. 4); null in a label
    search."""
    cosine: float | None
    """Similarity with the query (Eq. 3); null in a label search."""
    noise: float | None
    """Alignment that a hit must exceed to be above noise; null if not compared, or in a label
    search."""
    above_noise: bool | None
    """Whether it does; null if not compared, or in a label search."""
    label: str | None
    """From the newest saved labels, as it is shown."""
    confidence: float | None
    """Probability that the label is right; null unless labels were searched."""


class SearchResponse(BaseModel):
    """A page of search results, best first."""

    query: str
    searched: int
    """Number of components ranked; in a label search, number of components with a label."""
    above_noise: int | None
    """Number of these that are above noise; null if not compared, or in a label search."""
    scale: float | None
    """Alignment of a full bar, the same for all queries; null if not compared, or in a label
    search."""
    mode: Literal["vector", "label"]
    notice: str | None
    """Reason why only labels were searched."""
    hits: list[SearchHit]
    cursor: str | None
    """Start of the next page; null on the last one."""
    query_id: int | None
    """Id of a query with an image or components, for ``search`` and ``similarity``."""


class SearchRequest(RequestModel):
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
    compare: bool = True,
) -> SearchResponse:
    """Rank components by words, or by an earlier query with ``query_id``.

    What noise reaches is measured by the first search of a database. Without ``compare``, hits are
    ranked by alignment alone, and the answer does not wait for it. If the embedder cannot embed
    texts, the words are searched in the saved labels.
    """
    if query_id is None and not context.db.embedder.has_text:
        return _by_label(context, q, without, layers, k, cursor)
    query = _query(context, state, q, without, query_id)
    return _by_vector(context, state, query, layers, k, cursor, query_id, compare)


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
    image.thumbnail((PICTURE, PICTURE))  # in place: it is not needed any more
    query_id = state.queries.add(context.number, query, encode_webp(image))
    return _by_vector(context, state, query, layers, k, 0, query_id)


@router.get(
    "/search/{query_id}.webp",
    response_class=Response,
    responses={200: {"content": {"image/webp": {}}}},
)
def query_picture(context: Context, state: State, query_id: Annotated[int, Path(ge=1)]) -> Response:
    """Return the image of an earlier search, at most 128 pixels wide and high."""
    picture = state.queries.picture(context.number, query_id)
    if picture is None:
        raise not_found(
            f"The search {query_id} has no image.", "Expected a search by image.", "Search again."
        )
    return Response(picture, media_type="image/webp", headers={"Content-Encoding": "identity"})


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


@router.get("/suggested-queries")
def suggested(context: Context, state: State) -> list[SuggestedQuery]:
    """Return searches that have hits in this database."""
    if context.db.embedder.has_text:
        _load(context, state)
        _measure(context, state)
    return state.jobs.result(
        f"suggested-queries {context.number}",
        "Trying searches",
        lambda: suggested_queries(context.db),
    )


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


def _measure(context: ModelContext, state: AppState) -> None:
    """Measure in the background, once, what all searches by words share."""

    def measure() -> float:
        measured_reach(context.db, (1, 0), SEARCH_TEMPLATES)
        return words_scale(context.db)

    key = f"search-scale {context.number}"
    state.jobs.result(key, "Measuring what noise reaches in searches", measure, short=True)


def _by_vector(
    context: ModelContext,
    state: AppState,
    query: Query,
    layers: list[str] | None,
    k: int,
    offset: int,
    query_id: int | None,
    compare: bool = True,
) -> SearchResponse:
    if compare and query.by_words:
        _measure(context, state)
    ranking = rank(context.db, query, top=k, offset=offset, layers=layers, compare=compare)
    hits = [
        _hit(hit, above_noise=hit.above_noise if compare else None, confidence=None)
        for hit in ranking.hits
    ]
    end = offset + len(hits)
    return SearchResponse(
        query=query.text,
        searched=ranking.searched,
        above_noise=ranking.above_noise if compare else None,
        scale=plain(ranking.scale),
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
        scale=None,
        mode="label",
        notice=f"The embedder '{context.db.manifest.embedder.spec}' cannot embed texts or could "
        "not be loaded, so the search uses the saved labels only.",
        hits=[
            _hit(hit, alignment=None, cosine=None, noise=None, above_noise=None)
            for hit in ranking.hits
        ],
        cursor=str(end) if end < ranking.total else None,
        query_id=None,
    )


def _hit(hit: Hit | LabelHit, **fields: bool | None) -> SearchHit:
    values = {**vars(hit), "component": str(hit.component), **fields}
    return SearchHit.model_validate(plain(values))
