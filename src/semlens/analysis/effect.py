"""Does relevance name what the model uses? Ablate components and measure the class logit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, Int64
from rich.console import Group, RenderableType
from scipy.stats import rankdata
from torch import Tensor

from semlens.analysis.classes import Pictures, Samples, class_images, class_name
from semlens.analysis.database_engine import RulesLike
from semlens.analysis.label import VOCABULARY, LabelSource, Named, as_labels, label_of
from semlens.analysis.result import Chart, Result, plain
from semlens.draw.text_table import rich_table
from semlens.errors import ConceptError, LayerError, RelevanceError
from semlens.models.forward import batches, logits_without
from semlens.relevance.class_relevance import class_relevance
from semlens.relevance.protocols import RelevanceEngine
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Component, Components, Target, as_components

Units = Mapping[str, Sequence[Component]]
"""What is ablated together, by name."""

DRAWS = 1000
"""Bootstrap samples of the images."""


@dataclass(frozen=True, repr=False)
class Effects(Result):
    """Relevance and effect of n components, or groups of them, for one class.

    Parameters
    ----------
    units
        The components of each, by name; strongest relevance first.
    samples
        int64[s], numbers of the images.
    relevance, effect
        float64[n s], in units of the logit. The effect is the logit with the component less
        the logit without it.
    logit
        float64[s], the class's logit with all components.
    rank_correlation
        Spearman's, of the means over samples; NaN below three units.
    interval
        Its 95 % bootstrap interval over the samples.
    """

    target: int
    name: str
    replace: str
    rules: str
    units: Units
    samples: Int64[np.ndarray, " s"]
    relevance: Float64[np.ndarray, "n s"]
    effect: Float64[np.ndarray, "n s"]
    logit: Float64[np.ndarray, " s"]
    rank_correlation: float
    interval: tuple[float, float]

    def __len__(self) -> int:
        """Return the number of components or groups."""
        return len(self.units)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per component or group: means over the samples, and standard errors."""
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
        """Return plain values for a program."""
        names = [[str(component) for component in unit] for unit in self.units.values()]
        return plain(  # of two components there is no correlation
            {
                "target": self.target,
                "class": self.name,
                "replace": self.replace,
                "rules": self.rules,
                "samples": self.samples,
                "logit": self.logit.mean(),
                "rank_correlation": self.rank_correlation,
                "interval": self.interval,
                "effects": self.to_pandas().assign(components=names).to_dict("records"),
            }
        )

    def plot(self) -> Chart:
        """Draw effect against relevance; both are equal on the line."""
        from semlens.draw.component_plots import effect_plot

        title = f"'{self.name}', {len(self.samples)} images"
        return effect_plot(self.to_pandas(), title, self.summary())

    def summary(self) -> str:
        """Return the rank correlation as a sentence."""
        if np.isnan(self.rank_correlation):
            return "rank correlation: needs three components or groups that differ"
        low, high = self.interval
        return (
            f"rank correlation of relevance and effect {self.rank_correlation:.2f} "
            f"(95 % interval {low:.2f} to {high:.2f} over the images)"
        )

    def __rich__(self) -> RenderableType:
        """Return the table, and the rank correlation."""
        title = f"'{self.name}': {len(self.samples)} images, mean logit {self.logit.mean():.3f}"
        frame = self.to_pandas().assign(size=[len(unit) for unit in self.units.values()])
        grouped = not frame["unit"].equals(frame["components"])
        size = ["size"] if grouped else []
        columns = ["unit", *size, "relevance", "effect", "relevance_error", "effect_error"]
        return Group(rich_table(frame, title, columns), self.summary())


