"""Prune components by editing weights, so that no hooks are needed (paper, 4.3.3)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import starmap
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool
from PIL import Image
from rich.console import RenderableType
from torch import Tensor

from semlens.draw.example_sheet import sheet
from semlens.draw.text_table import rich_table
from semlens.errors import ModelError, RelevanceError
from semlens.lens import lens
from semlens.lenses.arguments import Components, distinct_components
from semlens.lenses.correct.corrected_model import CorrectedModel
from semlens.lenses.correct.weight_pruning import (
    BlockingOpError,
    EditableWeights,
    TensorEdit,
    propagate_marks,
    pruned_values,
)
from semlens.lenses.result import IMAGE_SUFFIXES, TABLE_SUFFIXES
from semlens.models.ablation import ComponentValues, replaced, replacement_values
from semlens.models.activations import measure_layout
from semlens.models.hooks import evaluating
from semlens.models.output_tensor import has_boxes, tensors_of
from semlens.models.subject import SubjectModel
from semlens.relevance.captured_graph import OpNode, capture, in_full_precision, prepare_inputs
from semlens.relevance.layer_nodes import layer_nodes, layer_values
from semlens.store.reader import Database
from semlens.types import Component
from semlens.types import Components as ComponentsLike


@dataclass(frozen=True, repr=False)
class PrunedModel(CorrectedModel):
    """A model whose weights were edited to remove components."""

    suffixes = (*IMAGE_SUFFIXES, *TABLE_SUFFIXES)

    components: tuple[Component, ...]
    edits: tuple[TensorEdit, ...]
    database: Database

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per edited tensor."""
        return pd.DataFrame([vars(edit) for edit in self.edits])

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON; weights are left out."""
        return {
            "components": [str(component) for component in self.components],
            "edits": [vars(edit) for edit in self.edits],
            **super().to_json(),
        }

    def plot(self) -> Image.Image:
        """Draw examples of the pruned components, one row each."""
        return sheet(self.database, self.database.rows_of(self.components), 10)

    def __rich__(self) -> RenderableType:
        """Return the edited tensors as a table."""
        return rich_table(
            self.to_pandas(), f"{len(self.components)} components pruned; edited tensors"
        )


@lens("model", group="Correct", command="", local=True)
def prune(database: Database, components: Components) -> PrunedModel:
    """Remove components from the weights of a copy of the database's model.

    Works like :func:`pruned_state` and raises the same errors; the components must be in the
    database.

    Examples
    --------
    >>> result = prune(db, db.search("watermark", top=8))               # doctest: +SKIP
    >>> result.save_weights("pruned.safetensors").spec                  # doctest: +SKIP
    """
    model = database.model.with_dictionaries(())
    state, edits = prune_weights(database.model, components)
    copied = replace(model, module=copy.deepcopy(model.module), spec="python:pruned")
    copied.module.load_state_dict(state)
    return PrunedModel(copied, model.spec, tuple(components), edits, database)


def pruned_state(
    model: SubjectModel,
    components: ComponentsLike,
    to: ComponentValues | None = None,
) -> dict[str, Tensor]:
    """Return the model's weights without some components: a state dict for the same module.

    The columns of the convolutions and linear layers that read a channel are set to zero. If
    another operation reads it (a shortcut, a norm), the weights that produce it are set to zero
    instead. The result is always compared with that of :func:`semlens.pruned`, which uses hooks.

    Parameters
    ----------
    to
        New values of components, in units of the activation; 0 for components without one.

    Raises
    ------
    LayerError
        If no component is given, or the model lacks one.
    ModelError
        If no edit of the weights has exactly this effect; the message names the operation that
        reads the component.

    Examples
    --------
    >>> import semlens as sl
    >>> model = sl.load_model("semlens/demo")                           # doctest: +SKIP
    >>> state = sl.pruned_state(model, ["layer3:5", "layer3:84"])       # doctest: +SKIP
    >>> model.module.load_state_dict(state)                             # doctest: +SKIP
    """
    return prune_weights(model, distinct_components(components), to)[0]


def prune_weights(
    model: SubjectModel,
    components: Sequence[Component],
    to: ComponentValues | None = None,
) -> tuple[dict[str, Tensor], tuple[TensorEdit, ...]]:
    """Return the state dict of :func:`pruned_state`, and the edits that were made."""
    try:
        return _edited_weights(model, replacement_values(components, to))
    except _InexactEditError as error:
        affected = [str(one) for one in components if one.layer in error.layers]
        more = f" and {len(affected) - 4} more" if len(affected) > 4 else ""
        raise ModelError(
            f"Cannot prune {', '.join(affected[:4])}{more} by editing weights: {error}.",
            "Expected components that only convolutions and linear layers read, or that have "
            "weights of their own.",
            "Prune with hooks instead: 'with semlens.pruned(model, components): ...'.",
        ) from error


class _InexactEditError(Exception):
    """No edit of the weights has exactly the effect of removing channels of some layers."""

    def __init__(self, layers: Iterable[str], reason: str) -> None:
        self.layers = set(layers)
        super().__init__(reason)


def _edited_weights(
    model: SubjectModel, new_values: dict[str, dict[int, float]]
) -> tuple[dict[str, Tensor], tuple[TensorEdit, ...]]:
    """Edit the weights so that channels have new values, and compare the result with hooks."""
    of_dictionaries = new_values.keys() & model.dictionaries
    if of_dictionaries:
        raise _InexactEditError(of_dictionaries, "no weights hold the code of a dictionary")
    model = model.with_dictionaries(())
    example = model.example
    with replaced(model, new_values):
        expected = _outputs(model, model.module, example)
    if expected is None:
        raise _InexactEditError(
            new_values, "the model outputs boxes after suppression, which cannot be compared"
        )
    pruner = _WeightPruner(model, new_values, example[:1])
    state = pruner.run()
    edited = partial(torch.func.functional_call, model.module, state)
    found = _outputs(model, edited, example)
    if found is None or not all(starmap(_agree, zip(found, expected, strict=True))):
        raise _InexactEditError(
            new_values, "the pruned weights give different logits than the hooks"
        )
    return state, tuple(pruner.weights.edits)


@torch.no_grad()
def _outputs(
    model: SubjectModel, run: Callable[[Tensor], Any], example: Tensor
) -> list[Tensor] | None:
    """Return all tensors that a model puts out, and its logits; None for lists of kept boxes."""
    with evaluating(model.module):
        if model.answer_error is None:
            with model.answer.reading() as read:
                output = run(example)
                return [*tensors_of(output).values(), read(output)]
        tensors = tensors_of(run(example))
    of_images = all(tensor.shape[:1] == example.shape[:1] for tensor in tensors.values())
    return None if has_boxes(tensors) and not of_images else [*tensors.values()]


def _agree(found: Tensor, expected: Tensor) -> bool:
    half = found.dtype in (torch.float16, torch.bfloat16)
    if found.shape != expected.shape:
        return False
    tolerance = (2e-2 if half else 1e-4) * float(expected.abs().max()) + 1e-6
    return float((found - expected).abs().max()) <= tolerance  # not for NaN


class _WeightPruner:
    """Edits the weights layer by layer, from the last layer to the first."""

    def __init__(
        self,
        model: SubjectModel,
        new_values: dict[str, dict[int, float]],
        example: Tensor,
    ) -> None:
        self.model, self.new_values = model, new_values
        self.module = in_full_precision(model.module)
        if model.device.type != "cpu":  # marks and weights are on the CPU
            self.module = copy.deepcopy(self.module).cpu()
        try:
            self.graph = capture(self.module, example)
            self.example = prepare_inputs(example, self.module)
            answer = model.answer_error or model.answer
            values = layer_values(self.module, self.example, list(new_values), answer)
            nodes = layer_nodes(self.graph, self.module, self.example, values)
        except RelevanceError as error:
            raise _InexactEditError(
                new_values, f"its operations are unknown ({error.value})"
            ) from error
        self.weights = EditableWeights(self.module, self.graph)
        self.nodes = {name: nodes[name] for name in new_values}
        layouts = model.axes(list(new_values))
        self.axes = {
            name: measure_layout(name, values[name], layouts[name]).channel_axis
            for name in new_values
        }
        replacements = {self.nodes[name]: partial(self._replaced, name) for name in new_values}
        self.values = pruned_values(self.graph, self.example, replacements)

    def run(self) -> dict[str, Tensor]:
        order = {node: index for index, node in enumerate(self.graph.nodes)}
        ends: dict[OpNode, Bool[Tensor, ...]] = {}
        for name in sorted(self.nodes, key=lambda name: -order[self.nodes[name]]):
            mark = self._mark(name)
            self._prune(name, mark, ends)
            ends[self.nodes[name]] = mark
        changed = {edit.tensor for edit in self.weights.edits}
        return {
            name: self.weights.state[name].to(value) if name in changed else value.detach().clone()
            for name, value in self.model.module.state_dict().items()
        }

    def _prune(
        self, name: str, mark: Bool[Tensor, ...], ends: Mapping[OpNode, Bool[Tensor, ...]]
    ) -> None:
        """Prune one layer by editing its readers or, if that is not exact, its producers."""
        weights = self.weights
        saved = {key: value.clone() for key, value in weights.state.items()}, list(weights.edits)

        def read(node: OpNode, marked: Bool[Tensor, ...]) -> bool:
            source = node.args[0] if node.args else None
            if not isinstance(source, OpNode) or not isinstance(self.values[source], Tensor):
                return False
            return weights.cut_columns(node, marked, self.values[source], name)

        try:
            propagate_marks(self.graph, self.nodes[name], mark, self.values, ends, read)
            return
        except BlockingOpError as reader:
            weights.state, weights.edits = saved
            because = f", and {reader.reason}" if reader.reason else ""
            reasons = [f"{reader.operation} reads {name}{because}"]
        if not any(self.new_values[name].values()):
            try:
                weights.zero_producers(self.graph, self.nodes[name], self.new_values[name], name)
                return
            except BlockingOpError as producer:
                because = f" ({producer.reason})" if producer.reason else ""
                reasons.append(f"{producer.operation} produces it{because}")
        raise _InexactEditError([name], "; ".join(reasons))

    def _mark(self, name: str) -> Bool[Tensor, ...]:
        value: Tensor = self.values[self.nodes[name]]
        mark = torch.zeros(value.shape, dtype=torch.bool)
        mark.movedim(self.axes[name], -1)[..., list(self.new_values[name])] = True
        return mark

    def _replaced(self, name: str, value: Tensor) -> Tensor:
        changed = value.clone()
        for index, new in self.new_values[name].items():
            changed.movedim(self.axes[name], -1)[..., index] = new
        return changed
