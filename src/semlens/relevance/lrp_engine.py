"""Layer-wise relevance propagation over a captured graph.

One forward pass per image computes each node's multipliers; backward passes for any number of
starts reuse them. Which node of the graph is the output of a named layer is found by its value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from semlens.errors import RelevanceError
from semlens.models.activations import first_tensor
from semlens.models.channel_order import find_layouts
from semlens.models.forward import class_scores
from semlens.models.hooks import evaluating, run_layers
from semlens.relevance.assign_rules import assign_rules, has_attention
from semlens.relevance.canonicalize import canonicalize
from semlens.relevance.captured_graph import (
    REMEDY,
    CapturedGraph,
    OpNode,
    capture,
    execute,
    prepared,
    refusing,
)
from semlens.relevance.heatmap_boxes import ReceptiveField, receptive_field
from semlens.relevance.presets import AUTO, Rules, preset
from semlens.relevance.protocols import (
    OUTPUT,
    BackwardResult,
    ForwardTrace,
    RelevanceEngine,
    check_finite,
    no_logits,
)
from semlens.relevance.relevance_signal import RelevanceSignal
from semlens.relevance.rules.base import Rule, Sent
from semlens.types import Layout


class LRPEngine(RelevanceEngine):
    """A model, ready for relevance at some layers.

    Parameters
    ----------
    module
        Any vision model; it is not changed. Computes in float32 (float64 if it does itself).
    example
        float[b 3 h w], a batch as the model takes it; other batches must have its h and w.
    layers
        Where relevance starts, is read, or both.
    rules
        A preset's name, rules of one's own, or ``auto``: AttnLRP for models that attend,
        else the paper's composite (H.1).
    layout
        Order of the axes of maps, for layers of which it cannot be found out.

    Raises
    ------
    LayerError
        If a layer is missing or runs twice.
    RelevanceError
        If the model cannot be captured, or uses operations without a rule.
    """

    def __init__(
        self,
        module: nn.Module,
        example: Tensor,
        layers: Sequence[str],
        rules: str | Rules = "auto",
        layout: Layout = "auto",
    ) -> None:
        super().__init__(module)
        module = self.module
        example = prepared(example[:1].repeat(2, 1, 1, 1), module)
        noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
        example = example + 0.1 * noise.to(example)  # tells equal values of layers apart
        wanted = layer_values(module, example, layers)
        self.layouts = find_layouts(module, example[:1], list(layers), layout)
        graph = capture(module, example)
        places = layer_nodes(graph, module, example, wanted)
        self.shape = tuple(example.shape[1:])
        self._fields: dict[str, ReceptiveField | None] = {}
        with _told(module):
            self.graph, now = canonicalize(graph, set(places.values()))
            self._nodes = {name: now(node) for name, node in places.items()}
            names = {node: number for number, node in enumerate(self.graph.nodes)}
            order = sorted(places, key=lambda name: names[self._nodes[name]])
            self.layers = [name for name in order if name != OUTPUT]
            self.family = AUTO[has_attention(self.graph)]
            self._bind(self.family[0] if rules == "auto" else rules)
            self._sizes = self._measured(example[:1])
            found = self.trace(example, list(self._nodes)).values
        for name, expected in wanted.items():  # a rewritten graph may compute something else
            if not same_values(found[name], expected):
                raise another_value(module, name)

    def _bind(self, rules: str | Rules) -> None:
        self.rules = preset(rules)
        self._bound: Mapping[OpNode, Rule] = assign_rules(
            self.graph, self.rules, self._nodes.values()
        )

    def with_rules(self, rules: str | Rules) -> LRPEngine:
        """Return the engine with other rules, without another capture."""
        other = copy(self)
        with _told(self.module):
            other._bind(rules)
        return other

    def _measured(self, example: Tensor) -> Mapping[OpNode, Tensor]:
        """Each node's value for one image, without its numbers."""
        found: dict[OpNode, Tensor] = {}

        def seen(node: OpNode, value: Any) -> None:
            if isinstance(value, Tensor):
                found[node] = value.to("meta")

        with torch.no_grad():
            self.graph.run(example, self.graph.ends(), seen)
        return found

    def node(self, layer: str) -> OpNode:
        """Return the node of a layer, or of the output (an empty name).

        Raises
        ------
        LayerError
            If the engine was not made for it.
        RelevanceError
            If the model has no output that relevance could start at.
        """
        if layer != OUTPUT:
            self.place(layer)
        elif OUTPUT not in self._nodes:
            raise no_logits(None)
        return self._nodes[layer]

    def largest(self, layer: str = OUTPUT) -> int:
        """Return the bytes per image of the largest value below a layer."""
        order = self.graph.needed([self.node(layer)])
        return max(self._sizes[node].nbytes for node in order if node in self._sizes)

    @property
    def total(self) -> int:
        """Bytes per image of all values of a forward pass."""
        return sum(value.nbytes for value in self._sizes.values())

    def field(self, layer: str) -> ReceptiveField | None:
        """Return what one position of a layer sees, or None when it sees the whole image."""
        if layer not in self._fields:
            node = self.node(layer)
            field, cells = receptive_field(self.graph, node), self._sizes[node].shape[-2:]
            # the layer's map must have one position for each stride of the image
            tiles = field is not None and self.shape[-2:] == tuple(
                count * stride for count, stride in zip(cells, field.stride, strict=True)
            )
            self._fields[layer] = field if tiles else None
        return self._fields[layer]

    @torch.no_grad()
    def trace(
        self, inputs: Tensor, upto: Sequence[str] = (OUTPUT,), *, keep_all: bool = False
    ) -> LRPTrace:
        """Run the model over images, as far as the named layers, ready to go back from them.

        Parameters
        ----------
        inputs
            float[U 3 h w]; may be patches of images where the layers see no more than that.
        keep_all
            Whether the trace holds every operation's value, which takes much memory.

        Raises
        ------
        RelevanceError
            If the images have another size than the example, or a value is not finite.
        """
        inputs = prepared(inputs, self.module)
        if tuple(inputs.shape[1:]) != self.shape and not (
            inputs.ndim == 4 and all(name and self.field(name) for name in upto)
        ):
            raise RelevanceError(
                f"The images have the shape {list(inputs.shape[1:])}.",
                f"The engine was made for {list(self.shape)}.",
                "Make one for that size.",
            )
        if inputs.is_contiguous() and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        targets = [self.node(name) for name in upto]
        saved: dict[OpNode, Any] = {}
        shapes: dict[OpNode, torch.Size] = {}

        def compute(node: OpNode, values: dict[OpNode, Any], inputs: Tensor) -> Any:
            rule = self._bound.get(node)
            value, kept = rule.forward(values) if rule else (execute(node, values, inputs), None)
            saved[node], shapes[node] = kept, getattr(value, "shape", torch.Size())
            return value

        keep = self.graph.nodes if keep_all else (self.graph.input, *self._nodes.values())
        values = self.graph.run(inputs, targets, keep=keep, compute=compute)
        known = {name: values[node] for name, node in self._nodes.items() if node in values}
        check_finite(known)
        every, order = values if keep_all else {}, self.graph.needed(targets)
        return LRPTrace(inputs, known, self.layouts, every, self, order, saved, shapes)