@question("model", "images", "embedder")
def effect(
    database: Database,
    target: Target,
    components: Annotated[
        Components | Mapping[str, Components] | None,
        setting("Components, given again or joined by commas [the most relevant ones]."),
    ] = None,
    *,
    samples: Samples = 100,
    images: Pictures = None,
    top: Annotated[int, setting("How many of the most relevant ones.", ge=1)] = 20,
    layer: Annotated[str | None, setting("Layer of the most relevant ones [the deepest].")] = None,
    group_by: Annotated[
        Literal["label"] | None, setting("Ablate components of one label together.")
    ] = None,
    concepts: LabelSource = VOCABULARY,
    replace: Annotated[
        Literal["zero", "mean"], setting("What an ablated component becomes.")
    ] = "zero",
    rules: RulesLike = None,
    batch_size: Annotated[int, setting("Images per pass for relevance.", ge=1)] = 32,
) -> Effects:
    """Ablate components or groups and set the change of a class's logit beside their relevance.

    Ablation takes a channel as a whole, at all positions and whichever its sign, and so the
    relevance beside it is the channel's as a whole too.

    Parameters
    ----------
    components
        Components, or groups of them by name. By default the channels of ``layer``: the
        ``top`` ones by size of their mean relevance.
    samples, images
        How many samples of the class to take at most, or the numbers of any samples; or
        pictures from anywhere.
    group_by, concepts
        With ``label``, components of one label are ablated together; those without are left
        out. The concepts are what labels are taken from.
    replace
        ``zero``, or ``mean``: the component's mean activation over the database's data.

    Raises
    ------
    DataError
        If the class has no samples, and none are named.
    RelevanceError
        If there is no such class, or ``mean`` is asked for where it is not known.
    LayerError
        If a layer or component is not in the database.
    ConceptError
        If there are no labels to group by.
    """
    shown = class_images(database, target, samples, images)
    units = None if components is None else _units(components)
    members = [component for unit in (units or {}).values() for component in unit]
    database.rows_of(members)  # what there is not is told before the model is loaded
    layers = database.layer_names([c.layer for c in members] or layer)
    engine = shown.engine(layers, rules)
    if units is None:
        layers = engine.sort_layers(layers)[-1:]
        members = [database.component(int(row)) for row in database.rows(layers)]
        single = [c for c in members if group_by is not None or c.sign > 0]
        units = {str(component): (component,) for component in single}
    if group_by is not None:
        units = _groups(members, as_labels(database, concepts, layers))
    to = _values(database, members, replace)
    inputs = batches(database.model, shown.read, shown.samples, batch_size, "measuring relevance")
    parts = [_relevance(engine, batch, shown.target, units) for batch in inputs]
    found = np.concatenate(parts, axis=1)
    most = top if components is None else None
    order = np.argsort(-np.abs(found.mean(1)), kind="stable")[:most]
    names = list(units)
    units = {names[i]: tuple(units[names[i]]) for i in order}
    logit, ablated = logits_without(
        database.model, shown.read, shown.samples, shown.target, list(units.values()), to
    )
    change = logit[None] - ablated
    return Effects(
        shown.target,
        class_name(database, shown.target),
        replace,
        engine.rules.name,
        units,
        np.asarray(shown.samples, np.int64),
        found[order],
        change,
        logit,
        *_correlation(found[order], change),
    )


def _relevance(
    engine: RelevanceEngine, inputs: Tensor, target: int, units: Units
) -> Float64[np.ndarray, "n b"]:
    """Return the relevance of each unit's channels for the class, image by image."""
    layers = list(dict.fromkeys(c.layer for unit in units.values() for c in unit))
    channels = class_relevance(engine, inputs, torch.full((len(inputs),), target), layers)
    found = np.zeros((len(units), len(inputs)))
    for place, unit in enumerate(units.values()):
        for name, index in {(c.layer, c.index) for c in unit}:
            if name in channels:
                found[place] += channels[name][:, index].double().cpu().numpy()
    return found


def _units(components: Components | Mapping[str, Components]) -> Units:
    """Give every component or group a name."""
    if not isinstance(components, Mapping):
        components = {str(component): component for component in as_components(components)}
    units = {str(name): as_components(unit) for name, unit in components.items()}
    if not units or not all(units.values()):
        raise LayerError(
            "There is no component to ablate.",
            "Expected at least one, and none of the groups empty.",
            "Name components as LAYER:INDEX, or leave them out for the most relevant ones.",
        )
    return units


def _groups(components: Sequence[Component], labels: Named) -> Units:
    """Join components of equal label; those without one are left out."""
    groups: dict[str, list[Component]] = {}
    for component in components:
        name = label_of(labels, component)
        if name is not None:
            groups.setdefault(name, []).append(component)
    if not groups:
        raise ConceptError(
            f"None of {len(components)} components has a label to group by.",
            "Expected concepts that some are aligned with, and an embedder that reads texts.",
            "Give other concepts, or leave out group_by.",
        )
    return groups


def _values(
    database: Database, components: Sequence[Component], replace: str
) -> Mapping[Component, float]:
    """Return what each component is replaced by.

    Raises
    ------
    RelevanceError
        If the database does not have the means.
    """
    if replace == "zero":
        return dict.fromkeys(components, 0.0)
    readout = database.manifest.recipe.readout
    if readout != "mean":
        raise RelevanceError(
            f"The database holds the mean of the readout '{readout}'.",
            "Replacing by the mean needs mean activations: a database of the readout 'mean'.",
            "Use zero, or build a database with readout 'mean'.",
        )
    means = database.components["mean"].to_numpy()
    return {component: float(means[database.row(component)]) for component in components}


def _correlation(
    relevance: Float64[np.ndarray, "n s"], change: Float64[np.ndarray, "n s"]
) -> tuple[float, tuple[float, float]]:
    """Return Spearman's correlation of the means, and its bootstrap interval over samples."""
    count = relevance.shape[1]
    if len(relevance) < 3:
        return float("nan"), (float("nan"), float("nan"))
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS)
    weights = np.concatenate([np.ones((1, count)), drawn]) / count
    both = [rankdata(weights @ values.T, axis=1) for values in (relevance, change)]
    first, second = (ranks - ranks.mean(1, keepdims=True) for ranks in both)
    size = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    found = np.divide((first * second).sum(1), size, out=np.full(len(size), np.nan), where=size > 0)
    if np.isnan(found[1:]).all():
        return float(found[0]), (float("nan"), float("nan"))
    low, high = np.nanpercentile(found[1:], [2.5, 97.5])
    return float(found[0]), (float(low), float(high))
