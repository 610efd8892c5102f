"""What the relevance engines have in common: trace images once, then pull relevance back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from semlens.errors import LayerError, RelevanceError, nearest
from semlens.models.activations import KnownLayout, LayerLayout, measure_form
from semlens.models.forward import NO_LOGITS
from semlens.relevance.captured_graph import OpNode, in_full_precision
from semlens.relevance.heatmap_boxes import ReceptiveField
from semlens.relevance.presets import Rules
from semlens.relevance.relevance_signal import RelevanceSignal
from semlens.relevance.rules.base import Rule

OUTPUT = ""
"""The name under which the model's own output is kept."""


@dataclass(frozen=True)
class BackwardResult:
    """What a backward pass has found, for n starts on each of U images.

    Parameters
    ----------
    heat
        float[n U h w], relevance of each pixel (summed over colours); None when it was not
        asked for, or no pixel was reached.
    layers
        float[n U ...] by name: relevance over activation, in the layer's own shape.
    """

    heat: Tensor | None
    layers: Mapping[str, Tensor]


@dataclass(frozen=True)
class ForwardTrace(ABC):
    """A forward pass over U images that can be gone back through.

    Parameters
    ----------
    inputs
        float[U 3 h w].
    values
        The layers' outputs in their own shape; the model's own is ``""``.
    layouts
        By layer, in which order the axes of a map stand.
    every
        Each operation's value, in a trace that was made to keep all, by an engine with rules.
    """

    inputs: Tensor
    values: Mapping[str, Tensor]
    layouts: Mapping[str, KnownLayout]
    every: Mapping[OpNode, Any]

    def form(self, layer: str) -> LayerLayout:
        """Return the form of a layer's output."""
        return measure_form(layer, self.values[layer], self.layouts.get(layer, "auto"))

    @abstractmethod
    def pull(
        self,
        starts: Mapping[str, RelevanceSignal],
        record: Collection[str] = (),
        *,
        heat: bool = True,
        seen: Callable[[Rule, RelevanceSignal], None] = lambda *_: None,
    ) -> BackwardResult:
        """Propagate relevance back from ``starts``, reading it at ``record``.

        ``seen`` is shown every rule, and what reaches its node.
        """


class RelevanceEngine(ABC):
    """A model that relevance can be computed of.

    Parameters
    ----------
    module
        It is not changed; one of half precision is copied to float32.
    """

    rules: Rules
    """Which rules it follows."""
    layers: list[str]
    """Layers at which relevance can start or be read, in the order of the forward pass."""
    layouts: Mapping[str, KnownLayout]
    """By layer, in which order the axes of a map stand."""

    def __init__(self, module: nn.Module) -> None:
        self.module = in_full_precision(module)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def memory(self, share: float, otherwise: float) -> float:
        """Return a share of a GPU's free memory in bytes, and on a CPU ``otherwise``."""
        cuda = self.device.type == "cuda"
        return torch.cuda.mem_get_info(self.device)[0] * share if cuda else otherwise

    @abstractmethod
    def trace(
        self, inputs: Tensor, upto: Sequence[str] = (OUTPUT,), *, keep_all: bool = False
    ) -> ForwardTrace:
        """Run the model over images float[U 3 h w], at least as far as the named layers."""

    def order(self, layers: Sequence[str]) -> list[str]:
        """Sort layers by their place in the forward pass.

        Raises
        ------
        LayerError
            If the engine was not made for one of them.
        """
        return sorted(layers, key=self.place)

    def place(self, layer: str) -> int:
        """Return a layer's place among the engine's layers.

        Raises
        ------
        LayerError
            If the engine was not made for it.
        """
        if layer not in self.layers:
            raise LayerError(
                f"Layer '{layer}' is not among the engine's layers.",
                f"It was made for {nearest(layer, self.layers) or 'none'}.",
                "Name it when the engine is made.",
            )
        return self.layers.index(layer)

    def field(self, layer: str) -> ReceptiveField | None:
        """Return what one position of a layer sees, or None when that has no bound."""
        return None

    @property
    @abstractmethod
    def total(self) -> int:
        """Bytes per image of all values of a forward pass."""

    @abstractmethod
    def largest(self, layer: str = OUTPUT) -> int:
        """Return the bytes per image of the largest value below a layer."""


def no_logits(scores: Tensor | None) -> RelevanceError:
    """Return the error for a model whose output is ``scores``, or nothing like logits."""
    met = "boxes, or no tensor" if scores is None else f"a tensor of shape {list(scores.shape)}"
    return RelevanceError(f"The model puts out {met}, no logits [b classes].", *NO_LOGITS)


def check_finite(values: Mapping[str, Tensor]) -> None:
    """Refuse to go on from values that are not finite.

    Raises
    ------
    RelevanceError
        It names the layer.
    """
    for name, value in values.items():
        if not bool(torch.isfinite(value).all()):
            raise RelevanceError(
                f"The model's values at '{name or 'the output'}' are not finite.",
                "Expected finite activations.",
                "Check the images and the weights.",
            )
