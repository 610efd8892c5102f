"""Interfaces of the relevance engines: trace images once, then propagate relevance backwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semlens.errors import LayerError, ModelError, RelevanceError, nearest
from semlens.models.activations import Axes, LayerLayout, measure_layout
from semlens.models.answer import Answer, answering, find_answer
from semlens.models.hooks import unwrapped
from semlens.models.with_dictionaries import connected
from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.captured_graph import OpNode, in_full_precision, prepare_inputs
from semlens.relevance.heatmap_boxes import ReceptiveField
from semlens.relevance.output_leaves import OutputLeaves
from semlens.relevance.presets import Rules
from semlens.relevance.rules.base import Rule

OUTPUT = ""
"""Layer name that stands for the model's output."""
ChannelsByLayer = Mapping[str, Sequence[int]]
"""Channels of some layers, by layer."""
NO_CHANNELS: ChannelsByLayer = MappingProxyType({})


@dataclass(frozen=True)
class BackwardResult:
    """Result of a backward pass, for n seeds on each of U images.

    Parameters
    ----------
    heatmaps
        float[n U h w], relevance of each pixel, summed over colours; None if it was not
        requested or no pixel was reached.
    layers
        float[n U ...] by layer: relevance divided by activation, in the layer's own shape.
    """

    heatmaps: Tensor | None
    layers: Mapping[str, Tensor]


@dataclass(frozen=True)
class ForwardTrace(ABC):
    """A forward pass over U images, ready for backward passes.

    Parameters
    ----------
    inputs
        float[U 3 h w].
    values
        Outputs of the layers in their own shape; ``values[""]`` are the raw values of the
        model's answer, if it has one.
    axes
        Order of the axes of maps, by layer.
    answer
        What the raw values are, or why the model has no answer.
    all_values
        Every operation's value, if an LRP engine made the trace with ``keep_all``.
    leaves
        How the output is put together from its tensors, if the engine keeps them.
    """

    inputs: Tensor
    values: Mapping[str, Tensor]
    axes: Mapping[str, Axes]
    answer: Answer | ModelError
    all_values: Mapping[OpNode, Any]
    leaves: OutputLeaves | None

    @property
    def logits(self) -> Float[Tensor, "u classes"]:
        """The scores of the model's answer.

        Raises
        ------
        RelevanceError
            If it has none.
        """
        return required(self.answer).scores(self.values[OUTPUT].detach())

    def layout(self, layer: str) -> LayerLayout:
        """Return the layout of a layer's output."""
        return measure_layout(layer, self.values[layer], self.axes.get(layer))

    @abstractmethod
    def backward(
        self,
        seeds: Mapping[str, BackwardSignal],
        record: Collection[str] = (),
        *,
        heatmaps: bool = True,
        on_rule: Callable[[Rule, BackwardSignal], None] = lambda *_: None,
    ) -> BackwardResult:
        """Propagate relevance backwards from ``seeds``, and read it at the layers of ``record``.

        ``on_rule`` is called with every rule and the signal that reaches its node.
        """


class RelevanceEngine(ABC):
    """A model prepared for computing relevance.

    Parameters
    ----------
    module
        Any vision model. It is not changed; half precision is copied to float32.
    example
        float[b 3 h w], on which the answer is measured.
    answer
        The answer, or why there is none; by default it is measured.
    outputs
        Whether passes keep all tensors of the output, for targets that are read off them.
    """

    rules: Rules
    """The rules that it applies."""
    layers: list[str]
    """Layers at which relevance can be seeded or read, in the order of the forward pass."""
    axes: Mapping[str, Axes]
    """Order of the axes of maps, by layer."""

    def __init__(
        self,
        module: nn.Module,
        example: Tensor,
        answer: Answer | ModelError | None,
        *,
        outputs: bool = False,
    ) -> None:
        self.outputs = outputs
        self.ends: tuple[str, ...] = (OUTPUT,)
        """Where a whole pass ends: at the answer, and at the tensors of the output."""
        self.module = in_full_precision(connected(unwrapped(module)))
        self.answer: Answer | ModelError
        """What the model answers with, or why it has no answer."""
        if answer is None:
            try:
                self.answer = find_answer(self.module, prepare_inputs(example, self.module))
            except ModelError as error:
                self.answer = error
        elif isinstance(answer, Answer):
            self.module, self.answer = answering(self.module, answer)
        else:
            self.answer = answer

    @property
    def device(self) -> torch.device:
        """The device of the module's parameters."""
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def memory_budget(self, gpu_share: float, cpu_bytes: float) -> float:
        """Return a share of the GPU's free memory in bytes, or ``cpu_bytes`` on a CPU."""
        cuda = self.device.type == "cuda"
        return torch.cuda.mem_get_info(self.device)[0] * gpu_share if cuda else cpu_bytes

    @abstractmethod
    def trace(
        self,
        inputs: Tensor,
        upto: Sequence[str] | None = None,
        *,
        keep_all: bool = False,
        without: ChannelsByLayer = NO_CHANNELS,
    ) -> ForwardTrace:
        """Run the model over images float[U 3 h w], at least up to the named layers [all of it].

        The channels of ``without`` are set to zero at all positions, wherever the pass reads the
        layer's value. No relevance passes through them.
        """

    def sort_layers(self, layers: Sequence[str]) -> list[str]:
        """Sort layers by their order in the forward pass.

        Raises
        ------
        LayerError
            If the engine was not made for a layer.
        """
        return sorted(layers, key=self.index)

    def index(self, layer: str) -> int:
        """Return the index of a layer in :attr:`layers`.

        Raises
        ------
        LayerError
            If the engine was not made for it.
        """
        if layer not in self.layers:
            raise LayerError(
                f"Layer '{layer}' is not among the engine's layers.",
                f"It was made for {nearest(layer, self.layers) or 'no layers'}.",
                "Pass it in `layers` when the engine is made.",
            )
        return self.layers.index(layer)

    def receptive_field(self, layer: str) -> ReceptiveField | None:
        """Return the receptive field of a layer's positions, or None if it is unbounded."""
        return None

    @property
    @abstractmethod
    def bytes_per_image(self) -> int:
        """Bytes per image of all values of a forward pass."""

    @abstractmethod
    def largest_value_bytes(self, layer: str = OUTPUT) -> int:
        """Return the bytes per image of the largest value that a layer depends on."""


def required(answer: Answer | ModelError) -> Answer:
    """Return a model's answer.

    Raises
    ------
    RelevanceError
        If it has none, for the same reason.
    """
    if isinstance(answer, ModelError):
        raise RelevanceError(answer.value, answer.expected, answer.remedy) from answer
    return answer


def map_size(shape: Sequence[int]) -> tuple[int, int]:
    """Return the last two sizes of a value; of one axis only, such as [b], 1 and its size."""
    return (shape[-2] if len(shape) > 1 else 1, shape[-1])


def check_finite(values: Mapping[str, Tensor]) -> None:
    """Raise an error if a value is not finite.

    Raises
    ------
    RelevanceError
        If a layer's value is NaN or infinite; the text names the layer.
    """
    finite = {name: torch.isfinite(value).all() for name, value in values.items()}
    if not finite or bool(torch.stack([*finite.values()]).all()):  # one wait for the device
        return
    for name, all_finite in finite.items():
        if not bool(all_finite):
            raise RelevanceError(
                f"The model's values at '{name or 'the output'}' are not finite.",
                "Expected finite activations.",
                "Check the images and the weights.",
            )
