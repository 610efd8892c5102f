"""Layer-wise relevance propagation over a captured graph.

One forward pass per image computes each node's multipliers; backward passes for any number of
seeds reuse them. The node of a named layer is identified by its value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from semlens.errors import ModelError, RelevanceError
from semlens.models.activations import measure_layout, zero_channels
from semlens.models.answer import Answer
from semlens.models.axes import find_axes
from semlens.models.hooks import evaluating
from semlens.relevance.assign_rules import assign_rules, has_attention
from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.canonicalize import canonicalize
from semlens.relevance.captured_graph import (
    OpNode,
    capture,
    execute,
    prepare_inputs,
    relevance_errors,
)
from semlens.relevance.heatmap_boxes import ReceptiveField, receptive_field
from semlens.relevance.layer_nodes import (
    layer_nodes,
    layer_values,
    same_values,
    value_mismatch,
)
from semlens.relevance.output_leaves import LEAF, OutputLeaves, is_output
from semlens.relevance.presets import AUTO, Rules, preset
from semlens.relevance.protocols import (
    NO_CHANNELS,
    OUTPUT,
    BackwardResult,
    ChannelsByLayer,
    ForwardTrace,
    RelevanceEngine,
    check_finite,
    map_size,
    required,
)
from semlens.relevance.rules.base import NodeSignals, Rule
from semlens.types import Layout


class LRPEngine(RelevanceEngine):
    """A model prepared for layer-wise relevance propagation at some layers.

    Parameters
    ----------
    module
        Any vision model; it is not changed. Relevance is computed in float32, or in float64 if the
        model is.
    example
        float[b 3 h w], a batch for the model; other batches must have the same h and w.
    layers
        Layers at which relevance is seeded or read.
    rules
        Name of a preset, custom rules, or ``auto``: AttnLRP for models with attention, otherwise
        the paper's composite (H.1).
    layout
        Order of the axes of maps, for layers where it cannot be detected.
    answer
        What the model answers with, or why it has no answer; by default it is measured.
    outputs
        Whether passes keep all tensors of the output.

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
        answer: Answer | ModelError | None = None,
        *,
        outputs: bool = False,
    ) -> None:
        super().__init__(module, example, answer, outputs=outputs)
        module = self.module
        example = prepare_inputs(example[:1].repeat(2, 1, 1, 1), module)
        noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0))
        example = example + 0.1 * noise.to(example)  # so that no two layers have equal values
        expected_values = layer_values(module, example, layers, self.answer)
        self._leaves = self._keep_outputs(example, expected_values) if outputs else None
        self.axes = find_axes(module, example[:1], list(layers), layout)
        graph = capture(module, example)
        captured_nodes = layer_nodes(graph, module, example, expected_values)
        self.shape = tuple(example.shape[1:])
        self._receptive_fields: dict[str, ReceptiveField | None] = {}
        with _unsupported_usage(module):
            self.graph, current_node = canonicalize(graph, set(captured_nodes.values()))
            self._nodes = {name: current_node(node) for name, node in captured_nodes.items()}
            positions = {node: number for number, node in enumerate(self.graph.nodes)}
            ordered = sorted(captured_nodes, key=lambda name: positions[self._nodes[name]])
            self.layers = [name for name in ordered if not is_output(name)]
            if OUTPUT not in self._nodes and not outputs:  # without an answer
                self.ends = tuple(self.layers)
            self.auto_presets = AUTO[has_attention(self.graph)]
            self._assign_rules(self.auto_presets[0] if rules == "auto" else rules)
            self._meta_values = self._measure_shapes(example[:1])
            values = self.trace(example, list(self._nodes)).values
        for name, expected in expected_values.items():  # verify the rewritten graph
            if not same_values(values[name], expected):
                raise value_mismatch(module, name)

    def _keep_outputs(self, example: Tensor, values: dict[str, Tensor]) -> OutputLeaves:
        """Add the tensors of the output that depend on the images to the values of layers."""
        with torch.no_grad(), evaluating(self.module):
            passes = [OutputLeaves.of(self.module(images)) for images in (example, example.flip(0))]
        leaves = passes[0].constant(passes[1])
        kept = leaves.tensors
        found = {name: v for name, v in passes[0].tensors.items() if name not in kept}
        values.update(found)
        self.ends = (*((OUTPUT,) if OUTPUT in values else ()), *found)
        return leaves

    def _assign_rules(self, rules: str | Rules) -> None:
        self.rules = preset(rules)
        ruled = [node for name, node in self._nodes.items() if not name.startswith(LEAF)]
        refused: dict[str, RelevanceError] = {}
        for name in (name for name in self.ends if name.startswith(LEAF)):
            try:  # a part of the output may only be looked at, such as the places of boxes
                assign_rules(self.graph, self.rules, [self._nodes[name]])
                ruled.append(self._nodes[name])
            except RelevanceError as error:
                refused[name] = error
        if refused and len(refused) == sum(name.startswith(LEAF) for name in self.ends):
            raise next(iter(refused.values()))
        self._refused = refused
        self.node_rules: Mapping[OpNode, Rule] = assign_rules(self.graph, self.rules, ruled)

    def check_rules(self, end: str) -> None:
        """Raise an error if relevance cannot start at a tensor of the output.

        Raises
        ------
        RelevanceError
            If it depends on operations that have no rule.
        """
        if end in self._refused:
            raise self._refused[end]

    def with_rules(self, rules: str | Rules) -> LRPEngine:
        """Return a copy with other rules that shares the captured graph."""
        other = copy(self)
        with _unsupported_usage(self.module):
            other._assign_rules(rules)
        return other

    def _measure_shapes(self, example: Tensor) -> Mapping[OpNode, Tensor]:
        """Return each node's value for one image as a meta tensor: its shape and type."""
        meta_values: dict[OpNode, Tensor] = {}

        def keep_shape(node: OpNode, value: Any) -> None:
            if isinstance(value, Tensor):
                meta_values[node] = value.to("meta")

        with torch.no_grad():
            self.graph.run(example, self.graph.terminal_nodes(), keep_shape)
        return meta_values

    def node(self, layer: str) -> OpNode:
        """Return the node of a layer, or of the output (an empty name).

        Raises
        ------
        LayerError
            If the engine was not made for it.
        RelevanceError
            If the model's output is not a tensor of logits.
        """
        if not is_output(layer):
            self.index(layer)
        elif layer not in self._nodes:
            required(self.answer)
        return self._nodes[layer]

    def after_layers(self) -> frozenset[OpNode]:
        """Return the operations that run after the earliest of the layers."""
        nodes = self.graph.nodes
        return frozenset(nodes[nodes.index(self.node(self.layers[0])) + 1 :] if self.layers else ())

    def largest_value_bytes(self, layer: str = OUTPUT) -> int:
        """Return the bytes per image of the largest value that a layer depends on."""
        order = self.graph.ancestors([self.node(layer)])
        return max(self._meta_values[node].nbytes for node in order if node in self._meta_values)

    @property
    def bytes_per_image(self) -> int:
        """Bytes per image of all values of a forward pass."""
        return sum(value.nbytes for value in self._meta_values.values())

    def receptive_field(self, layer: str) -> ReceptiveField | None:
        """Return the receptive field of a layer's positions, or None if it is the whole image."""
        if layer not in self._receptive_fields:
            node = self.node(layer)
            bounds, map_size = receptive_field(self.graph, node), self._meta_values[node].shape[-2:]
            # patches line up only if the map has exactly one position per stride of the image
            aligned = bounds is not None and self.shape[-2:] == tuple(
                count * stride for count, stride in zip(map_size, bounds.stride, strict=True)
            )
            self._receptive_fields[layer] = bounds if aligned else None
        return self._receptive_fields[layer]

    @torch.no_grad()
    def trace(
        self,
        inputs: Tensor,
        upto: Sequence[str] | None = None,
        *,
        keep_all: bool = False,
        without: ChannelsByLayer = NO_CHANNELS,
    ) -> LRPTrace:
        """Run the model over images up to the named layers [all of it].

        What backward passes need is saved.

        Parameters
        ----------
        inputs
            float[U 3 h w]; may be patches if the receptive fields of the layers are bounded.
        keep_all
            Whether the trace keeps every operation's value, which takes much memory.
        without
            Channels that are set to zero.

        Raises
        ------
        RelevanceError
            If the images differ in size from the example, or a value is not finite.
        """
        upto = self.ends if upto is None else upto
        inputs = prepare_inputs(inputs, self.module)
        if tuple(inputs.shape[1:]) != self.shape and not (
            inputs.ndim == 4 and all(name and self.receptive_field(name) for name in upto)
        ):
            raise RelevanceError(
                f"The images have the shape {list(inputs.shape[1:])}.",
                f"The engine was made for {list(self.shape)}.",
                "Make an engine for that size.",
            )
        if inputs.is_contiguous() and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        targets = [self.node(name) for name in upto]
        removed: dict[OpNode, dict[str, Sequence[int]]] = {}
        for name, channels in without.items():
            removed.setdefault(self.node(name), {})[name] = channels
        saved: dict[OpNode, Any] = {}
        shapes: dict[OpNode, torch.Size] = {}

        def compute(node: OpNode, values: dict[OpNode, Any], inputs: Tensor) -> Any:
            rule = self.node_rules.get(node)
            value, state = rule.forward(values) if rule else (execute(node, values, inputs), None)
            saved[node], shapes[node] = state, getattr(value, "shape", torch.Size())
            for name, channels in removed.get(node, {}).items():
                layout = measure_layout(name, value, self.axes.get(name))
                value = zero_channels(layout, value, channels)
            return value

        retained = self.graph.nodes if keep_all else (self.graph.input, *self._nodes.values())
        values = self.graph.run(inputs, targets, keep=retained, compute=compute)
        recorded = {name: values[node] for name, node in self._nodes.items() if node in values}
        check_finite(recorded)
        all_values, order = values if keep_all else {}, self.graph.ancestors(targets)
        return LRPTrace(
            inputs,
            recorded,
            self.axes,
            self.answer,
            all_values,
            self._leaves,
            self,
            order,
            saved,
            shapes,
            removed,
        )


