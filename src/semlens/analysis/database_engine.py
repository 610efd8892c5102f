"""The relevance engine of a database's model, read and started by the database's components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from semlens.relevance.class_relevance import component_relevance
from semlens.relevance.make_engine import engine_for
from semlens.relevance.presets import Rules
from semlens.relevance.protocols import ForwardTrace, RelevanceEngine
from semlens.settings import setting
from semlens.store.manifest import LayerEntry
from semlens.store.reader import Database

RulesLike = Annotated[
    str | Rules | None,
    setting("Relevance rules: a preset, gradient or auto [those of the database]."),
]
"""Rules of relevance wherever a question takes some."""

_ENGINES: WeakKeyDictionary[Database, dict[Any, RelevanceEngine]] = WeakKeyDictionary()
"""To capture a model takes seconds, and is the same for every image and class."""


def engine_of(
    database: Database,
    inputs: Float[Tensor, "b 3 h w"],
    layers: Sequence[str],
    rules: str | Rules | None = None,
) -> RelevanceEngine:
    """Return the engine of a database's model for images of the size of ``inputs``.

    Raises
    ------
    ModelError
        If the model puts out no logits.
    RelevanceError
        If rules are asked for by name that do not cover the model.
    """
    model, rules = database.model, rules or database.manifest.recipe.rules
    # hooks change what a module computes, as in semlens.pruned
    hooked = any(vars(part).get("_forward_hooks") for part in model.module.modules())
    known = {} if hooked else _ENGINES.setdefault(database, {})
    key = (tuple(layers), inputs.shape[-2:], repr(rules))
    if key not in known:
        known[key] = engine_for(model, layers, rules, inputs.shape[-2:], classes=True)
    return known[key]


def relevance_per_component(
    entry: LayerEntry, trace: ForwardTrace, flow: Float[Tensor, "n u ..."]
) -> Float[Tensor, "n u k"]:
    """Return what reached a layer, for each of its components in the order of the database.

    A database of one sign has channels as components; what passes where they are negative is
    theirs too.
    """
    signed = component_relevance(trace, entry.name, flow)
    return signed.flatten(2) if entry.rows > entry.channels else signed.sum(2)


def group_masks(
    entry: LayerEntry, value: Float[Tensor, "u ..."], groups: Sequence[Sequence[int]]
) -> Float[Tensor, "n ..."]:
    """Return 1 where a value of a layer belongs to a group of components, and 0 elsewhere.

    A channel of which both signs are components belongs to one of them where it is negative,
    and to the other elsewhere. The second axis has the length 1 if all images agree.

    Parameters
    ----------
    groups
        Places of components in their layer, group by group.
    """
    member = value.new_zeros(len(groups), entry.rows)
    for number, places in enumerate(groups):
        member[number, list(places)] = 1
    shape = [len(groups), *[1] * value.ndim]
    shape[2 if entry.form in ("map", "units") else -1] = entry.channels
    positive = member[:, : entry.channels].reshape(shape)
    if entry.rows == entry.channels:
        return positive
    return torch.where(value >= 0, positive, member[:, entry.channels :].reshape(shape))
