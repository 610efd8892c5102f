"""One component as a card: who it is, its examples, its measures, the classes it matters for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from semlens.analysis.classes import class_name
from semlens.analysis.describe.provenance import driven_classes
from semlens.analysis.describe.score_distribution import MEANINGS, MeasureDescription
from semlens.analysis.scores import MEASURES
from semlens.store.reader import Database
from semlens.types import Box, Component

BINS = 24
"""Bars of a measure's distribution in the layer."""

FORMULAS = {
    "clarity": "n / (n − 1) · (‖mean of the n unit vectors‖² − 1 / n)",
    "redundancy": "max over j ≠ k of cos(θₖ, θⱼ)",
    "polysemanticity": "1 − cos(mean of cluster 1, mean of cluster 2)",
}
"""The equation of each measure in a line."""


@dataclass(frozen=True)
class CardExample:
    """One concept example, the strongest first."""

    rank: int
    """From 0."""
    sample: int
    path: str
    class_name: str | None
    """Class of the sample, if known."""
    activation: float
    """The raw readout."""
    box: Box
    masked: bool
    """Whether the database keeps a display mask of it."""


@dataclass(frozen=True)
class Statistic:
    """One number about all images, and what it means."""

    name: str
    value: float | None
    meaning: str


@dataclass(frozen=True)
class ComponentCard:
    """Who a component is, how it behaves on all images, and its examples."""

    component: Component
    layer_rows: int
    """How many components its layer has."""
    readout: str
    crop: str
    thumbnails: bool
    statistics: tuple[Statistic, ...]
    examples: tuple[CardExample, ...]


@dataclass(frozen=True)
class ClassShare:
    """How much a component matters for a class, as shares of its layer's relevance."""

    logit: int
    name: str
    mean: float
    max: float
    rank: int
    """Among the layer's components by mean; equal ones share the better rank."""
    components: int
    """How many components of the layer have a known relevance for the class."""


@dataclass(frozen=True)
class Measure:
    """One measure of interpretability, and where it stands in the layer."""

    name: str
    value: float | None
    """None with too few examples."""
    percentile: float | None
    """Share of the layer's components with a lower value, in [0, 1]."""
    counts: tuple[int, ...]
    """The layer's distribution: components per bin of equal width from ``low`` to ``high``."""
    low: float | None
    high: float | None
    meaning: MeasureDescription
    formula: str


def card(database: Database, row: int) -> ComponentCard:
    """Collect what the database holds of a component."""
    component = database.component(row)
    entry = database.layer(component.layer)
    examples = tuple(
        CardExample(
            rank,
            example.sample,
            example.path,
            _class_of(database, example.sample),
            example.activation,
            example.box,
            example.mask is not None,
        )
        for rank, example in enumerate(database.examples_of(row))
    )
    recipe = database.manifest.recipe
    return ComponentCard(
        component,
        entry.rows,
        recipe.readout,
        entry.crop,
        recipe.thumbnails,
        _statistics(database.components.iloc[row], recipe.readout, component.sign),
        examples,
    )


def _class_of(database: Database, number: int) -> str | None:
    """Return the class of a sample: the name of its logit, else its name in the data."""
    sample = database.sample(number)
    return (sample.target or None) if sample.logit is None else class_name(database, sample.logit)


def _statistics(values: pd.Series, readout: str, sign: int) -> tuple[Statistic, ...]:
    read = {
        "mean": "the mean over space or tokens",
        "max": "the maximum over space or tokens",
        "cls": "the value at the class token",
    }[readout]
    side = "above zero" if sign > 0 else "below zero"
    meanings = {
        "firing_rate": f"share of images on which the activation is somewhere {side}",
        "maximum": f"largest readout ({read}) of any image",
        "minimum": "smallest readout of any image",
        "mean": "mean readout of all images",
        "std": "standard deviation of the readout",
        "samples": "images with a finite readout",
    }
    return tuple(
        Statistic(name, _number(values[name]), meaning) for name, meaning in meanings.items()
    )


def class_relevances(database: Database, row: int, top: int = 8) -> tuple[ClassShare, ...]:
    """Return the classes that a component speaks for most on average, the first first.

    Raises
    ------
    RelevanceError
        If the database was built without class relevance.
    """
    layer = database.component(row).layer
    found: Any = driven_classes(database, np.asarray([row]), [layer])
    found = found[found["mean"] > 0].head(max(top, 0))
    made: list[ClassShare] = []
    for one in found.to_dict("records"):
        all_means = database.relevance(int(one["logit"]), [layer])["mean"].to_numpy()
        rank = int(np.count_nonzero(all_means > one["mean"])) + 1
        made.append(
            ClassShare(
                int(one["logit"]), one["class"], float(one["mean"]), float(one["max"]), rank,
                len(all_means),
            )
        )  # fmt: skip
    return tuple(made)


def measures(frame: pd.DataFrame, place: int, bins: int = BINS) -> tuple[Measure, ...]:
    """Return the measures of one component of a layer, each with its place among all.

    Parameters
    ----------
    frame
        The layer's measures: ``scores(database, [layer]).frame``.
    place
        Place of the component in the layer.
    """
    return tuple(_measure(name, frame[name].to_numpy(np.float64), place, bins) for name in MEASURES)


def _measure(name: str, layer: np.ndarray, place: int, bins: int) -> Measure:
    rated = layer[np.isfinite(layer)]
    value = _number(layer[place])
    percentile = None if value is None else float(np.count_nonzero(rated < value) / len(rated))
    counts: tuple[int, ...] = ()
    if len(rated):
        counts = tuple(np.histogram(rated, bins)[0].tolist())
    low = float(rated.min()) if len(rated) else None
    high = float(rated.max()) if len(rated) else None
    return Measure(name, value, percentile, counts, low, high, MEANINGS[name], FORMULAS[name])


def _number(value: Any) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None
