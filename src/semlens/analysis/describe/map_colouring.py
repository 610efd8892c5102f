"""What the points of a map can be coloured by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float32

from semlens.analysis.classes import class_name, find_class
from semlens.analysis.compare.component_sets import ComponentSet
from semlens.analysis.compare.summary import set_scores
from semlens.analysis.query_embedding import alignment
from semlens.analysis.scores import MEASURES
from semlens.analysis.search import embed_query
from semlens.draw.map_plot import Colouring, Groups, Queries, Scale
from semlens.errors import ConceptError

Colour = Literal[
    "query", "layer", "model", "cluster", "clarity", "redundancy", "polysemanticity", "relevance"
]
"""What points are coloured by."""
KINDS: tuple[str, ...] = get_args(Colour)


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
            "Say what to look for.",
        )
    if by == "relevance" and len(values) != 1:
        raise ConceptError(
            f"The map is to be coloured by relevance for {len(values)} classes.",
            "Expected one class.",
            "Name it.",
        )
    if by not in ("query", "relevance") and values:
        raise ConceptError(
            f"The map is coloured by {by}, and {', '.join(map(repr, values))} was given.",
            "Expected a text with query, a class with relevance, and nothing with the others.",
            "Leave it out, or colour by query or relevance.",
        )


def colour(
    frame: pd.DataFrame, sets: Sequence[ComponentSet], by: str, values: Sequence[str | int]
) -> Colouring:
    """Return the colours of a map's components; ``values`` are texts, or a class.

    Parameters
    ----------
    frame
        One row per component of the sets: model, layer, cluster.

    Raises
    ------
    ConceptError
        If ``by`` is unknown, or the values do not belong to it.
    RelevanceError
        If a database has no relevance, or not for this class.
    """
    check_colour(by, values)
    if by == "query":
        probe = embed_query(sets[0].database, tuple(dict.fromkeys(map(str, values))))
        assert probe is not None  # noqa: S101  # check_colour has seen that there is a text
        return Queries(probe.names, np.concatenate([alignment(one.theta, probe) for one in sets]))
    if by == "relevance":
        return _relevance(sets, values[0])
    if by in MEASURES:
        parts = [set_scores(one)[by].to_numpy(np.float32) for one in sets]
        return Scale(by, np.concatenate(parts))
    if by == "cluster":
        group = frame["cluster"].to_numpy(np.int64)
        names = [f"cluster {i}" for i in range(group.max(initial=-1) + 1)]
    else:
        group, names = pd.factorize(frame[by])
    return Groups(by, tuple(map(str, names)), np.asarray(group, np.int64), ordered=by == "layer")


def _relevance(sets: Sequence[ComponentSet], target: int | str) -> Scale:
    """Colour and size by the mean share of the layer's relevance for a class; zero if not kept."""
    parts: list[Float32[np.ndarray, " n"]] = []
    for one in sets:
        found = one.database.relevance(find_class(one.database, target), one.layers)
        share = found.set_index("component")["mean"].reindex(one.rows, fill_value=0.0)
        parts.append(share.to_numpy(np.float32))
    first = sets[0].database
    name = class_name(first, find_class(first, target))
    return Scale(f"share of relevance for '{name}'", np.concatenate(parts), signed=True, sized=True)


def colour_columns(colouring: Colouring) -> dict[str, np.ndarray]:
    """Return the values behind colours that the map's table does not hold."""
    if isinstance(colouring, Queries):
        names = [f"alignment: {name}" for name in colouring.names]
        return dict(zip(names, colouring.alignment.T, strict=True))
    if isinstance(colouring, Scale):
        return {"relevance" if colouring.sized else colouring.title: colouring.values}
    return {}
