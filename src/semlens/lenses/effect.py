"""Effect of ablating components on a class's logit, compared with their relevance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from rich.console import Group, RenderableType
from scipy.stats import rankdata
from torch import Tensor

from semlens.draw.text_table import rich_table
from semlens.errors import ConceptError, LayerError, RelevanceError
from semlens.figures import FigureSpec, Point, Scatter
from semlens.lens import lens
from semlens.lenses.arguments import Samples, Target
from semlens.lenses.classes import Pictures, target_images
from semlens.lenses.database_engine import RulesLike
from semlens.lenses.labelling.component_labels import (
    NAMES,
    ComponentLabels,
    LabelSource,
    as_labels,
    label_of,
)
from semlens.lenses.result import Result, plain
from semlens.lenses.statistics.intervals import mean_interval
from semlens.models.forward import batches, logits_without
from semlens.models.target import Target as TargetObject
from semlens.relevance.class_relevance import class_relevance
from semlens.relevance.protocols import RelevanceEngine
from semlens.settings import Reads, Remote, setting
from semlens.store.reader import Database
from semlens.types import REMOTE_COMPONENTS, Component, as_components
from semlens.types import Components as ComponentsLike

Units = Mapping[str, Sequence[Component]]
"""Components that are ablated together, by name."""

LABELLED = 8
"""Number of the most relevant components that are labelled in the figure."""


@dataclass(frozen=True, repr=False)
class Effects(Result):
    """Relevance and effect of n units (components or groups of them) for one class.

    Parameters
    ----------
    units
        The components of each unit, by name; strongest relevance first.
    samples
        int64[s], numbers of the images.
    relevance, effect
        float64[n s], in units of the logit. The effect is the logit with the unit minus the logit
        without it.
    logit
        float64[s], the class's logit with all components.
    rank_correlation
        Spearman's rank correlation of the means over these samples; NaN for fewer than three
        units. It describes these samples: the noise of few samples draws it towards 0.
    on_image
        Mean over samples of the rank correlation on the sample by itself, where nothing is noisy.
    interval
        95 % interval of ``on_image`` for other samples of their kind (Student's t).
    """

    target: int | None
    name: str
    replace: str
    rules: str
    units: Units
    samples: Int64[np.ndarray, " s"]
    relevance: Float64[np.ndarray, "n s"]
    effect: Float64[np.ndarray, "n s"]
    logit: Float64[np.ndarray, " s"]
    rank_correlation: float
    on_image: float
    interval: tuple[float, float]

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.units)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per unit: means over the samples, and standard errors."""
        measured = {"relevance": self.relevance, "effect": self.effect}
        return pd.DataFrame(
            {
                "unit": list(self.units),
                "components": [" ".join(map(str, unit)) for unit in self.units.values()],
                **{name: values.mean(1) for name, values in measured.items()},
                **{
                    f"{name}_error": pd.DataFrame(values.T).sem().to_numpy()
                    for name, values in measured.items()
                },
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = [[str(component) for component in unit] for unit in self.units.values()]
        return plain(  # the correlation may be NaN
            {
                "target": self.target,
                "class": self.name,
                "replace": self.replace,
                "rules": self.rules,
                "samples": self.samples,
                "logit": self.logit.mean(),
                "rank_correlation": self.rank_correlation,
                "on_image": self.on_image,
                "interval": self.interval,
                "effects": self.to_pandas().assign(components=names).to_dict("records"),
            }
        )

    def figure(self) -> FigureSpec:
        """Return effect against relevance, with the line on which both are equal."""
        points = [
            Point(
                one["relevance"], one["effect"], one["unit"],
                label=one["unit"] if place < LABELLED else "",
                x_error=one["relevance_error"], y_error=one["effect_error"],
            )
            for place, one in enumerate(self.to_pandas().to_dict("records"))
        ]  # fmt: skip
        axes = "relevance, in units of the logit", "effect: logit minus logit without it"
        panel = Scatter(self.summary(), points, *axes, diagonal=True)
        return FigureSpec(f"'{self.name}', {len(self.samples)} images", [panel])

    def summary(self) -> str:
        """Return the rank correlations as a sentence."""
        if np.isnan(self.rank_correlation):
            return "rank correlation: needs at least three components or groups that differ"
        low, high = self.interval
        return (
            f"rank correlation of relevance and effect {self.rank_correlation:.2f} for the means "
            f"over these {len(self.samples)} images; on single images {self.on_image:.2f} on "
            f"average (95 % interval {low:.2f} to {high:.2f})"
        )

    def __rich__(self) -> RenderableType:
        """Return the effects as a table, and the rank correlation."""
        title = f"'{self.name}': {len(self.samples)} images, mean logit {self.logit.mean():.3f}"
        frame = self.to_pandas().assign(size=[len(unit) for unit in self.units.values()])
        grouped = not frame["unit"].equals(frame["components"])
        size_column = ["size"] if grouped else []
        columns = ["unit", *size_column, "relevance", "effect", "relevance_error", "effect_error"]
        return Group(rich_table(frame, title, columns), self.summary())


def _read_units(
    database: Database, components: ComponentsLike | Mapping[str, ComponentsLike] | None
) -> Units | None:
    """Return components or groups by name; each component is in the database."""
    if components is None:
        return None
    if not isinstance(components, Mapping):
        components = {str(component): component for component in as_components(components)}
    units = {str(name): as_components(unit) for name, unit in components.items()}
    if not units or not all(units.values()):
        raise LayerError(
            "There is no component to ablate.",
            "Expected at least one component, and no empty groups.",
            "Give components as LAYER:INDEX, or leave them out for the most relevant ones.",
        )
    database.rows_of([component for unit in units.values() for component in unit])
    return units


@lens("model", "images", "embedder", group="Explain", command="")
def effect(
    database: Database,
    target: Target,
    components: Annotated[
        Units | None,
        Reads(ComponentsLike | Mapping[str, ComponentsLike] | None, _read_units),
        setting("Components, repeated or separated by commas [the most relevant ones]."),
        REMOTE_COMPONENTS,
    ] = None,
    *,
    samples: Samples = 100,
    images: Pictures = None,
    top: Annotated[int, setting("Number of most relevant components.", ge=1)] = 20,
    layer: Annotated[
        str | None,
        setting("Layer of the most relevant components [the deepest]."),
        Remote(str | None, "layer"),
    ] = None,
    group_by: Annotated[
        Literal["label"] | None, setting("Ablate components with the same label together.")
    ] = None,
    concepts: LabelSource = NAMES,
    replace: Annotated[
        Literal["zero", "mean"], setting("Value that replaces an ablated component.")
    ] = "zero",
    rules: RulesLike = None,
    batch_size: Annotated[int, setting("Images per pass for relevance.", ge=1)] = 32,
) -> Effects:
    """Ablate components or groups, and compare the change of a class's logit with their relevance.

    Another target is measured in the same way; what it holds, such as the region where a class is
    predicted, is that of the intact model.

    A channel is ablated as a whole, at all positions and for both signs. Its relevance is also
    that of the whole channel.

    Parameters
    ----------
    components
        Components, or groups of them by name. By default, the ``top`` channels of ``layer`` with
        the largest absolute mean relevance.
    samples, images
        Maximum number of samples of the class, or numbers of any samples; or pictures from
        anywhere.
    group_by, concepts
        With ``label``, components with the same label are ablated together, and components
        without a label are left out. The concepts are the source of labels.
    replace
        ``zero``, or ``mean``: the component's mean activation over the database's data.

    Raises
    ------
    DataError
        If the class has no samples, and no samples or images are given.
    RelevanceError
        If there is no such class, or the database does not have mean activations for ``mean``.
    LayerError
        If a layer or component is not in the database.
    ConceptError
        If there are no labels to group by.
    """
    class_data = target_images(database, target, samples, images)
    units = components
    selected = [component for unit in (units or {}).values() for component in unit]
    layers = database.layer_names([c.layer for c in selected] or layer)
    engine = class_data.engine(layers, rules)
    if units is None:
        layers = engine.sort_layers(layers)[-1:]
        selected = [database.component(int(row)) for row in database.rows(layers)]
        candidates = [c for c in selected if group_by is not None or c.sign > 0]
        units = {str(component): (component,) for component in candidates}
    if group_by is not None:
        units = _groups(selected, as_labels(database, concepts, layers))
    replacements = _values(database, selected, replace)
    inputs = batches(
        database.model, class_data.read, class_data.samples, batch_size, "measuring relevance"
    )
    batch_relevance = [_relevance(engine, batch, class_data.target, units) for batch in inputs]
    relevance = np.concatenate(batch_relevance, axis=1)
    count = top if components is None else None
    order = np.argsort(-np.abs(relevance.mean(1)), kind="stable")[:count]
    names = list(units)
    units = {names[i]: tuple(units[names[i]]) for i in order}
    logit, ablated = logits_without(
        database.model,
        class_data.read,
        class_data.samples,
        class_data.target,
        list(units.values()),
        replacements,
    )
    effects = logit[None] - ablated
    return Effects(
        target.index,
        target.name,
        replace,
        engine.rules.name,
        units,
        np.asarray(class_data.samples, np.int64),
        relevance[order],
        effects,
        logit,
        *correlations(relevance[order], effects),
    )


def _relevance(
    engine: RelevanceEngine, inputs: Tensor, target: TargetObject, units: Units
) -> Float64[np.ndarray, "n b"]:
    """Return the relevance of each unit's channels for the class, by image."""
    layers = list(dict.fromkeys(c.layer for unit in units.values() for c in unit))
    channels = class_relevance(engine, inputs, target, layers)
    relevance = np.zeros((len(units), len(inputs)))
    for row, unit in enumerate(units.values()):
        for name, index in {(c.layer, c.index) for c in unit}:
            if name in channels:
                relevance[row] += channels[name][:, index].cpu().double().numpy()
    return relevance


def _groups(components: Sequence[Component], labels: ComponentLabels) -> Units:
    """Group components by label; components without a label are left out."""
    groups: dict[str, list[Component]] = {}
    for component in components:
        label = label_of(labels, component)
        if label is not None:
            groups.setdefault(label, []).append(component)
    if not groups:
        raise ConceptError(
            f"None of {len(components)} components has a label to group by.",
            "Expected concepts that match some components, and an embedder that embeds texts.",
            "Give other concepts, or leave out group_by.",
        )
    return groups


def _values(
    database: Database, components: Sequence[Component], replace: str
) -> Mapping[Component, float]:
    """Return the value that replaces each component.

    Raises
    ------
    RelevanceError
        If the database does not have mean activations.
    """
    if replace == "zero":
        return dict.fromkeys(components, 0.0)
    readout = database.manifest.recipe.readout
    if readout != "mean":
        raise RelevanceError(
            f"The database has the readout '{readout}'.",
            "Expected mean activations, which are in databases with the readout 'mean'.",
            "Replace by 'zero', or build a database with the readout 'mean'.",
        )
    means = database.components["mean"].to_numpy()
    return {component: float(means[database.row(component)]) for component in components}


def correlations(
    relevance: Float64[np.ndarray, "n s"], change: Float64[np.ndarray, "n s"]
) -> tuple[float, float, tuple[float, float]]:
    """Return Spearman's correlation of the means, its mean over samples, and the latter's interval.

    A sample on which either is the same for all units has none.
    """
    none = float("nan")
    if len(relevance) < 3:
        return none, none, (none, none)
    of_means = float(_spearman(relevance.mean(1, keepdims=True), change.mean(1, keepdims=True))[0])
    by_sample = _spearman(relevance, change)
    by_sample = by_sample[~np.isnan(by_sample)]
    if not len(by_sample):
        return of_means, none, (none, none)
    low, high = np.clip(mean_interval(by_sample), -1, 1).tolist()
    return of_means, float(by_sample.mean()), (low, high)


def _spearman(
    x: Float64[np.ndarray, "n s"], y: Float64[np.ndarray, "n s"]
) -> Float64[np.ndarray, " s"]:
    """Return the rank correlation of each column; NaN where one does not vary."""
    a, b = (ranks - ranks.mean(0) for ranks in (rankdata(x, axis=0), rankdata(y, axis=0)))
    norm = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return np.divide((a * b).sum(0), norm, out=np.full(len(norm), np.nan), where=norm > 0)
