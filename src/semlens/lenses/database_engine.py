"""Relevance engines for databases, and relevance by the components of a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from semlens.models.ablation import pruned, replacement_values
from semlens.models.activations import CHANNELS_FIRST
from semlens.models.forward import run_output
from semlens.models.hooks import evaluating
from semlens.models.target import Target
from semlens.relevance.class_relevance import component_relevance, target_seed
from semlens.relevance.layer_nodes import same_values
from semlens.relevance.make_engine import engine_for, example_images, warn_of_losses
from semlens.relevance.presets import Rules
from semlens.relevance.protocols import ForwardTrace, RelevanceEngine
from semlens.settings import setting
from semlens.store.manifest import LayerEntry
from semlens.store.reader import Database
from semlens.types import Component

RulesLike = Annotated[
    str | Rules | None,
    setting("Relevance rules: a preset, gradient or auto [those of the database]."),
]
"""Relevance rules, for questions that compute relevance."""

_ENGINES: WeakKeyDictionary[Database, dict[Any, RelevanceEngine]] = WeakKeyDictionary()
"""Cached engines: capturing a model takes seconds, and does not depend on image or class."""


def engine_of(
    database: Database,
    inputs: Float[Tensor, "b channels h w"],
    layers: Sequence[str],
    rules: str | Rules | None = None,
    *,
    outputs: bool = False,
    heatmaps: bool = True,
) -> RelevanceEngine:
    """Return the engine of a database's model for images of the size of ``inputs``.

    Parameters
    ----------
    outputs
        Whether relevance starts at targets that are not read off the model's answer; the model
        then needs none.
    heatmaps
        Whether pixels are read; a warning of what does not reach them is then issued once.

    Raises
    ------
    ModelError
        If the model outputs no logits.
    RelevanceError
        If the rules do not cover the model.
    """
    model, rules = database.model, rules or database.manifest.recipe.rules
    # hooks, such as those of semlens.pruned, change what the module computes
    hooked = any(vars(part).get("_forward_hooks") for part in model.module.modules())
    engines = {} if hooked else _ENGINES.setdefault(database, {})
    size = inputs.shape[-2:]
    key = (tuple(layers), size, repr(rules), outputs)
    if (key, heatmaps) not in engines:
        engine = engines.get((key, not heatmaps))
        if engine is None:
            engine = engine_for(
                model, layers, rules, size, classes=not outputs, outputs=outputs, heatmaps=heatmaps
            )
        elif heatmaps:  # so far, only its layers were read
            warn_of_losses(engine, example_images(model, size), heatmaps=True)
        engines[key, heatmaps] = engine
    return engines[key, heatmaps]


def trace_without(
    database: Database,
    engine: RelevanceEngine,
    inputs: Float[Tensor, "b channels h w"],
    removed: Sequence[Component],
    target: Target | None = None,
) -> ForwardTrace:
    """Trace images with components set to zero at all positions; by the same rules.

    Parameters
    ----------
    engine
        The database's engine for the layers to read, and for those of the components.
    target
        What the trace has to agree with the model on; by default the scores.
    """
    channels = {layer: list(values) for layer, values in replacement_values(removed).items()}
    trace = engine.trace(inputs, without=channels)
    if not channels:
        return trace
    with pruned(database.model, removed):
        with evaluating(database.model.module), torch.no_grad():
            output = run_output(database.model, inputs)
            expected = output.scores if target is None else target.value(output)
        found = trace.logits if target is None else target_seed(trace, target).value
        if same_values(found, expected):
            return trace
        # the value of a layer is also read past it, such as that of an empty shortcut
        return engine_of(
            database, inputs, engine.layers, engine.rules, outputs=engine.outputs
        ).trace(inputs)


def relevance_per_component(
    entry: LayerEntry, trace: ForwardTrace, relevance: Float[Tensor, "n u ..."]
) -> Float[Tensor, "n u k"]:
    """Return the relevance of each component of a layer, in the order of the database.

    If the database has only positive components, each stands for its whole channel, including
    positions where the activation is negative.
    """
    signed = component_relevance(trace, entry.name, relevance)
    return signed.flatten(2) if entry.rows > entry.channels else signed.sum(2)


def group_masks(
    entry: LayerEntry, value: Float[Tensor, "u ..."], groups: Sequence[Sequence[int]]
) -> Float[Tensor, "n ..."]:
    """Return masks that are 1 where a layer's value belongs to a group of components, else 0.

    If both signs of a channel are components, values below 0 belong to the negative one and all
    others to the positive one. The second axis has length 1 if the masks are equal for all
    images.

    Parameters
    ----------
    groups
        Indices of components in their layer, group by group.
    """
    member = value.new_zeros(len(groups), entry.rows)
    for index, members in enumerate(groups):
        member[index, list(members)] = 1
    shape = [len(groups), *[1] * value.ndim]
    shape[2 if entry.form in CHANNELS_FIRST else -1] = entry.channels
    positive = member[:, : entry.channels].reshape(shape)
    if entry.rows == entry.channels:
        return positive
    return torch.where(value >= 0, positive, member[:, entry.channels :].reshape(shape))


def by_component(
    database: Database, layers: Sequence[str], readouts: Mapping[str, Float[np.ndarray, "n c"]]
) -> Float[np.ndarray, "n components"]:
    """Return readouts of some layers with a column per component of the database.

    If both signs of a layer are components, the negative ones follow with the opposite sign.
    """
    columns: list[np.ndarray] = []
    for name in layers:
        entry = database.layer(name)
        columns.append(readouts[name])
        if entry.rows > entry.channels:
            columns.append(-readouts[name])
    return np.concatenate(columns, axis=1)
