"""Which components a class relies on: as the database knows it, or on any images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from rich.console import RenderableType

from semlens.analysis.classes import Pictures, class_name, find_class
from semlens.analysis.graph.relevance_trace import component_shares, make_job, reached_layers
from semlens.analysis.label import VOCABULARY, LabelSource, as_labels, label_of
from semlens.analysis.result import Chart, Result
from semlens.draw.text_table import rich_table
from semlens.errors import RelevanceError
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Component, Layers, Target

MINIMUM = 0.01
"""Least share of its layer's relevance with which a component is relevant (paper, D.5)."""
COVERAGE = 0.8
"""Share of a layer's relevance for which the number of components is counted."""
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
    kept: Any = found[found["max"] >= minimum]
    if kept.empty and not empty_ok:
        raise RelevanceError(
            f"No component of '{database.path}' reaches {100 * minimum:g} % of its layer's "
            f"relevance for class '{class_name(database, number)}'.",
            f"The most relevant one has {100 * found['max'].max():.2g} %."
            if len(found)
            else "None has a share that was kept.",
            "Lower the minimum, or choose other layers.",
        )
    kept = kept.sort_values(["mean", "component"], ascending=[False, True], ignore_index=True)
    layer = database.components["layer"].to_numpy()[kept["component"]]
    return kept.assign(layer=layer)[["component", "layer", "mean", "max"]]


def class_table(database: Database, minimum: float = MINIMUM) -> pd.DataFrame:
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
    return pd.DataFrame(
        {
            "target": classes,
            "name": [class_name(database, int(number)) for number in classes],
            "samples": known["samples"].to_numpy(np.int64),
            "relevant": relevant,
        }
    )


@dataclass(frozen=True)
class RelevantComponent:
    """One component, with its shares of its layer's relevance for a class."""

    component: Component
    mean: float
    """On average over the class's samples; below zero it speaks against the class."""
    max: float
    """On the sample where it is largest."""
    cumulative: float
    """Share of the layer's relevance of all components down to this one."""
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
    covered
        Share of the layer's relevance of all components whose shares were saved, by the absolute
        mean: components whose sign changes between samples count less.
    components_for_coverage
        Number of strongest components that together have :data:`COVERAGE` of the layer's
        relevance; None if all of them have less.
    strongest
        The largest mean share, in size, comes first.
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
        cumulative = np.cumsum(size)
        enough = int(np.searchsorted(cumulative, COVERAGE)) + 1
        relevant = relevant_rows(database, target, name, minimum, empty_ok=True)
        mine = table["component"].isin(relevant["component"]) | (size >= minimum)
        columns = table[["component", "mean", "max"]].assign(cumulative=cumulative)
        listed = columns[mine].head(top).itertuples(index=False, name=None)
        found.append(
            LayerRelevance(
                name,
                database.layer(name).rows,
                len(relevant),
                float(cumulative[-1]) if len(cumulative) else 0.0,
                enough if enough <= len(cumulative) else None,
                tuple(
                    RelevantComponent(database.component(row), mean, largest, share)
                    for row, mean, largest, share in listed
                ),
            )
        )
    return found


@dataclass(frozen=True, repr=False)
class RelevantComponents(Result):
    """The components that a class relies on most.

    Parameters
    ----------
    target, name
        The class: its logit and its name.
    rules
        The rules of relevance.
    frame
        ``component``, ``layer``, ``mean``, ``max``, and ``label`` if labels were asked for. Both
        numbers are shares of the layer's absolute relevance: mean over the images, and on
        the image where it is largest. The largest mean comes first.
    """

    target: int
    name: str
    rules: str | None
    frame: pd.DataFrame

    @property
    def components(self) -> list[Component]:
        """The components, the most relevant first."""
        return [Component.parse(name) for name in self.frame["component"]]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "target": self.target,
            "rules": self.rules,
            "components": self.frame.to_dict("records"),
        }

    def plot(self) -> Chart:
        """Draw the mean shares as bars, the largest ones as marks."""
        from semlens.draw.component_plots import bars_plot

        names = self.frame["component"]
        if "label" in self.frame:
            names = names + " " + self.frame["label"].fillna("?")
        mean, peaks = self.frame["mean"].tolist(), self.frame["max"].tolist()
        return bars_plot(names.tolist(), mean, self._title, "share of the layer's relevance", peaks)

    @property
    def _title(self) -> str:
        return f"What '{self.name}' relies on (share of the layer's relevance)"

    def __rich__(self) -> RenderableType:
        """Return the table, in per cent."""
        shown = self.frame.drop(columns="layer")
        for column in ("mean", "max"):
            shown[column] = [f"{100 * value:.1f} %" for value in shown[column]]
        return rich_table(shown, self._title)


@question("model", "images", "embedder")
def class_relevance(
    database: Database,
    target: Target,
    *,
    top: Annotated[int, setting("How many components.", ge=1)] = 20,
    layers: Layers = None,
    concepts: LabelSource = VOCABULARY,
    samples: Annotated[
        int | Sequence[int] | np.ndarray | None,
        setting("Compute it on so many images of the class [as it was built].", ge=1),
    ] = None,
    images: Pictures = None,
) -> RelevantComponents:
    """List the components that a class relies on most.

    The relevance is what the build has kept of the class's samples, unless images are named.

    Parameters
    ----------
    concepts
        What labels are taken from: concepts, labels from :func:`semlens.label`, or None.
    samples, images
        How many samples of the class at most, or the numbers of any samples; or pictures from
        anywhere: their relevance for the class is computed now.

    Raises
    ------
    RelevanceError
        If there is no such class, or the database has no relevance for it.
    """
    number = find_class(database, target)
    if samples is None and images is None:
        known = set(database.relevance_classes["class"])
        if number not in known:
            raise RelevanceError(
                f"The database holds no relevance for class {number}.",
                f"It has {len(known)} classes with samples.",
                "Choose one of them, or say on which images: samples=[0, 1, ...], or images=...",
            )
        found = database.relevance(number, layers)
        entry = database.manifest.relevance
        rules = None if entry is None else entry.rules
    else:
        layers = reached_layers(database, number, layers)
        job = make_job(database, number, 1 if samples is None else samples, images, layers)
        found = pd.concat(
            pd.DataFrame(
                {"component": database.rows(name), "mean": share.mean(0), "max": share.max(0)}
            )
            for name, share in component_shares(job).items()
        )
        rules = job.engine.rules.name
    found = found.nlargest(top, "mean")
    components = [database.component(int(row)) for row in found["component"]]
    frame = pd.DataFrame(
        {
            "component": [str(component) for component in components],
            "layer": [component.layer for component in components],
            "mean": found["mean"].to_numpy(),
            "max": found["max"].to_numpy(),
        }
    )
    labels = as_labels(database, concepts, sorted(set(frame["layer"])) or None)
    if labels is not None:
        frame["label"] = [label_of(labels, component) for component in components]
    return RelevantComponents(number, class_name(database, number), rules, frame)
