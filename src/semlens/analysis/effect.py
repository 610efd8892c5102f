"""Does relevance name what the model uses? Ablate components and measure the class logit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, Int64
from scipy.stats import rankdata
from torch import Tensor

from semlens.analysis.label import Labels
from semlens.analysis.target import class_name, class_samples
from semlens.data.images import Images
from semlens.errors import DataError, LayerError, RelevanceError, StoreError
from semlens.models.ablate import ablated_logits
from semlens.models.forward import batches
from semlens.models.subject import SubjectModel
from semlens.relevance.choose import make_engine
from semlens.relevance.classes import class_relevance
from semlens.relevance.interface import Tracer
from semlens.store.files import save_csv
from semlens.store.reader import Database
from semlens.types import Component

Units = Mapping[str, Sequence[Component]]
"""What is ablated together, by name."""

DRAWS = 1000
"""Bootstrap samples of the images."""


@dataclass(frozen=True)
class Effects:
    """Relevance and effect of n components, or groups of them, for one class.

    Parameters
    ----------
    units
        The components of each, by name; strongest relevance first.
    samples
        int64[s], the samples of the class.
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
        scale = np.sqrt(max(len(self.samples), 1))
        spread = {
            name: values.std(axis=1, ddof=1) / scale
            if len(self.samples) > 1
            else np.full(len(self), np.nan)
            for name, values in (("relevance", self.relevance), ("effect", self.effect))
        }
        return pd.DataFrame(
            {
                "unit": list(self.units),
                "components": [[str(c) for c in unit] for unit in self.units.values()],
                "relevance": self.relevance.mean(1),
                "effect": self.effect.mean(1),
                "relevance_error": spread["relevance"],
                "effect_error": spread["effect"],
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "target": self.target,
            "class": self.name,
            "replace": self.replace,
            "rules": self.rules,
            "samples": self.samples.tolist(),
            "logit": float(self.logit.mean()),
            "rank_correlation": self.rank_correlation,
            "interval": list(self.interval),
            "effects": self.to_pandas().to_dict("records"),
        }

    def save(self, path: str | Path) -> None:
        """Write the table as CSV.

        Raises
        ------
        StoreError
            If the path does not end in .csv.
        """
        check_path(path)
        frame = self.to_pandas()
        frame["components"] = [" ".join(names) for names in frame["components"]]
        save_csv(Path(path), frame)

    def summary(self) -> str:
        """Return the rank correlation as a sentence."""
        if np.isnan(self.rank_correlation):
            return "rank correlation: needs three components or groups that differ"
        low, high = self.interval
        return (
            f"rank correlation of relevance and effect {self.rank_correlation:.2f} "
            f"(95 % interval {low:.2f} to {high:.2f} over the images)"
        )

    def __repr__(self) -> str:
        """Return the table as text."""
        table = self.to_pandas().drop(columns="components")
        return (
            f"Effects on '{self.name}' of {len(self)} ablations ({self.replace}), "
            f"{len(self.samples)} images, mean logit {self.logit.mean():.3f}\n"
            f"{table.to_string(index=False, float_format='{:.3f}'.format)}\n{self.summary()}"
        )


def check_path(path: str | Path) -> None:
    """Refuse a path that effects cannot be written to.

    Raises
    ------
    StoreError
        If it does not end in .csv.
    """
    if Path(path).suffix.lower() != ".csv":
        raise StoreError(
            f"The effects cannot be written to '{path}'.",
            "Expected a path that ends in .csv.",
            "Choose another one.",
        )


def effect(
    database: Database,
    model: SubjectModel,
    images: Images,
    target: int,
    components: Sequence[Component] | Units | None = None,
    *,
    samples: Sequence[int] | int = 100,
    top: int = 20,
    layer: str | None = None,
    labels: Labels | None = None,
    replace: str = "zero",
    engine: Tracer | None = None,
    rules: str | None = None,
    batch_size: int = 32,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Effects:
    """Ablate components or groups and set the change of a class's logit beside their relevance.

    Ablation takes a channel as a whole, at all positions and whichever its sign, and so the
    relevance beside it is the channel's as a whole too.

    Parameters
    ----------
    components
        Components, or groups of them by name. By default the channels of ``layer``: the
        ``top`` ones by size of their mean relevance.
    labels
        If given, components of one label are ablated together; those without are left out.
    samples
        Samples, or how many of the class to take at most.
    layer
        The deepest of the database's layers by default.
    replace
        ``zero``, or ``mean``: the component's mean activation over the database's data.
    engine
        Relevance engine over the layers; one with ``rules``, or the
        database's, is made by default.

    Raises
    ------
    DataError
        If the class has no samples.
    RelevanceError
        If the model has no such class, or ``mean`` is asked for where it is not known.
    LayerError
        If a layer or component is not in the database.
    """
    database.check_model(model)
    chosen = _samples(database, target, samples)
    named = None if components is None else _units(database, components, labels)
    if engine is None:
        layers = database.layers if layer is None else [database.layer(layer).name]
        example = model.batch([model.preprocess(images.read(int(chosen[0])))])
        layers = layers if named is None else _layers(named)
        engine = make_engine(model.module, example, layers, rules or database.manifest.recipe.rules)
    if named is None:
        deepest = layer or engine.order([n for n in database.layers if n in engine.layers])[-1]
        named = _candidates(database, deepest, labels)
    to = _values(database, named, replace)
    relevance = np.concatenate(
        [
            _relevance(engine, inputs, target, named)
            for inputs in _told(
                batches(model, images.read, chosen.tolist(), batch_size), progress, len(chosen)
            )
        ],
        axis=1,
    )
    order = np.argsort(-np.abs(relevance.mean(1)), kind="stable")
    if components is None:
        order = order[: max(top, 0)]
    names = list(named)
    units = {names[i]: tuple(named[names[i]]) for i in order}
    logit, ablated = ablated_logits(
        model,
        images.read,
        chosen.tolist(),
        target,
        list(units.values()),
        to,
    )
    change = logit[None] - ablated
    return Effects(
        target,
        class_name(database, target),
        replace,
        engine.rules.name,
        units,
        chosen,
        relevance[order],
        change,
        logit,
        *_correlation(relevance[order], change),
    )


def _samples(
    database: Database, target: int, samples: Sequence[int] | int
) -> Int64[np.ndarray, " s"]:
    """Return the samples that are named, or so many of the class."""
    if isinstance(samples, int):
        return class_samples(database, target, samples)
    if len(samples) == 0:
        raise DataError(
            "No samples are named.",
            "Expected at least one.",
            "Name some, or give a number for samples of the class.",
        )
    return np.asarray(samples, np.int64)


def _layers(units: Units) -> list[str]:
    return list(dict.fromkeys(c.layer for unit in units.values() for c in unit))


def _told(
    parts: Iterator[Tensor], progress: Callable[[str, int, int], None], total: int
) -> Iterator[Tensor]:
    """Yield batches, and tell of each when the next one is asked for."""
    done = 0
    for part in parts:
        yield part
        done += len(part)
        progress("measuring relevance", done, total)


def _relevance(
    engine: Tracer, inputs: Tensor, target: int, units: Units
) -> Float64[np.ndarray, "n b"]:
    """Return the relevance of each unit's channels for the class, image by image."""
    channels = class_relevance(engine, inputs, torch.full((len(inputs),), target), _layers(units))
    found = np.zeros((len(units), len(inputs)))
    for place, unit in enumerate(units.values()):
        for name, index in {(c.layer, c.index) for c in unit}:
            if name in channels:
                found[place] += channels[name][:, index].double().cpu().numpy()
    return found


def _units(
    database: Database, components: Sequence[Component] | Units, labels: Labels | None
) -> Units:
    """Give every component or group a name, and refuse what the database does not have."""
    named: Units
    if isinstance(components, Mapping):
        named = components
    elif labels is None:
        named = {str(component): (component,) for component in components}
    else:
        named = _groups(components, labels)
    for unit in named.values():
        for component in unit:
            database.row(component)
    if not named or not all(named.values()):
        raise LayerError(
            "There is no component to ablate.",
            "Expected at least one, and none of the groups empty.",
            "Name components as LAYER:INDEX, or leave them out for the most relevant ones.",
        )
    return named


def _candidates(database: Database, layer: str, labels: Labels | None) -> Units:
    """Return the channels of a layer, or its components grouped by label."""
    rows = [database.component(int(row)) for row in database.rows([layer])]
    if labels is None:
        return {str(c): (c,) for c in rows if c.sign > 0}
    return _groups(rows, labels)


def _groups(components: Sequence[Component], labels: Labels) -> Units:
    """Join components of equal label; those without one are left out."""
    groups: dict[str, list[Component]] = {}
    for component in components:
        name = labels.of(component)
        if name is not None:
            groups.setdefault(name, []).append(component)
    if not groups:
        raise LayerError(
            f"None of {len(components)} components has a label.",
            f"Expected labels from '{labels.concepts.name}' above {labels.threshold}.",
            "Choose another concept set, or leave out the grouping.",
        )
    return groups


def _values(database: Database, units: Units, replace: str) -> Mapping[Component, float]:
    """Return what each component is replaced by.

    Raises
    ------
    RelevanceError
        If that is neither zero nor a mean activation that the database has.
    """
    members = {component for unit in units.values() for component in unit}
    if replace == "zero":
        return dict.fromkeys(members, 0.0)
    if replace != "mean":
        raise RelevanceError(
            f"Components cannot be replaced by '{replace}'.",
            "Expected 'zero' or 'mean'.",
            "Choose one of them.",
        )
    readout = database.manifest.recipe.readout
    if readout != "mean":
        raise RelevanceError(
            f"The database holds the mean of the readout '{readout}'.",
            "Replacing by the mean needs mean activations: a database of the readout 'mean'.",
            "Use zero, or build a database with --readout mean.",
        )
    means = database.components["mean"].to_numpy()
    return {component: float(means[database.row(component)]) for component in members}


def _correlation(
    relevance: Float64[np.ndarray, "n s"], change: Float64[np.ndarray, "n s"]
) -> tuple[float, tuple[float, float]]:
    """Return Spearman's correlation of the means, and its bootstrap interval over samples."""
    count = relevance.shape[1]
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS)
    weights = np.concatenate([np.ones((1, count)), weights]) / count
    if len(relevance) < 3:
        return float("nan"), (float("nan"), float("nan"))
    first = rankdata(weights @ relevance.T, axis=1)
    second = rankdata(weights @ change.T, axis=1)
    first, second = (ranks - ranks.mean(1, keepdims=True) for ranks in (first, second))
    size = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    found = np.divide((first * second).sum(1), size, out=np.full(len(size), np.nan), where=size > 0)
    if np.isnan(found[1:]).all():
        return float(found[0]), (float("nan"), float("nan"))
    low, high = np.nanpercentile(found[1:], [2.5, 97.5])
    return float(found[0]), (float(low), float(high))
