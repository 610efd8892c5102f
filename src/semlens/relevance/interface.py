"""What the relevance engines have in common: trace images once, then pull relevance back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from semlens.errors import RelevanceError
from semlens.relevance.field import Field
from semlens.relevance.flow import Flow
from semlens.relevance.presets import Rules

OUTPUT = ""
"""The name under which the model's own output is kept."""


@dataclass(frozen=True)
class Pulled:
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


@runtime_checkable
class Traced(Protocol):
    """A forward pass over U images that can be gone back through."""

    @property
    def inputs(self) -> Tensor:
        """float[U 3 h w]."""
        ...

    @property
    def values(self) -> Mapping[str, Tensor]:
        """The layers' outputs in their own shape; the model's own is ``""``."""
        ...

    def pull(
        self, starts: Mapping[str, Flow], record: Collection[str] = (), *, heat: bool = True
    ) -> Pulled:
        """Propagate relevance back from ``starts``, reading it at ``record``."""
        ...


@runtime_checkable
class Tracer(Protocol):
    """A model that relevance can be computed of."""

    @property
    def rules(self) -> Rules:
        """Which rules it follows."""
        ...

    @property
    def layers(self) -> list[str]:
        """Layers at which relevance can start or be read."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def trace(self, inputs: Tensor, upto: Sequence[str] = (OUTPUT,)) -> Traced:
        """Run the model over images float[U 3 h w], at least as far as the named layers."""
        ...

    def order(self, layers: Sequence[str]) -> list[str]:
        """Sort layers by their place in the forward pass."""
        ...

    def field(self, layer: str) -> Field | None:
        """Return what one position of a layer sees, or None when that has no bound."""
        ...

    @property
    def total(self) -> int:
        """Bytes per image of all values of a forward pass."""
        ...

    def largest(self, layer: str = OUTPUT) -> int:
        """Return the bytes per image of the largest value below a layer."""
        ...


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
