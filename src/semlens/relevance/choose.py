"""The engine for a model: exact rules where they hold, else a fallback that says it is one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor, nn

from semlens.errors import RelevanceError
from semlens.models.subject import SubjectModel
from semlens.relevance.engine import Engine
from semlens.relevance.gradient import GradientEngine
from semlens.relevance.interface import Tracer
from semlens.relevance.presets import GRADIENT, Rules


class FallbackWarning(UserWarning):
    """Relevance is gradient times input, because the model has no exact rules."""


def make_engine(
    module: nn.Module, example: Tensor, layers: Sequence[str], rules: str | Rules = "auto"
) -> Tracer:
    """Return a model's relevance engine.

    Parameters
    ----------
    rules
        A preset, rules of one's own, ``gradient``, or ``auto``: the preset of the model's
        family, and ``gradient`` with a :class:`FallbackWarning` for a model that it does not
        cover.

    Raises
    ------
    RelevanceError
        If rules were asked for by name and the model has operations that they do not cover.
    """
    if rules == GRADIENT:
        return GradientEngine(module, example, layers)
    try:
        return Engine(module, example, layers, rules)
    except RelevanceError as error:
        if rules != "auto":
            raise
        warnings.warn(
            f"{error.value} Relevance is gradient times input instead, which is noisier and "
            "does not conserve.",
            FallbackWarning,
            stacklevel=2,
        )
        return GradientEngine(module, example, layers)


class Engines:
    """The engines of a model, made when they are asked for and then kept.

    Parameters
    ----------
    model
        The subject.
    rules
        As for :func:`make_engine`.
    """

    def __init__(self, model: SubjectModel, rules: str) -> None:
        self._model = model
        self._rules = rules
        self._known: dict[tuple[tuple[str, ...], tuple[int, ...]], Tracer] = {}

    def engine(self, inputs: Tensor, layers: Sequence[str]) -> Tracer:
        """Return the engine for some layers and for images of the size of ``inputs``."""
        key = (tuple(layers), tuple(inputs.shape[1:]))
        if key not in self._known:
            self._known[key] = make_engine(self._model.module, inputs, layers, self._rules)
        return self._known[key]

    def exact(self, layers: Sequence[str]) -> bool:
        """Whether rules, not the fallback, cover the model from these layers down."""
        return self.name(layers) != GRADIENT

    def name(self, layers: Sequence[str]) -> str:
        """Return the name of the rules that are used."""
        for (names, _), engine in self._known.items():
            if names == tuple(layers):
                return engine.rules.name
        grey = Image.fromarray(np.full((256, 256, 3), 128, np.uint8))
        example = self._model.batch([self._model.preprocess(grey)])
        return self.engine(example, layers).rules.name
