"""``semlens map``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semlens.cli.options import (
    NO_LABELS,
    Concepts,
    Json,
    Layer,
    Save,
    Spec,
    checked,
    concept_set,
    opened,
    split,
)
from semlens.cli.output import answer, err, out, reported
from semlens.errors import ConceptError

if TYPE_CHECKING:
    from semlens.analysis.concepts import ConceptSet


class Colour(StrEnum):
    """What the points of the picture are coloured by."""

    query = "query"
    layer = "layer"
    model = "model"
    cluster = "cluster"
    clarity = "clarity"
    polysemanticity = "polysemanticity"
    redundancy = "redundancy"
    relevance = "relevance"


class Way(StrEnum):
    """How clusters are found."""

    kmeans = "kmeans"
    hdbscan = "hdbscan"


def _concepts(given: list[str] | None) -> ConceptSet | str | None:
    if given == [NO_LABELS]:
        return None
    return concept_set(given) if given else "paper-vocabulary"


def _colours(
    color: Colour | None, query: list[str], target: str | None
) -> tuple[str | None, list[str]]:
    """Return what to colour by, and the texts or the class that belong to it."""
    by = color or (Colour.query if query else Colour.relevance if target is not None else None)
    for option, given, own in (
        ("--query", bool(query), Colour.query),
        ("--target", target is not None, Colour.relevance),
    ):
        if given and by is not own:
            raise ConceptError(
                f"{option} is given, and the map is coloured by {by}.",
                f"Expected {option} with the colour '{own}' only.",
                f"Leave out {option}, or choose --color {own}.",
            )
    return by, query if target is None else [target]


@reported
def map_components(
    databases: Annotated[
        list[Path], typer.Argument(help="Folders of databases that have one embedder.")
    ],
    layer: Layer = None,
    query: Annotated[
        list[str] | None,
        typer.Option(help="Colour by the alignment with this text; given again, a hue each."),
    ] = None,
    color: Annotated[
        Colour | None,
        typer.Option(help="Colour by this [model, layer or cluster: the first that differs]."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Colour by relevance for this class, name or number.")
    ] = None,
    clusters: Annotated[
        int | None, typer.Option(help="Clusters of k-means [60, or one per 8 components].")
    ] = None,
    method: Annotated[Way, typer.Option(help="How clusters are found.")] = Way.kmeans,
    concepts: Concepts = None,
    top_labels: Annotated[int, typer.Option(min=1, help="Labels per cluster at most.")] = 2,
    threshold: Annotated[float, typer.Option(help="Least alignment of a label.")] = 0.025,
    seed: Annotated[int, typer.Option(help="Of UMAP and of k-means.")] = 0,
    again: Annotated[
        bool, typer.Option("--again", help="Lay all out anew, also what was laid out before.")
    ] = False,
    embedder: Spec = None,
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Map what models know: components in the plane by concept, in labelled clusters.

    Positions are kept in the first database. When layers are added, new components are
    placed among those that are there.

    Examples:

    semlens map r18.semlens --query animal --query transport --save map.png

    semlens map r18.semlens --layer layer4 --target ox --clusters 40 --save map.svg

    semlens map r18.semlens r50.semlens --color model --save models.pdf
    """
    from semlens.analysis.describe.colouring import check_colour
    from semlens.analysis.describe.map import concept_map

    paths = checked(save)
    by, values = _colours(color, query or [], target)
    if by is not None:
        check_colour(by, values)
    chosen = _concepts(concepts)
    opened_ones = [opened(databases[0], embedder), *(opened(path) for path in databases[1:])]
    with err.status("laying out the components"):
        found = concept_map(
            opened_ones,
            layers=split(layer),
            concepts=chosen,
            clusters=clusters,
            method=method.value,
            threshold=threshold,
            top_labels=top_labels,
            seed=seed,
            again=again,
        )
        if by is not None:
            found = found.coloured(by, *values)
    answer(found, as_json, paths)
    if not paths and not as_json:
        out.print("See the picture: add --save map.png", highlight=False)
