"""The card of one component: identity, examples, measures, and the classes it is relevant for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from semlens.lenses.classes import class_name
from semlens.lenses.describe.classes_and_samples import relevance_by_class
from semlens.lenses.describe.score_distribution import MEANINGS, MeasureDescription
from semlens.lenses.scores import MEASURES
from semlens.store.reader import Database
from semlens.types import Box, Component, Rank

BINS = 24
"""Histogram bins of a measure's distribution in the layer."""

FORMULAS = {
    "clarity": "n / (n − 1) · (‖mean of the n unit vectors‖² − 1 / n)",
    "redundancy": "max over j ≠ k of cos(θₖ, θⱼ)",
    "polysemanticity": "1 − cos(mean of cluster 1, mean of cluster 2)",
}
"""The equation of each measure."""


@dataclass(frozen=True)
class CardExample:
    """One concept example."""

    rank: int
    """Position among the examples, strongest first, from 0."""
    sample: int
    path: str
    class_name: str | None
    """The class of the sample, if known."""
    activation: float
    """The raw readout, or the relevance; see :attr:`ComponentCard.rank`."""
    box: Box
    masked: bool
    """Whether the database has a display mask for it."""


@dataclass(frozen=True)
class Statistic:
    """A statistic over all images, and what it means."""

    name: str
    value: float | None
    meaning: str


@dataclass(frozen=True)
class ComponentCard:
    """A component, its statistics over all images, and its examples."""

    component: Component
    layer_rows: int
    """Number of components of its layer."""
    readout: str
    rank: Rank
    """By what the examples are ranked."""
    crop: str
    thumbnails: bool
    statistics: tuple[Statistic, ...]
    examples: tuple[CardExample, ...]


@dataclass(frozen=True)
class ClassShare:
    """Relevance of a component for a class, as shares of its layer's relevance."""

    logit: int
    name: str
    mean: float
    max: float
    rank: int
    """Rank among the layer's components by mean; ties share the better rank."""
    components: int
    """Number of components of the layer with a known relevance for the class."""


@dataclass(frozen=True)
class Measure:
    """One measure of interpretability, and its position in the layer's distribution."""

    name: str
    value: float | None
    """None if there are too few examples."""
    below: float | None
    """Share of the layer's components (with the measure) that have a lower value."""
    counts: tuple[int, ...]
    """The layer's distribution: components per bin of equal width from ``low`` to ``high``."""
    low: float | None
    high: float | None
    meaning: MeasureDescription
    formula: str


def card(database: Database, row: int) -> ComponentCard:
    """Return the card of the component at a row."""
    component = database.component(row)
    entry = database.layer(component.layer)
    examples = tuple(
        CardExample(
            position,
            example.sample,
            example.path,
            _class_of(database, example.sample),
            example.activation,
            example.box,
            example.mask is not None,
        )
        for position, example in enumerate(database.examples_of(row))
    )
    recipe = database.manifest.recipe
    return ComponentCard(
        component,
        entry.rows,
        recipe.readout,
        recipe.rank,
        entry.crop,
        recipe.thumbnails,
        _statistics(database.components.iloc[row], recipe.readout, component.sign),
        examples,
    )


def _class_of(database: Database, index: int) -> str | None:
    """Return the class of a sample: the name of its logit, or else its name in the data."""
    sample = database.sample(index)
    return (sample.target or None) if sample.logit is None else class_name(database, sample.logit)


def _statistics(values: pd.Series, readout: str, sign: int) -> tuple[Statistic, ...]:
    reduction = {
        "mean": "the mean over space or tokens",
        "max": "the maximum over space or tokens",
        "cls": "the value at the class token",
    }[readout]
    direction = "above zero" if sign > 0 else "below zero"
    meanings = {
        "firing_rate": f"share of images with an activation {direction} at any position",
        "maximum": f"largest readout ({reduction}) over all images",
        "minimum": "smallest readout over all images",
        "mean": "mean readout over all images",
        "std": "standard deviation of the readout",
        "samples": "images with a finite readout",
    }
    return tuple(
        Statistic(name, _number(values[name]), meaning) for name, meaning in meanings.items()
    )


def class_relevances(database: Database, row: int, top: int = 8) -> tuple[ClassShare, ...]:
    """Return the classes for which a component has the largest positive mean relevance.

    Raises
    ------
    RelevanceError
        If the database was built without class relevance.
    """
    layer = database.component(row).layer
    table: Any = relevance_by_class(database, np.asarray([row]), [layer])
    table = table[table["mean"] > 0].head(max(top, 0))
    shares: list[ClassShare] = []
    for record in table.to_dict("records"):
        all_means = database.relevance(int(record["logit"]), [layer])["mean"].to_numpy()
        rank = int(np.count_nonzero(all_means > record["mean"])) + 1
        shares.append(
            ClassShare(
                int(record["logit"]), record["class"], float(record["mean"]), float(record["max"]),
                rank, len(all_means),
            )
        )  # fmt: skip
    return tuple(shares)


def measures(frame: pd.DataFrame, position: int, bins: int = BINS) -> tuple[Measure, ...]:
    """Return the measures of one component, each with its distribution in the layer.

    Parameters
    ----------
    frame
        The layer's measures: ``scores(database, [layer]).frame``.
    position
        Position of the component in the layer.
    """
    return tuple(
        _measure(name, frame[name].to_numpy(np.float64), position, bins) for name in MEASURES
    )


def _measure(name: str, values: np.ndarray, position: int, bins: int) -> Measure:
    finite = values[np.isfinite(values)]
    value = _number(values[position])
    below = None if value is None else float(np.count_nonzero(finite < value) / len(finite))
    counts: tuple[int, ...] = ()
    if len(finite):
        counts = tuple(np.histogram(finite, bins)[0].tolist())
    low = float(finite.min()) if len(finite) else None
    high = float(finite.max()) if len(finite) else None
    return Measure(name, value, below, counts, low, high, MEANINGS[name], FORMULAS[name])


def _number(value: Any) -> float | None:
    finite = float(value)
    return finite if np.isfinite(finite) else None
