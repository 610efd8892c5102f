"""Search: by words, by an image, by components; and how alike everything is to a query."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Response
from fastapi import Query as InQuery
from pydantic import BaseModel, Field

from semlens.analysis.saved_labels import PREFIX, LabelHit, saved_labels, search_labels
from semlens.analysis.search import Hit, Query, alignments, make_query, rank
from semlens.types import Component
from semlens.web.app_state import All, AppState, LayerNames, Model, ModelContext
from semlens.web.embedder import SharedEmbedder
from semlens.web.errors import HttpError
from semlens.web.responses import tensors
from semlens.web.upload import UPLOAD, Upload

router = APIRouter(prefix="/models/{m}", tags=["search"])

Words = Annotated[str, Field(max_length=200)]
Texts = Annotated[list[Words], InQuery(max_length=16)]
Count = Annotated[int, InQuery(ge=1, le=200)]
Cursor = Annotated[int, InQuery(ge=0, lt=10**9)]
Number = Annotated[int | None, InQuery(ge=1)]


class SearchHit(BaseModel):
    """One component that was found."""

    rank: int
    """1 is the best."""
    row: int
    component: str
    alignment: float
    """Similarity with the query less that with the empty prompt (Eq. 4); in a label search,
    that of the component with its label."""
    cosine: float | None
    """Similarity with the query (Eq. 3); null in a label search."""
    percentile: float | None
    """Share of the searched components with a lower alignment, in [0, 1]; null in a label
    search."""
    label: str | None
    """From the newest labels that are kept."""


class SearchResponse(BaseModel):
    """What was found, best first."""

    query: str
    searched: int
    """How many components were ranked; in a label search, how many have a label."""
    mode: Literal["vector", "label"]
    notice: str | None
    """Why only labels were searched."""
    hits: list[SearchHit]
    cursor: str | None
    """Where the next page starts, or null at the end."""
    probe: int | None
    """Number by which ``search`` and ``similarity`` know an image or components."""


class ComponentTerms(BaseModel):
    """Components and words to look for and to keep away from."""

    like: Annotated[list[Component], Field(max_length=200)] = []
    unlike: Annotated[list[Component], Field(max_length=200)] = []
    q: Annotated[list[Words], Field(max_length=16)] = []
    without: Annotated[list[Words], Field(max_length=16)] = []
    layers: Annotated[list[str] | None, Field(max_length=1000)] = None
    k: Annotated[int, Field(ge=1, le=200)] = 20


@router.get("/search")
def search(
    served: Model,
    serving: All,
    q: Texts = [],  # noqa: B006  # FastAPI reads it only
    without: Texts = [],  # noqa: B006
    probe: Number = None,
    layers: LayerNames = None,
    k: Count = 20,
    cursor: Cursor = 0,
) -> SearchResponse:
    """Rank components by words, or by a ``probe`` that was sent before.

    An embedder without texts leaves the words of kept labels to be searched.
    """
    if probe is None and not served.db.embedder.has_text:
        return _by_label(served, q, without, layers, k, cursor)
    query = _query(served, serving, q, without, probe)
    return _by_vector(served, serving, query, layers, k, cursor, probe)


@router.post("/search/image", openapi_extra=UPLOAD)
def search_image(
    served: Model,
    serving: All,
    image: Upload,
    q: Texts = [],  # noqa: B006
    without: Texts = [],  # noqa: B006
    layers: LayerNames = None,
    k: Count = 20,
) -> SearchResponse:
    """Rank components by an image, the body of the request, and words beside it."""
    _load(served, serving)
    query = make_query(served.db, q, image, without=without)
    number = serving.probes.keep(served.number, query)
    return _by_vector(served, serving, query, layers, k, 0, number)


@router.post("/search/components")
def search_components(served: Model, serving: All, terms: ComponentTerms) -> SearchResponse:
    """Rank components by their likeness to others ("more like this"), and by words.

    Those that are given are not found themselves.
    """
    if terms.q or terms.without:
        _load(served, serving)
    query = make_query(
        served.db, terms.q, like=terms.like, without=terms.without, unlike=terms.unlike
    )
    number = serving.probes.keep(served.number, query)
    return _by_vector(served, serving, query, terms.layers, terms.k, 0, number)


@router.get("/similarity", response_class=Response)
def similarity(
    served: Model,
    serving: All,
    q: Texts = [],  # noqa: B006
    without: Texts = [],  # noqa: B006
    probe: Number = None,
) -> Response:
    """Return alignment f32[n] of all components in row order as safetensors; NaN: no examples."""
    query = _query(served, serving, q, without, probe)
    return tensors({"alignment": alignments(served.db, query)})


def _query(
    served: ModelContext, serving: AppState, q: list[str], without: list[str], probe: int | None
) -> Query:
    if probe is None:
        _load(served, serving)
        return make_query(served.db, q, without=without)
    if q or without:
        raise HttpError(
            400,
            f"The search number {probe} was asked for together with words.",
            "Expected one of them.",
            "Send the words along with the image.",
        )
    return serving.probes.get(served.number, probe)


def _load(served: ModelContext, serving: AppState) -> None:
    """Load the embedder in the background, once: a large one takes a while."""
    embedder = served.db.embedder
    if isinstance(embedder, SharedEmbedder) and not embedder.ready:
        what = f"loading the embedder {embedder.spec}"
        key = f"embedder/{embedder.fingerprint}"
        serving.work.result(key, what, embedder.warm, short=True)


def _by_vector(
    served: ModelContext,
    serving: AppState,
    query: Query,
    layers: list[str] | None,
    k: int,
    offset: int,
    probe: int | None,
) -> SearchResponse:
    found = rank(served.db, query, top=k, offset=offset, layers=layers)
    labels = _labels(served, serving)
    hits = [_hit(hit, label=labels[hit.row] if labels else None) for hit in found.hits]
    end = offset + len(hits)
    return SearchResponse(
        query=query.text,
        searched=found.searched,
        mode="vector",
        notice=None,
        hits=hits,
        cursor=str(end) if len(hits) == k and end < found.searched else None,
        probe=probe,
    )


def _by_label(
    served: ModelContext,
    q: list[str],
    without: list[str],
    layers: list[str] | None,
    k: int,
    offset: int,
) -> SearchResponse:
    found = search_labels(served.db, q, without=without, top=k, offset=offset, layers=layers)
    end = offset + len(found.hits)
    return SearchResponse(
        query=found.query,
        searched=found.searched,
        mode="label",
        notice=f"The embedder '{served.db.manifest.embedder.spec}' reads no texts, or cannot be "
        "loaded: only the words of kept labels are searched.",
        hits=[_hit(hit, cosine=None, percentile=None) for hit in found.hits],
        cursor=str(end) if end < found.total else None,
        probe=None,
    )


def _hit(found: Hit | LabelHit, **more: str | None) -> SearchHit:
    return SearchHit.model_validate({**vars(found), "component": str(found.component), **more})


def _labels(served: ModelContext, serving: AppState) -> list[str | None] | None:
    """Return the newest kept labels by row; read once for as long as they are the newest."""
    kept = served.db.list_analyses(PREFIX)
    if not kept:
        return None

    def read() -> list[str | None] | None:
        table = saved_labels(served.db)
        return None if table is None else table["label"].tolist()

    return serving.work.result(
        f"labels/{served.number}/{kept}", "reading the labels", read, short=True, large=True
    )
