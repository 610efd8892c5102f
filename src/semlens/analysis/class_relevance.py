"""Which components a class relies on most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from rich.console import RenderableType

from semlens.analysis.class_images import Pictures
from semlens.analysis.graph.relevance import component_shares, make_job
from semlens.analysis.graph.trace import reached_layers
from semlens.analysis.label import VOCABULARY
from semlens.analysis.label_source import LabelSource, as_labels, label_of
from semlens.analysis.result import Result
from semlens.analysis.target import class_name, find_class
from semlens.draw.table import rich_table
from semlens.errors import RelevanceError
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Component, Layers, Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per component."""
        return self.frame.copy()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        records = self.frame.to_dict("records")
        return {"target": self.target, "rules": self.rules, "components": records}

    def plot(self) -> Figure:
        """Draw the mean shares as bars, the largest ones as marks."""
        from semlens.draw.bars_plot import bars_plot

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
        parts = [
            {"component": database.rows(name), "mean": share.mean(0), "max": share.max(0)}
            for name, share in component_shares(job).items()
        ]
        found = pd.concat(map(pd.DataFrame, parts))
        rules = job.engine.rules.name
    found = found.nlargest(top, "mean")
    components = [database.component(int(row)) for row in found["component"]]
    frame = found[["mean", "max"]].reset_index(drop=True)
    frame.insert(0, "component", [str(component) for component in components])
    frame.insert(1, "layer", [component.layer for component in components])
    labels = as_labels(database, concepts, sorted(set(frame["layer"])) or None)
    if labels is not None:
        frame["label"] = [label_of(labels, component) for component in components]
    return RelevantComponents(number, class_name(database, number), rules, frame)
