"""Colourings of a map's points: queries, groups, measures, class relevance, contrasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float32

from semlens.draw.map_colours import Colouring, Groups, Queries, Scale
from semlens.errors import ConceptError
from semlens.lenses.classes import class_name, find_class
from semlens.lenses.compare.component_sets import ComponentSet
from semlens.lenses.compare.labels_and_scores import set_scores
from semlens.lenses.contrast.contrast import Contrast
from semlens.lenses.query_embedding import alignment
from semlens.lenses.result import read_saved
from semlens.lenses.scores import MEASURES
from semlens.lenses.search.query import Terms, embed_terms

Colour = Literal[
    "query", "place", "layer", "model", "clarity", "redundancy", "polysemanticity", "relevance",
    "contrast",
]  # fmt: skip
"""What points can be coloured by."""
KINDS: tuple[str, ...] = get_args(Colour)
ColourValue = str | int | Path | Contrast
"""A text of a query, a class, or a contrast or its saved .json."""


def check_colour(by: str, values: Sequence[ColourValue]) -> None:
    """Check a colouring and its values.

    Raises
    ------
    ConceptError
        If ``by`` is unknown, or the values do not fit it.
    """
    if by not in KINDS:
        raise ConceptError(
            f"A map cannot be coloured by '{by}'.",
            f"Expected one of {', '.join(KINDS)}.",
            "Choose one of them.",
        )
    if by == "query" and not values:
        raise ConceptError(
            "Colouring by query needs a query.",
            "Expected one or more texts.",
            "Give at least one.",
        )
    if by == "relevance" and len(values) != 1:
        raise ConceptError(
            f"Colouring by relevance got {len(values)} classes.",
            "Expected one class.",
            "Give the name or the logit of one class.",
        )
    if by == "contrast" and len(values) != 1:
        raise ConceptError(
            f"Colouring by contrast got {len(values)} contrasts.",
            "Expected one: a contrast, or its .json of 'semlens contrast --save'.",
            "Give one.",
        )
    if by not in ("query", "relevance", "contrast") and values:
        raise ConceptError(
            f"Colouring by {by} takes no values, but got {', '.join(map(repr, values))}.",
            "Expected texts for query, a class for relevance, and no values otherwise.",
            "Omit the values, or colour by query, relevance or contrast.",
        )


def colour(
    frame: pd.DataFrame, sets: Sequence[ComponentSet], by: str, values: Sequence[ColourValue]
) -> Colouring:
    """Return the colouring of a map's components; ``values`` are as for ``check_colour``.

    Parameters
    ----------
    frame
        One row per component of the sets: model, layer, place, place_label.

    Raises
    ------
    ConceptError
        If ``by`` is unknown, or the values do not fit it.
    RelevanceError
        If a database has no relevance for the class.
    DataError
        If the file of a contrast cannot be read.
    """
    check_colour(by, values)
    if by == "query":
        embedding = embed_terms(sets[0].database, Terms(tuple(dict.fromkeys(map(str, values)))))
        assert embedding is not None  # noqa: S101  # check_colour ensures that there is a text
        return Queries(
            embedding.names, np.concatenate([alignment(s.theta, embedding) for s in sets])
        )
    if by == "relevance":
        return _relevance(sets, values[0] if isinstance(values[0], int) else str(values[0]))
    if by == "contrast":
        return _contrast(sets, values[0])
    if by in MEASURES:
        return Scale(by, np.concatenate([set_scores(s)[by].to_numpy(np.float32) for s in sets]))
    if by == "place":
        groups = frame["place"].to_numpy(np.int64)
        labels = dict(zip(groups.tolist(), frame["place_label"], strict=True))
        numbers = range(int(groups.max(initial=-1)) + 1)
        names = [labels[i] or f"place {i + 1}, no label" for i in numbers]
    else:
        groups, names = pd.factorize(frame[by])
    return Groups(by, tuple(map(str, names)), np.asarray(groups, np.int64), ordered=by == "layer")


def _relevance(sets: Sequence[ComponentSet], target: int | str) -> Scale:
    """Colour and size by the mean share of a layer's relevance for a class; zero if not stored."""
    shares: list[Float32[np.ndarray, " n"]] = []
    for component_set in sets:
        relevance = component_set.database.relevance(
            find_class(component_set.database, target), component_set.layers
        )
        mean = relevance.set_index("component")["mean"].reindex(component_set.rows, fill_value=0.0)
        shares.append(mean.to_numpy(np.float32))
    database = sets[0].database
    name = class_name(database, find_class(database, target))
    title = f"share of relevance for '{name}'"
    return Scale(title, np.concatenate(shares), signed=True, sized=True, column="relevance")


def _contrast(sets: Sequence[ComponentSet], given: ColourValue) -> Scale:
    """Colour by the AUROC between two groups of images, minus 0.5; NaN where it is not known."""
    values = given.to_json() if isinstance(given, Contrast) else read_contrast(Path(str(given)))
    auroc = {row["component"]: row["auroc"] for row in values["components"]}
    if len(sets) > 1 or not auroc.keys() & set(map(str, sets[0].components)):
        raise ConceptError(
            "The contrast is not of the components on this map.",
            "Expected a map of one model, and a contrast of the same model.",
            "Map the database that the contrast was made with.",
        )
    found = np.array([auroc.get(str(name)) for name in sets[0].components], np.float32)
    first, second = (values["groups"][key]["name"] for key in ("a", "b"))
    title = f"AUROC - 0.5, {first} against {second}"
    return Scale(title, found - np.float32(0.5), signed=True, column="contrast")


def read_contrast(path: Path) -> Mapping[str, Any]:
    """Read a contrast saved by ``semlens contrast --save FILE.json``.

    Raises
    ------
    DataError
        If the file cannot be read or has another format.
    """
    return read_saved(path, "contrast", ("groups",), "components", ("component", "auroc"))


def colour_columns(colouring: Colouring) -> dict[str, np.ndarray]:
    """Return the colouring's values that are not already columns of the map's table."""
    if isinstance(colouring, Queries):
        names = [f"alignment: {name}" for name in colouring.names]
        return dict(zip(names, colouring.alignment.T, strict=True))
    if isinstance(colouring, Scale):
        return {colouring.column or colouring.title: colouring.values}
    return {}
