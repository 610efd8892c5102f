"""What each class relies on, read from the database: classes, and layer by layer components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd

from semlens.analysis.target import class_name, find_class
from semlens.errors import RelevanceError
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Layers

MINIMUM = 0.01
"""Least share of its layer's relevance with which a component is relevant (paper, D.5)."""
MOSTLY = 0.8
"""The part of a layer's relevance that is carried by few components or by many."""
Minimum = Annotated[float, setting("Least share of relevance, on the best sample.", ge=0, le=1)]
"""The least share wherever a question is about the relevant components of a class."""
OnlyTarget = Annotated[int | str | None, setting("Only components that matter for this class.")]
"""A class wherever a question may be about its relevant components only."""


def relevant_rows(
    database: Database,
    target: int | str,
    layers: Layers = None,
    minimum: float = MINIMUM,
    *,
    empty_ok: bool = False,
) -> pd.DataFrame:
    """Return the components that are relevant for a class, the largest mean share first.

    A component is relevant if its share of its layer's relevance reaches ``minimum`` on some
    sample of the class.

    Parameters
    ----------
    empty_ok
        Whether an empty table is an answer.

    Returns
    -------
    DataFrame
        ``component`` (row), ``layer``, ``mean`` and ``max`` of the share.

    Raises
    ------
    RelevanceError
        If the database has no relevance for the class, or no component reaches the minimum.
    """
    number = find_class(database, target)
    found = database.relevance(number, layers)
    kept = found[found["max"] >= minimum]
    if kept.empty and not empty_ok:
        raise RelevanceError(
            f"No component of '{database.path}' reaches {100 * minimum:g} % of its layer's "
            f"relevance for class '{class_name(database, number)}'.",
            f"The most relevant one has {100 * found['max'].max():.2g} %."
            if len(found)
            else "None has a share that was kept.",
            "Lower the minimum, or choose other layers.",
        )
    kept = kept.assign(layer=database.components["layer"].to_numpy()[kept["component"]])
    kept = kept.sort_values(["mean", "component"], ascending=[False, True], ignore_index=True)
    return kept.reindex(columns=["component", "layer", "mean", "max"])


def class_table(database: Database, minimum: float = MINIMUM) -> pd.DataFrame:
    """Return the classes that relevance is known for, in the order of their logits.

    Returns
    -------
    DataFrame
        ``class``, ``name``, ``samples``, and ``relevant``: how many components reach the
        minimum on some sample.

    Raises
    ------
    RelevanceError
        If the database was built without relevance.
    """
    known = database.relevance_classes.sort_values("class", ignore_index=True)
    classes = known["class"].to_numpy(np.int64)
    relevant = np.zeros(len(classes), np.int64)
    for layer in database.layers:  # one at a time: all of them may not fit into memory
        found = database.relevance(None, [layer])
        reached = found["class"].to_numpy()[found["max"].to_numpy() >= minimum]
        relevant += np.bincount(np.searchsorted(classes, reached), minlength=len(classes))
    return pd.DataFrame(
        {
            "class": classes,
            "name": [class_name(database, int(number)) for number in classes],
            "samples": known["samples"].to_numpy(np.int64),
            "relevant": relevant,
        }
    )


@dataclass(frozen=True)
class LayerRelevance:
    """The components of one layer that matter for a class.

    Parameters
    ----------
    components
        How many the layer has.
    relevant
        How many of them reach the minimum on some sample.
    carried
        Part of the layer's relevance that all components carry whose shares were kept, each
        with the size of its mean: what changes sign from sample to sample counts less.
    mostly
        How many of the strongest carry :data:`MOSTLY` of the layer's relevance; None if all
        together do not.
    frame
        The strongest: ``row``, ``mean``, ``max``, and ``cumulated``, the part that the
        components down to this one carry. The largest mean share, in size, comes first.
    """

    layer: str
    components: int
    relevant: int
    carried: float
    mostly: int | None
    frame: pd.DataFrame


def relevant_components(
    database: Database,
    target: int,
    *,
    layers: Layers = None,
    top: int = 20,
    minimum: float = MINIMUM,
) -> list[LayerRelevance]:
    """Return what a class relies on most in each layer, in the order of the database.

    Parameters
    ----------
    minimum
        Components are listed whose share reaches it on some sample, or on average against the
        class.

    Raises
    ------
    RelevanceError
        If the database has no relevance for the class.
    """
    found: list[LayerRelevance] = []
    for name in database.chosen(layers):
        table = database.relevance(target, [name])
        size = table["mean"].abs()
        order = np.lexsort((table["component"], -size))
        table, size = table.iloc[order], size.iloc[order].to_numpy(np.float64)
        cumulated = np.cumsum(size)
        enough = int(np.searchsorted(cumulated, MOSTLY)) + 1
        relevant = relevant_rows(database, target, name, minimum, empty_ok=True)
        frame = table.rename(columns={"component": "row"}).assign(cumulated=cumulated)
        listed = frame[frame["row"].isin(relevant["component"]) | (size >= minimum)].head(top)
        found.append(
            LayerRelevance(
                name,
                database.layer(name).rows,
                len(relevant),
                float(cumulated[-1]) if len(cumulated) else 0.0,
                enough if enough <= len(cumulated) else None,
                listed[["row", "mean", "max", "cumulated"]].reset_index(drop=True),
            )
        )
    return found
