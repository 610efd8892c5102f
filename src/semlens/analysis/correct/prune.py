"""Pruned components written into the weights, so that no hook is needed (paper, 4.3.3)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from PIL import Image
from rich.console import RenderableType
from torch import Tensor

from semlens.analysis.correct.component_files import chosen_components
from semlens.analysis.correct.corrected_model import CorrectedModel
from semlens.analysis.correct.weight_pruning import (
    EditableWeights,
    ReadError,
    TensorEdit,
    follow,
    pruned_values,
)
from semlens.analysis.result import IMAGE_SUFFIXES, TABLE_SUFFIXES
from semlens.draw.example_sheet import sheet
from semlens.draw.text_table import rich_table
from semlens.errors import ModelError, RelevanceError
from semlens.models.activations import measure_layout
from semlens.models.forward import class_scores
from semlens.models.hooks import ComponentValues, evaluating, pruned, replacement_values
from semlens.models.subject import SubjectModel
from semlens.relevance.captured_graph import OpNode, capture, in_full_precision, prepare_inputs
from semlens.relevance.lrp_engine import layer_nodes, layer_values
from semlens.settings import question
from semlens.store.reader import Database
from semlens.types import Component, Components


@dataclass(frozen=True, repr=False)
class PrunedModel(CorrectedModel):
    """A model without some components, written into its weights."""

    suffixes = (*IMAGE_SUFFIXES, *TABLE_SUFFIXES)

    components: tuple[Component, ...]
    edits: tuple[TensorEdit, ...]
    """What was changed."""
    database: Database

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per tensor that was changed."""
        return pd.DataFrame([vars(edit) for edit in self.edits])

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program; weights are left out."""
        return {
            "components": [str(component) for component in self.components],
            "edits": [vars(edit) for edit in self.edits],
            **super().to_json(),
        }

    def plot(self) -> Image.Image:
        """Draw examples of the components that were pruned, a row each."""
        return sheet(self.database, self.database.rows_of(self.components), 10)

    def __rich__(self) -> RenderableType:
        """Return the tensors that were changed."""
        return rich_table(
            self.to_pandas(),
            f"{len(self.components)} components pruned; tensors that were changed",
        )


@question("model")
def prune(database: Database, components: Components) -> PrunedModel:
    """Write components out of the weights of a copy of the database's model.

    As :func:`pruned_state`, which has the same errors; components have to be of the database.

    Examples
    --------
    >>> found = prune(db, db.search("watermark", top=8))                # doctest: +SKIP
    >>> found.save_weights("pruned.safetensors").spec                   # doctest: +SKIP
    """
    chosen = chosen_components(components, database)
    model = database.model
    state, edits = prune_weights(model, chosen)
    better = replace(model, module=copy.deepcopy(model.module), spec="python:pruned")
    better.module.load_state_dict(state)
    return PrunedModel(better, model.spec, tuple(chosen), edits, database)


def pruned_state(
    model: SubjectModel,
    components: Components,
    to: ComponentValues | None = None,
) -> dict[str, Tensor]:
    """Return the model's weights without some components: a state dict for the same module.

    A channel is cut off from the convolutions and linear layers that read it; where something
    else reads it (a shortcut, a norm), the weights that make it are set to zero. The result
    is always compared with what the hooks of :func:`semlens.pruned` give.

    Parameters
    ----------
    to
        What components become, in units of the activation; those that it lacks become zero.

    Raises
    ------
    LayerError
        If there is no component, or the model lacks one.
    ModelError
        If no change of weights has exactly this effect; the text says what reads it.

    Examples
    --------
    >>> import semlens as sl
    >>> model = sl.load_model("semlens/demo")                           # doctest: +SKIP
    >>> state = sl.pruned_state(model, ["layer3:5", "layer3:84"])       # doctest: +SKIP
    >>> model.module.load_state_dict(state)                             # doctest: +SKIP
    """
    return prune_weights(model, components, to)[0]


def prune_weights(
    model: SubjectModel,
    components: Components,
    to: ComponentValues | None = None,
) -> tuple[dict[str, Tensor], tuple[TensorEdit, ...]]:
    """Do the same, and say which tensors were changed, too."""
    chosen = chosen_components(components)
    example = model.example
    with pruned(model, chosen, to), evaluating(model.module), torch.no_grad():
        expected = class_scores(model.module(example))
    if expected is None:
        raise _inexact(chosen, "the model puts out boxes, no logits to compare")
    operation = _Operation(model, chosen, replacement_values(chosen, to), example[:1])
    state = operation.run()
    with evaluating(model.module), torch.no_grad():
        found: Any = class_scores(torch.func.functional_call(model.module, state, (example,)))
    half = found.dtype in (torch.float16, torch.bfloat16)
    limit = (2e-2 if half else 1e-4) * float(expected.abs().max()) + 1e-6
    if not float((found - expected).abs().max()) <= limit:  # so that NaN does not pass
        raise _inexact(chosen, "the pruned weights give other logits than the hooks")
    return state, tuple(operation.weights.edits)


class _Operation:
    """The change of weights, layer by layer from the last one to the first."""

    def __init__(
        self,
        model: SubjectModel,
        components: list[Component],
        wanted: dict[str, dict[int, float]],
        example: Tensor,
    ) -> None:
        self.model, self.components, self.wanted = model, components, wanted
        self.module = in_full_precision(model.module)
        if model.device.type != "cpu":  # marks and weights are followed on the CPU
            self.module = copy.deepcopy(self.module).cpu()
        try:
            self.graph = capture(self.module, example)
            self.example = prepare_inputs(example, self.module)
            values = layer_values(self.module, self.example, list(wanted))
            found = layer_nodes(self.graph, self.module, self.example, values)
        except RelevanceError as error:
            raise _inexact(components, f"its operations are not known ({error.value})") from error
        self.weights = EditableWeights(self.module, self.graph)
        self.nodes = {name: found[name] for name in wanted}
        layouts = model.channel_orders(list(wanted))
        forms = {name: measure_layout(name, values[name], layouts[name]).form for name in wanted}
        self.axes = {name: 1 if form in ("map", "units") else -1 for name, form in forms.items()}
        replacing = {self.nodes[name]: partial(self._replaced, name) for name in wanted}
        self.values = pruned_values(self.graph, self.example, replacing)

    def run(self) -> dict[str, Tensor]:
        order = {node: place for place, node in enumerate(self.graph.nodes)}
        ends: dict[OpNode, Bool[Tensor, ...]] = {}
        for name in sorted(self.nodes, key=lambda name: -order[self.nodes[name]]):
            self._prune(name, ends)
            ends[self.nodes[name]] = self._mark(name)
        changed = {edit.tensor for edit in self.weights.edits}
        return {
            name: self.weights.state[name].to(value) if name in changed else value.detach().clone()
            for name, value in self.model.module.state_dict().items()
        }

    def _prune(self, name: str, ends: Mapping[OpNode, Bool[Tensor, ...]]) -> None:
        """Prune one layer by its readers; failing that, by its producers."""
        weights = self.weights
        before = {key: value.clone() for key, value in weights.state.items()}, list(weights.edits)

        def read(node: OpNode, mark: Bool[Tensor, ...]) -> bool:
            source = node.args[0] if node.args else None
            if not isinstance(source, OpNode) or not isinstance(self.values[source], Tensor):
                return False
            return weights.cut_columns(node, mark, self.values[source], name)

        try:
            follow(self.graph, self.nodes[name], self._mark(name), self.values, ends, read)
        except ReadError as reader:
            weights.state, weights.edits = before
            if any(self.wanted[name].values()):
                raise self._refused(name, reader) from reader
            try:
                weights.silence(self.graph, self.nodes[name], self.wanted[name], name)
            except ReadError as producer:
                raise self._refused(name, reader, producer) from producer

    def _refused(
        self, name: str, reader: ReadError, producer: ReadError | None = None
    ) -> ModelError:
        reasons = [f"{reader.operation} reads {name}" + (f", and {reader.why}" * bool(reader.why))]
        if producer is not None:
            why = f" ({producer.why})" if producer.why else ""
            reasons.append(f"{producer.operation} makes it{why}")
        mine = [component for component in self.components if component.layer == name]
        return _inexact(mine, "; ".join(reasons))

    def _mark(self, name: str) -> Bool[Tensor, ...]:
        value: Tensor = self.values[self.nodes[name]]
        mark = torch.zeros(value.shape, dtype=torch.bool)
        mark.movedim(self.axes[name], -1)[..., list(self.wanted[name])] = True
        return mark

    def _replaced(self, name: str, value: Tensor) -> Tensor:
        changed = value.clone()
        for index, number in self.wanted[name].items():
            changed.movedim(self.axes[name], -1)[..., index] = number
        return changed


def _inexact(components: list[Component], reason: str) -> ModelError:
    names = ", ".join(str(component) for component in components[:4])
    more = f" and {len(components) - 4} more" if len(components) > 4 else ""
    return ModelError(
        f"{names}{more} cannot be written into the weights: {reason}.",
        "Expected components that only convolutions and linear layers read, or that weights of "
        "their own make.",
        "Prune with hooks instead: 'with semlens.pruned(model, components): ...'.",
    )