def _told(module: nn.Module) -> AbstractContextManager[None]:
    """Turn what arguments of operators break that no rule has met yet into an error."""
    return refusing(
        f"An operation of {type(module).__name__} is used in a way that has no rule",
        "Expected the operations of CNNs and vision transformers.",
    )


@dataclass(frozen=True)
class LRPTrace(ForwardTrace):
    """A forward pass over U images that can be gone back through."""

    engine: LRPEngine
    order: Sequence[OpNode]
    saved: Mapping[OpNode, Any]
    shapes: Mapping[OpNode, torch.Size]

    @torch.no_grad()
    def pull(
        self,
        starts: Mapping[str, RelevanceSignal],
        record: Collection[str] = (),
        *,
        heat: bool = True,
        seen: Callable[[Rule, RelevanceSignal], None] = lambda *_: None,
    ) -> BackwardResult:
        """Propagate relevance back.

        Parameters
        ----------
        starts
            By layer, relevance over activation with which to start.
        record
            Layers at which to read what passes.
        heat
            Whether to go down to the pixels; else the pass ends at the last layer of
            ``record``.
        seen
            Is shown every rule, and what reaches its node.
        """
        engine = self.engine
        pending = {engine.node(name): flow for name, flow in starts.items()}
        wanted = {name: engine.node(name) for name in record}
        found: dict[str, Tensor] = {}
        pixels: list[RelevanceSignal] = []
        size = (self.inputs.shape[-2], self.inputs.shape[-1])
        for node in reversed(self.order):
            flow = pending.pop(node, None)
            if flow is None:
                continue
            if node in wanted.values():
                whole = flow.whole(self._map_size(node)).values
                found.update({name: whole for name, place in wanted.items() if place is node})
                if len(found) == len(record) and not heat:
                    break
            if node is engine.graph.input:
                whole = flow.whole(size)
                pixels.append(RelevanceSignal((whole.values * self.inputs).sum(2, keepdim=True)))
                continue
            rule = engine._bound[node]  # pyright: ignore[reportPrivateUsage]
            seen(rule, flow)
            for source, passed in self._sent(node, rule, flow):
                if rule.final:
                    pixels.append(passed.whole(size))
                else:
                    known = source in pending
                    pending[source] = pending[source].plus(passed) if known else passed
        return BackwardResult(
            torch.stack([f.values for f in pixels]).sum(0)[:, :, 0] if pixels else None, found
        )

    def _sent(self, node: OpNode, rule: Rule, flow: RelevanceSignal) -> Sent:
        if flow.corner is not None:
            height, width = self._map_size(node)
            if not rule.windowed or flow.window[0] * flow.window[1] >= height * width:
                flow = flow.whole((height, width))
        passed = rule.backward(self.saved[node], flow)
        return [(source, part) for source, part in passed if source.live]

    def _map_size(self, node: OpNode) -> tuple[int, int]:
        shape = self.shapes[node]
        return (shape[-2], shape[-1])


