"""What the points of a map can be coloured by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from semlens.analysis.align import alignment
from semlens.analysis.describe.scope import Member, Scope
from semlens.analysis.query import make_probe
from semlens.analysis.scores import MEASURES, scores
from semlens.analysis.target import class_name, find_class
from semlens.draw.map_parts import Colouring, Groups, Queries, Scale
from semlens.errors import ConceptError

KINDS = ("query", "layer", "model", "cluster", *MEASURES, "relevance")


def check_colour(by: str, values: Sequence[str | int]) -> None:
    """Refuse what no map can be coloured by, and values that do not belong to it.

    Raises
    ------
    ConceptError
        If so.
    """
    if by not in KINDS:
        raise ConceptError(
            f"A map cannot be coloured by '{by}'.",
            f"Expected one of {', '.join(KINDS)}.",
            "Choose one of them.",
        )
    if by == "query" and not values:
        raise ConceptError(
            "The map is to be coloured by a query, and there is none.",
            "Expected one text or more.",
            "Say what to look for: --query TEXT.",
        )
    if by == "relevance" and len(values) != 1:
        raise ConceptError(
            f"The map is to be coloured by relevance for {len(values)} classes.",
            "Expected one class.",
            "Name it: --target CLASS.",
        )
    if by not in ("query", "relevance") and values:
        raise ConceptError(
            f"The map is coloured by {by}, and {', '.join(map(repr, values))} was given.",
            "Expected a text with query, a class with relevance, and nothing with the others.",
            "Leave it out, or colour by query or relevance.",
        )


def by_group(scope: Scope, by: str, cluster: Int64[np.ndarray, " n"]) -> Groups:
    """Colour by layer, model or cluster."""
    if by == "cluster":
        count = int(cluster.max(initial=-1)) + 1
        return Groups("cluster", tuple(f"cluster {i}" for i in range(count)), cluster)
    column = scope.frame[by]
    place, names = pd.factorize(column)
    group = np.asarray(place, np.int64)
    return Groups(by, tuple(str(name) for name in names), group, ordered=by == "layer")


def by_query(scope: Scope, texts: Sequence[str]) -> Queries:
    """Colour by the alignment (Eq. 4) with each of some texts."""
    probe = make_probe(scope.members[0].database, tuple(dict.fromkeys(texts)))
    assert probe is not None  # noqa: S101  # check_colour has seen that there is a text
    return Queries(probe.names, alignment(scope.theta, probe))


def by_measure(scope: Scope, measure: str) -> Scale:
    """Colour by clarity, redundancy or polysemanticity."""
    parts = [_measured(member, measure) for member in scope.members]
    return Scale(measure, np.concatenate(parts).astype(np.float32))


def _measured(member: Member, measure: str) -> np.ndarray:
    found = scores(member.database, list(member.layers)).frame[measure].to_numpy()
    return found[member.database.alive[member.database.rows(member.layers)]]


def by_relevance(scope: Scope, target: int | str) -> Scale:
    """Colour and size by the mean share of the layer's relevance for a class.

    Zero where the share was too small to be kept.

    Raises
    ------
    RelevanceError
        If a database has no relevance, or not for this class.
    """
    parts = [_relevant(member, target) for member in scope.members]
    first = scope.members[0].database
    name = class_name(first, find_class(first, target))
    return Scale(f"share of relevance for '{name}'", np.concatenate(parts), signed=True, sized=True)


def _relevant(member: Member, target: int | str) -> Float32[np.ndarray, " n"]:
    database = member.database
    found = database.relevance(find_class(database, target), member.layers)
    share = np.zeros(len(database.components), np.float32)
    share[found["component"].to_numpy()] = found["mean"].to_numpy()
    return share[member.rows]


def colour(
    scope: Scope,
    by: str,
    values: Sequence[str | int],
    cluster: Int64[np.ndarray, " n"],
) -> Colouring:
    """Return the colours of a scope's components; ``values`` are texts, or a class.

    Raises
    ------
    ConceptError
        If ``by`` is unknown, or the values do not belong to it.
    """
    check_colour(by, values)
    if by == "query":
        return by_query(scope, [str(value) for value in values])
    if by == "relevance":
        return by_relevance(scope, values[0])
    return by_measure(scope, by) if by in MEASURES else by_group(scope, by, cluster)


def colour_columns(colouring: Colouring) -> dict[str, np.ndarray]:
    """Return the values behind colours that the map's table does not hold."""
    if isinstance(colouring, Queries):
        names = [f"alignment: {name}" for name in colouring.names]
        return dict(zip(names, colouring.alignment.T, strict=True))
    if isinstance(colouring, Scale):
        return {"relevance" if colouring.sized else colouring.title: colouring.values}
    return {}
