"""Search: by words, by an image, by components; and how alike everything is to a query."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Response
from fastapi import Query as InQuery
from pydantic import BaseModel, Field

from semlens.analysis.kept_labels import PREFIX, kept_labels, search_labels
from semlens.analysis.search import Query, Terms, alignments, make_query, search_query
from semlens.web.embedder import SharedEmbedder
from semlens.web.errors import Refused
from semlens.web.routes.place import layer_names
from semlens.web.served import All, Model, Served, Serving
from semlens.web.tensors import tensors
from semlens.web.upload import UPLOAD, Upload

router = APIRouter(prefix="/models/{m}", tags=["search"])

Words = Annotated[str, Field(max_length=200)]
Texts = Annotated[list[Words], InQuery(max_length=16)]
Layers = Annotated[list[int], InQuery(alias="layer", max_length=1000)]
Count = Annotated[int, InQuery(ge=1, le=200)]
Cursor = Annotated[str | None, InQuery(pattern=r"^\d{1,9}$")]
Number = Annotated[int | None, InQuery(ge=1)]


class SearchHit(BaseModel):
    """One component that was found."""

    rank: int
    """1 is the best."""
    row: int
    layer: int
    index: int
    name: str
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


class SearchAnswer(BaseModel):
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
    """Components and words to look for and to keep away from; rows name the components."""

    positive: Annotated[list[int], Field(max_length=200)] = []
    negative: Annotated[list[int], Field(max_length=200)] = []
    q: Annotated[list[Words], Field(max_length=16)] = []
    without: Annotated[list[Words], Field(max_length=16)] = []
    layers: Annotated[list[int], Field(max_length=1000)] = []
    k: Annotated[int, Field(ge=1, le=200)] = 20


@router.get("/search")
def search(
    served: Model,
    serving: All,
    q: Texts = [],  # noqa: B006  # FastAPI reads it only
    without: Texts = [],  # noqa: B006
    probe: Number = None,
    layer: Layers = [],  # noqa: B006
    k: Count = 20,
    cursor: Cursor = None,
) -> SearchAnswer:
    """Rank components by words, or by a ``probe`` that was sent before.

    An embedder without texts leaves the words of kept labels to be searched.
    """
    if probe is None and not served.db.embedder.has_text:
        return _by_label(served, serving, q, without, layer, k, _offset(cursor))
    query = _query(served, serving, q, without, probe)
    return _by_vector(served, serving, query, layer, k, _offset(cursor), probe)


@router.post("/search/image", openapi_extra=UPLOAD)
def search_image(
    served: Model,
    serving: All,
    image: Upload,
    q: Texts = [],  # noqa: B006
    without: Texts = [],  # noqa: B006
    layer: Layers = [],  # noqa: B006
    k: Count = 20,
) -> SearchAnswer:
    """Rank components by an image, the body of the request, and words beside it."""
    _load(served, serving)
    query = make_query(served.db, Terms(q, [image]), Terms(without))
    number = serving.probes.keep(served.number, query)
    return _by_vector(served, serving, query, layer, k, 0, number)


@router.post("/search/components")
def search_components(served: Model, serving: All, terms: ComponentTerms) -> SearchAnswer:
    """Rank components by their likeness to others ("more like this"), and by words.

    Those that are given are not found themselves.
    """
    if terms.q or terms.without:
        _load(served, serving)
    query = make_query(
        served.db,
        Terms(terms.q, components=terms.positive),
        Terms(terms.without, components=terms.negative),
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
    found = alignments(served.db, query.probe, query.negative)
    return tensors({"alignment": found})


def _query(
    served: Served, serving: Serving, q: list[str], without: list[str], probe: int | None
) -> Query:
    if probe is None:
        _load(served, serving)
        return make_query(served.db, Terms(q), Terms(without))
    if q or without:
        raise Refused(
            400,
            f"The search number {probe} was asked for together with words.",
            "Expected one of them.",
            "Send the words along with the image.",
        )
    return serving.probes.get(served.number, probe)


def _load(served: Served, serving: Serving) -> None:
    """Load the embedder in the background, once: a large one takes a while."""
    embedder = served.db.embedder
    if isinstance(embedder, SharedEmbedder) and not embedder.ready:
        what = f"loading the embedder {embedder.spec}"
        key = f"embedder/{embedder.fingerprint}"
        serving.work.result(key, what, lambda _: embedder.warm(), short=True)


def _by_vector(
    served: Served,
    serving: Serving,
    query: Query,
    layer: list[int],
    k: int,
    offset: int,
    probe: int | None,
) -> SearchAnswer:
    found = search_query(served.db, query, top=k, offset=offset, layers=layer_names(served, layer))
    labels = _labels(served, serving)
    end = offset + len(found)
    return SearchAnswer(
        query=query.text,
        searched=found.searched,
        mode="vector",
        notice=None,
        hits=[
            _hit(
                served, hit.rank, hit.row, hit.alignment, hit.cosine, hit.percentile,
                labels[hit.row] if labels else None,
            )
            for hit in found.hits
        ],
        cursor=str(end) if len(found) == k and end < found.searched else None,
        probe=probe,
    )  # fmt: skip


def _by_label(
    served: Served,
    serving: Serving,
    q: list[str],
    without: list[str],
    layer: list[int],
    k: int,
    offset: int,
) -> SearchAnswer:
    names = layer_names(served, layer)
    found = search_labels(served.db, q, without=without, top=k, offset=offset, layers=names)
    end = offset + len(found.hits)
    return SearchAnswer(
        query=found.query,
        searched=found.searched,
        mode="label",
        notice=f"The embedder '{served.db.manifest.embedder.spec}' reads no texts, or cannot be "
        "loaded: only the words of kept labels are searched.",
        hits=[
            _hit(served, hit.rank, hit.row, hit.alignment, None, None, hit.label)
            for hit in found.hits
        ],
        cursor=str(end) if end < found.found else None,
        probe=None,
    )


def _hit(
    served: Served,
    rank: int,
    row: int,
    alignment: float,
    cosine: float | None,
    percentile: float | None,
    label: str | None,
) -> SearchHit:
    component = served.db.component(row)
    layer = served.db.layers.index(component.layer)
    return SearchHit(
        rank=rank,
        row=row,
        layer=layer,
        index=row - served.db.manifest.layers[layer].first,
        name=str(component),
        alignment=alignment,
        cosine=cosine,
        percentile=percentile,
        label=label,
    )


def _labels(served: Served, serving: Serving) -> list[str | None] | None:
    """Return the newest kept labels by row; read once for as long as they are the newest."""
    kept = served.db.kept_analyses(PREFIX)
    if not kept:
        return None

    def read(_: object) -> list[str | None] | None:
        table = kept_labels(served.db)
        return None if table is None else table["label"].tolist()

    return serving.work.result(
        f"labels/{served.number}/{kept}", "reading the labels", read, short=True, large=True
    )


def _offset(cursor: str | None) -> int:
    return int(cursor) if cursor is not None else 0
