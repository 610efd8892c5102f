"""Components that a class relies on, from the database or computed on any images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from rich.console import RenderableType

from semlens.draw.text_table import rich_table
from semlens.errors import RelevanceError
from semlens.figures import ComponentRow, Components, FigureSpec
from semlens.lens import lens
from semlens.lenses.arguments import AnySamples, Target
from semlens.lenses.classes import Pictures, class_name
from semlens.lenses.graph.relevance_trace import (
    IMAGES,
    component_shares,
    make_job,
    reached_layers,
)
from semlens.lenses.labelling.component_labels import NAMES, LabelSource, as_labels, label_of
from semlens.lenses.result import Result
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Component, Layers

MINIMUM = 0.01
"""Minimum share of its layer's relevance for a component to be relevant (paper, D.5)."""
COVERAGE = 0.8
"""Fraction of a layer's relevance for which the number of components is counted."""
Minimum = Annotated[float, setting("Minimum share of relevance, on the best sample.", ge=0, le=1)]
"""Minimum share, for questions about the relevant components of a class."""
TargetFilter = Annotated[
    int | str | None, setting("Use only components that are relevant for this class.")
]
"""A class, for questions that can be restricted to its relevant components."""


def relevant_rows(
    database: Database,
    target: int,
    layers: Layers = None,
    minimum: float = MINIMUM,
    *,
    empty_ok: bool = False,
) -> pd.DataFrame:
    """Return the components that are relevant for a class, largest mean share first.

    A component is relevant if its share of its layer's relevance is at least ``minimum`` on some
    sample of the class.

    Parameters
    ----------
    empty_ok
        Whether to return an empty table instead of raising an error.

    Returns
    -------
    DataFrame
        ``component`` (row), ``layer``, ``mean`` and ``max`` of the share.

    Raises
    ------
    RelevanceError
        If the database has no relevance for the class, or no component reaches the minimum.
    """
    table = database.relevance(target, layers)
    relevant: Any = table[table["max"] >= minimum]
    if relevant.empty and not empty_ok:
        raise RelevanceError(
            f"No component of '{database.location}' reaches {100 * minimum:g} % of its layer's "
            f"relevance for class '{class_name(database, target)}'.",
            f"The most relevant component has {100 * table['max'].max():.2g} %."
            if len(table)
            else "The database has no shares for it.",
            "Lower the minimum, or choose other layers.",
        )
    relevant = relevant.sort_values(
        ["mean", "component"], ascending=[False, True], ignore_index=True
    )
    layer = database.components["layer"].to_numpy()[relevant["component"]]
    return relevant.assign(layer=layer)[["component", "layer", "mean", "max"]]


def mean_shares(database: Database, target: int | None) -> Float64[np.ndarray, " components"]:
    """Return every component's mean share for a class; NaN where the database lacks it."""
    shares = np.full(database.manifest.rows, np.nan)
    if target is None or database.manifest.relevance is None:
        return shares
    try:
        table = database.relevance(target)
    except RelevanceError:  # of this class there were no samples
        return shares
    shares[:] = 0.0  # shares below the database's floor are not stored
    shares[table["component"]] = table["mean"]
    return shares


def class_table(database: Database, minimum: float = MINIMUM) -> pd.DataFrame:
    """Return the classes that the database has relevance for, in the order of their logits.

    Returns
    -------
    DataFrame
        ``target``, ``name``, ``samples``, and ``relevant``: the number of components that reach
        the minimum on some sample.

    Raises
    ------
    RelevanceError
        If the database was built without relevance.
    """
    table = database.relevance_classes.sort_values("class", ignore_index=True)
    classes = table["class"].to_numpy(np.int64)
    relevant = np.zeros(len(classes), np.int64)
    for layer in database.layers:  # one at a time, to limit memory
        layer_table = database.relevance(None, [layer])
        reached = layer_table["class"].to_numpy()[layer_table["max"].to_numpy() >= minimum]
        relevant += np.bincount(np.searchsorted(classes, reached), minlength=len(classes))
    return pd.DataFrame(
        {
            "target": classes,
            "name": [class_name(database, int(target)) for target in classes],
            "samples": table["samples"].to_numpy(np.int64),
            "relevant": relevant,
        }
    )


@dataclass(frozen=True)
class RelevantComponent:
    """A component, with its shares of its layer's relevance for a class."""

    component: Component
    mean: float
    """Mean over the class's samples; a negative share speaks against the class."""
    max: float
    """Share on the sample where it is largest."""
    cumulative: float
    """Sum of the absolute mean shares of this component and all stronger ones."""
    label: str | None = None


@dataclass(frozen=True)
class LayerRelevance:
    """The components of one layer that are relevant for a class.

    Parameters
    ----------
    components
        Number of components of the layer.
    relevant
        Number of components that reach the minimum on some sample.
    covered
        Sum of the absolute mean shares of all components in the database's table. Shares that
        change sign from sample to sample count less.
    components_for_coverage
        Number of strongest components that together carry :data:`COVERAGE` of the layer's
        relevance; None if all of them carry less.
    strongest
        Sorted by the absolute mean share, largest first.
    """

    layer: str
    components: int
    relevant: int
    covered: float
    components_for_coverage: int | None
    strongest: tuple[RelevantComponent, ...]


