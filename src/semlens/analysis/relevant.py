"""What each class relies on, read from the database: classes, and layer by layer components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from semlens.analysis.target import class_name
from semlens.store.reader import Database
from semlens.types import Component, Layers

REACHED = 0.01
"""A component matters if its share reaches this on some sample (paper, D.5)."""
MOSTLY = 0.8
"""The part of a layer's relevance that is carried by few components or by many."""


def class_table(database: Database, minimum: float = REACHED) -> pd.DataFrame:
    """Return the classes that relevance is known for, in the order of their logits.

    Returns
    -------
    DataFrame
        ``target``, ``name``, ``samples``, and ``relevant``: how many components reach the
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
    names = [class_name(database, int(number)) for number in classes]
    samples = known["samples"].to_numpy(np.int64)
    return pd.DataFrame(
        {"target": classes, "name": names, "samples": samples, "relevant": relevant}
    )


@dataclass(frozen=True)
class RelevantComponent:
    """One component, with its shares of its layer's relevance for a class."""

    component: Component
    mean: float
    """On average over the class's samples; below zero it speaks against the class."""
    max: float
    """On the sample where it is largest."""
    cumulated: float
    """What the components down to this one carry of the layer."""
    label: str | None = None
    """For whoever names it."""


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
    strongest
        The largest mean share, in size, comes first.
    """

    layer: str
    components: int
    relevant: int
    carried: float
    mostly: int | None
    strongest: tuple[RelevantComponent, ...]


def relevant_components(
    database: Database,
    target: int,
    *,
    layers: Layers = None,
    top: int = 20,
    minimum: float = REACHED,
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
        reached = (table["max"] >= minimum).to_numpy()
        listed = table[["component", "mean", "max"]].assign(cumulated=cumulated)
        listed = listed[reached | (size >= minimum)].head(top)
        found.append(
            LayerRelevance(
                name,
                database.layer(name).rows,
                int(reached.sum()),
                float(cumulated[-1]) if len(cumulated) else 0.0,
                enough if enough <= len(cumulated) else None,
                tuple(
                    RelevantComponent(database.component(row), mean, largest, share)
                    for row, mean, largest, share in listed.itertuples(index=False, name=None)
                ),
            )
        )
    return found