def _unsupported_usage(module: nn.Module) -> AbstractContextManager[None]:
    """Turn a failure caused by unusual arguments of an operator into a RelevanceError."""
    return relevance_errors(
        f"{type(module).__name__} uses an operation in a way that has no rule",
        "Expected the operations of CNNs and vision transformers.",
    )


@dataclass(frozen=True)
class LRPTrace(ForwardTrace):
    """A forward pass over U images, with the values that the rules need."""

    engine: LRPEngine
    order: Sequence[OpNode]
    saved: Mapping[OpNode, Any]
    shapes: Mapping[OpNode, torch.Size]
    removed: Mapping[OpNode, ChannelsByLayer]

    @torch.no_grad()
    def backward(
        self,
        seeds: Mapping[str, BackwardSignal],
        record: Collection[str] = (),
        *,
        heatmaps: bool = True,
        on_rule: Callable[[Rule, BackwardSignal], None] = lambda *_: None,
    ) -> BackwardResult:
        """Propagate relevance backwards.

        Parameters
        ----------
        seeds
            Relevance divided by activation, by layer.
        record
            Layers at which to read the relevance that reaches them.
        heatmaps
            Whether to propagate to the pixels; otherwise the pass ends at the last layer of
            ``record``.
        on_rule
            Called with every rule and the signal that reaches its node.
        """
        engine = self.engine
        for name in seeds:
            engine.check_rules(name)
        # nodes in reverse execution order: all readers of a node come before it, so its signal is
        # complete when it is popped
        pending = {engine.node(name): signal for name, signal in seeds.items()}
        record_nodes = {name: engine.node(name) for name in record}
        layer_signals: dict[str, Tensor] = {}
        pixels: list[BackwardSignal] = []
        image_size = (self.inputs.shape[-2], self.inputs.shape[-1])
        for node in reversed(self.order):
            signal = pending.pop(node, None)
            if signal is None:
                continue
            if node in record_nodes.values():
                full = signal.full_map(self._map_size(node)).values
                layer_signals.update(
                    {name: full for name, layer_node in record_nodes.items() if layer_node is node}
                )
                if len(layer_signals) == len(record) and not heatmaps:
                    break
            if node is engine.graph.input:
                full = signal.full_map(image_size)
                pixels.append(BackwardSignal((full.values * self.inputs).sum(2, keepdim=True)))
                continue
            for name, channels in self.removed.get(node, {}).items():
                kept = zero_channels(self.layout(name), signal.values, channels)
                signal = BackwardSignal(kept, signal.corner)
            rule = engine.node_rules[node]
            on_rule(rule, signal)
            for source, received in self._propagate(node, rule, signal):
                if rule.ends_at_pixels:
                    pixels.append(received.full_map(image_size))
                else:
                    waiting = source in pending
                    pending[source] = pending[source].add(received) if waiting else received
        return BackwardResult(
            torch.stack([f.values for f in pixels]).sum(0)[:, :, 0] if pixels else None,
            layer_signals,
        )

    def _propagate(self, node: OpNode, rule: Rule, signal: BackwardSignal) -> NodeSignals:
        if signal.corner is not None:
            height, width = self._map_size(node)
            if not rule.windowed or signal.window[0] * signal.window[1] >= height * width:
                signal = signal.full_map((height, width))
        propagated = rule.backward(self.saved[node], signal)
        return [(source, received) for source, received in propagated if source.live]

    def _map_size(self, node: OpNode) -> tuple[int, int]:
        return map_size(self.shapes[node])