def relevant_components(
    database: Database,
    target: int,
    *,
    layers: Layers = None,
    top: int = 20,
    minimum: float = MINIMUM,
) -> list[LayerRelevance]:
    """Return the components that a class relies on most, by layer in the order of the database.

    Parameters
    ----------
    minimum
        Components are listed if their share reaches it on some sample, or if their absolute mean
        share reaches it.

    Raises
    ------
    RelevanceError
        If the database has no relevance for the class.
    """
    result: list[LayerRelevance] = []
    for name in database.layer_names(layers):
        table = database.relevance(target, [name])
        magnitude = table["mean"].abs()
        order = np.lexsort((table["component"], -magnitude))
        table, magnitude = table.iloc[order], magnitude.iloc[order].to_numpy(np.float64)
        cumulative = np.cumsum(magnitude)
        coverage_count = int(np.searchsorted(cumulative, COVERAGE)) + 1
        relevant = relevant_rows(database, target, name, minimum, empty_ok=True)
        is_listed = table["component"].isin(relevant["component"]) | (magnitude >= minimum)
        columns = table[["component", "mean", "max"]].assign(cumulative=cumulative)
        rows = columns[is_listed].head(top).itertuples(index=False, name=None)
        result.append(
            LayerRelevance(
                name,
                database.layer(name).rows,
                len(relevant),
                float(cumulative[-1]) if len(cumulative) else 0.0,
                coverage_count if coverage_count <= len(cumulative) else None,
                tuple(
                    RelevantComponent(database.component(row), mean, largest, share)
                    for row, mean, largest, share in rows
                ),
            )
        )
    return result


@dataclass(frozen=True, repr=False)
class RelevantComponents(Result):
    """The components that a class relies on most.

    Parameters
    ----------
    target, name
        Logit and name of the class; None for a target that is not one class.
    rules
        Name of the relevance rules.
    frame
        ``component``, ``layer``, ``mean``, ``max``, and ``label`` if there are labels, largest
        mean first. ``mean`` and ``max`` are shares of the layer's absolute relevance: the mean
        over the images, and the share on the image where it is largest.
    """

    target: int | None
    name: str
    rules: str | None
    frame: pd.DataFrame
    database: Database

    @property
    def components(self) -> list[Component]:
        """The components, most relevant first."""
        return [Component.parse(name) for name in self.frame["component"]]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "target": self.target,
            "rules": self.rules,
            "components": self.frame.to_dict("records"),
        }

    def figure(self) -> FigureSpec:
        """Return the mean share of each component, with the largest share of an image."""
        labels = self.frame["label"] if "label" in self.frame else [None] * len(self.frame)
        rows = [
            ComponentRow(
                component, float(mean), label, tone="for" if mean >= 0 else "against",
                note=f"at most {100 * largest:.1f} %",
            )
            for component, mean, largest, label in zip(
                self.components, self.frame["mean"], self.frame["max"], labels, strict=True
            )
        ]  # fmt: skip
        return FigureSpec(self._title, [Components("", rows, "share of the layer's relevance")])

    @property
    def _title(self) -> str:
        return f"Components that '{self.name}' relies on (share of the layer's relevance)"

    def __rich__(self) -> RenderableType:
        """Return the components as a table, with shares in per cent."""
        shares = {name: [f"{100 * v:.1f} %" for v in self.frame[name]] for name in ("mean", "max")}
        return rich_table(self.frame.drop(columns="layer").assign(**shares), self._title)


@lens("model", "images", "embedder", group="Explain", command="")
def class_relevance(
    database: Database,
    target: Target,
    *,
    top: Annotated[int, setting("Number of components.", ge=1)] = 20,
    layers: Layers = None,
    concepts: LabelSource = NAMES,
    samples: Annotated[
        AnySamples,
        setting("Compute relevance on this many images of the class [use the build's].", ge=1),
    ] = None,
    images: Pictures = None,
) -> RelevantComponents:
    """List the components that a class relies on most.

    Without ``samples`` and ``images``, relevance is read from the database; otherwise it is
    computed on them. Of a target that is not one class it is always computed.

    Parameters
    ----------
    concepts
        Source of labels: concepts, labels from ``db.label``, or None.
    samples, images
        Maximum number of samples of the class, or numbers of any samples; or pictures from
        anywhere.

    Raises
    ------
    RelevanceError
        If there is no such class, or the database has no relevance for it.
    """
    if samples is None and images is None and target.index is None:
        samples = IMAGES
    if samples is None and images is None:
        available = set(database.relevance_classes["class"])
        if target.index not in available:
            raise RelevanceError(
                f"The database has no relevance for class {target.index}.",
                f"Expected one of its {len(available)} classes with samples.",
                "Choose one of them, or compute relevance on samples or images of your choice.",
            )
        table = database.relevance(target.index, layers)
        entry = database.manifest.relevance
        rules = None if entry is None else entry.rules
    else:
        layers = reached_layers(database, target.index, layers)
        job = make_job(database, target, 1 if samples is None else samples, images, layers)
        table = pd.concat(
            pd.DataFrame(
                {"component": database.rows(name), "mean": share.mean(0), "max": share.max(0)}
            )
            for name, share in component_shares(job).items()
        )
        rules = job.engine.rules.name
    table = table.nlargest(top, "mean")
    components = [database.component(int(row)) for row in table["component"]]
    frame = pd.DataFrame(
        {
            "component": [str(component) for component in components],
            "layer": [component.layer for component in components],
            "mean": table["mean"].to_numpy(),
            "max": table["max"].to_numpy(),
        }
    )
    labels = as_labels(database, concepts, sorted(set(frame["layer"])) or None)
    if labels is not None:
        names = [label_of(labels, component) for component in components]
        frame["label"] = pd.Series(names, frame.index, object)  # no label stays None
    return RelevantComponents(target.index, target.name, rules, frame, database)
