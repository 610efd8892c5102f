"""A model whose dictionaries' codes are outputs of layers, named ``LAYER@KIND``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy, deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from semlens.dictionaries.dictionary import Dictionary
from semlens.errors import LayerError
from semlens.models.activations import first_tensor, replace_first_tensor
from semlens.models.hooks import NamedLayers, forward_hooks_on, input_hooks_on

MODEL = "model."
"""Start of the paths of the model's own layers."""


class ModelWithDictionaries(NamedLayers):
    """A model, and dictionaries that read the outputs of its layers, or inputs of modules in them.

    Each dictionary runs as soon as its activations ``x`` are known. Reading its codes does not
    change the pass. If a hook replaces codes ``z`` by ``z'``, ``x`` becomes ``x + z' D - z D``.

    Parameters
    ----------
    model
        The model; it is not changed.
    dictionaries
        Dictionaries of different names.
    """

    def __init__(self, model: nn.Module, dictionaries: Iterable[Dictionary]) -> None:
        super().__init__()
        self.model = model
        self.dictionaries = nn.ModuleList(dictionaries)
        self.codes = nn.ModuleList(nn.Identity() for _ in self.dictionaries)
        """What hooks on ``LAYER@KIND`` are registered on."""
        self.connected = False
        """Whether the output of a layer is computed from the codes even if no hook changes them."""

    @property
    def by_name(self) -> dict[str, Dictionary]:
        """The dictionaries by name."""
        parts = (part for part in self.dictionaries if isinstance(part, Dictionary))
        return {part.info.name: part for part in parts}

    def layers(self) -> dict[str, nn.Module]:
        """Return the layers of the model, and those of the codes."""
        codes = zip(self.by_name, self.codes, strict=True)
        return {**dict(self.model.named_modules()), **dict(codes)}

    def name_of(self, path: str) -> str:
        """Return the layer's name for a path in ``named_modules``."""
        return path.removeprefix(MODEL)

    def forward(self, batch: Tensor) -> Any:
        """Return the output of the model."""
        parts = [part.info for part in self.by_name.values()]
        outputs = dict.fromkeys(info.layer for info in parts if info.input_of is None)
        inputs = dict.fromkeys(info.input_of for info in parts if info.input_of is not None)
        read_inputs = {name: partial(self._read, None, name) for name in inputs}
        read_outputs = {name: partial(self._read, name, None) for name in outputs}
        with (
            forward_hooks_on(self.model, read_outputs),
            input_hooks_on(self.model, read_inputs),
        ):
            return self.model(batch)

    def _read(self, layer: str | None, input_of: str | None, value: Any) -> Any:
        """Run the dictionaries of a value; return what replaces it, or None."""
        terms: list[Tensor] = []
        activations = first_tensor(value)
        for dictionary, codes in zip(self.by_name.values(), self.codes, strict=True):
            info = dictionary.info
            if info.input_of == input_of and layer in (None, info.layer):
                terms += self._changes(dictionary, codes, activations)
        if not terms:
            return None
        # one sum of all terms, through which relevance passes unchanged
        start = _repeated(activations, terms[0])
        return replace_first_tensor(value, torch.stack([start, *terms]).sum(0))

    def _changes(
        self, dictionary: Dictionary, codes: nn.Module, activations: Tensor
    ) -> list[Tensor]:
        """Return what is added to a layer's output: nothing if no hook changed the codes."""
        _check_fits(dictionary, activations)
        read = dictionary(activations)
        changed = codes(read)
        if changed is read and not self.connected:
            return []
        # Encoded a second time: what codes pass on to the layer cancels with what these pass on,
        # and gradient and relevance of the layer are those of the model without dictionary.
        again = dictionary(activations)
        added = dictionary.decoded(changed, _repeated(activations, changed))
        removed = dictionary.decoded(again, activations)
        return [added, -_repeated(removed, changed)]


def _repeated(values: Tensor, versions: Tensor) -> Tensor:
    """Return values [b ...] once per version, if there are several versions [v*b ...] of them."""
    if values.shape[0] == versions.shape[0]:
        return values
    times = versions.shape[0] // values.shape[0]
    return values.repeat(times, *[1] * (values.ndim - 1))


def _check_fits(dictionary: Dictionary, activations: Any) -> None:
    """Raise an error if a layer's output does not have the dictionary's channels."""
    axis = 1 if dictionary.info.channels_first else -1
    fits = isinstance(activations, Tensor) and activations.ndim >= 2
    if not fits or activations.shape[axis] != dictionary.channels:
        received = list(activations.shape) if isinstance(activations, Tensor) else "no tensor"
        raise LayerError(
            f"The directions '{dictionary.info.name}' have {dictionary.channels} channels, and "
            f"layer '{dictionary.info.layer}' returns {received}.",
            "Expected directions of this layer.",
            "Choose the layer and the model on which they were fitted.",
        )


def bare_module(module: nn.Module) -> nn.Module:
    """Return a model without its dictionaries."""
    return module.model if isinstance(module, ModelWithDictionaries) else module


def dictionaries_of(module: nn.Module) -> Mapping[str, Dictionary]:
    """Return the dictionaries of a model by name."""
    return module.by_name if isinstance(module, ModelWithDictionaries) else {}


def with_dictionaries(module: nn.Module, dictionaries: Iterable[Dictionary]) -> nn.Module:
    """Return a model with these dictionaries, in place of those it may have."""
    first = next(module.parameters(), torch.empty(0))
    parts = [deepcopy(part).to(first.device) for part in dictionaries]
    return ModelWithDictionaries(bare_module(module), parts) if parts else bare_module(module)


def connected(module: nn.Module) -> nn.Module:
    """Return a model in which codes are on the path to the output, for relevance and gradients."""
    if not isinstance(module, ModelWithDictionaries):
        return module
    other = copy(module)
    other.connected = True
    return other