def layer_nodes(
    graph: CapturedGraph, module: nn.Module, example: Tensor, wanted: Mapping[str, Tensor]
) -> dict[str, OpNode]:
    """Find the nodes of some layers and of the output, by running model and graph once.

    A layer's name does not say which operation ends it (a shortcut may be added in place, a
    tuple returned), but its value does.

    Parameters
    ----------
    wanted
        What :func:`layer_values` gives.

    Raises
    ------
    RelevanceError
        If the graph has no such value: the pass does something else when it is traced; or
        if it holds for one batch size only, or a value is not finite.
    """
    found: dict[str, OpNode] = {}

    def seen(node: OpNode, value: Any) -> None:
        for name, expected in wanted.items():
            # the last such node inside the layer; else the first one anywhere
            if (name in node.scopes or name not in found) and same_values(value, expected):
                found[name] = node

    # a pass that was traced at one image has fixed its shapes
    with refusing(
        f"The captured pass of {type(module).__name__} fails at {len(example)} images",
        "Expected a forward pass that takes its batch size from x.shape[0].",
    ), torch.no_grad():  # fmt: skip
        graph.run(example, graph.ends(), seen)
    for name in wanted:
        if name not in found:
            raise another_value(module, name)
    return found


def another_value(module: nn.Module, name: str) -> RelevanceError:
    """Return the error for a captured pass that computes something else than the model."""
    return RelevanceError(
        f"The captured pass of {type(module).__name__} has another value at "
        f"'{name or 'the output'}'.",
        "Expected the same numbers as when the model runs.",
        REMEDY,
    )


def layer_values(module: nn.Module, example: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Run the model and return the values of some layers, and of the output.

    Raises
    ------
    LayerError
        If the model has no such layer, or runs it twice.
    RelevanceError
        If a value is not finite.
    """
    # a copy: a later operation may overwrite the tensor
    wanted = run_layers(module, example, layers, lambda _, out: first_tensor(out).clone())
    with evaluating(module), torch.no_grad():
        scores = class_scores(module(example))
    if scores is not None:
        wanted[OUTPUT] = scores
    check_finite(wanted)
    return wanted


def same_values(value: Any, expected: Tensor) -> bool:
    """Whether two tensors agree up to rounding; anything else than a tensor does not."""
    if not isinstance(value, Tensor) or value.shape != expected.shape:
        return False
    scale = float(expected.abs().max())
    return bool((value - expected).abs().max() <= 1e-3 * scale + 1e-9)
