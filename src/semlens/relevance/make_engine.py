"""The engine for a model: rules that hold and conserve, else a fallback that says it is one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from semlens.errors import RelevanceError
from semlens.models.forward import check_logits
from semlens.models.subject import SubjectModel
from semlens.relevance.conservation import conserved
from semlens.relevance.gradient_engine import GradientEngine
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.presets import GRADIENT, Rules
from semlens.relevance.protocols import RelevanceEngine
from semlens.types import Layout

CONSERVED = (0.5, 1.5)
"""Share of a logit that should reach the pixels."""
STEADY = 0.75
"""Part of the images on which a later preset has to conserve, to be preferred."""


class FallbackWarning(UserWarning):
    """Relevance is gradient times input, because the model has no exact rules."""


class ConservationWarning(UserWarning):
    """Much less, or much more, of a logit reaches the pixels than it has."""


def make_engine(
    module: nn.Module,
    example: Tensor,
    layers: Sequence[str],
    rules: str | Rules = "auto",
    layout: Layout = "auto",
) -> RelevanceEngine:
    """Return a module's relevance engine for images of the size of ``example``.

    Parameters
    ----------
    example
        float[b 3 h w]. Conservation is measured on it.
    rules
        A preset, rules of one's own, ``gradient``, or ``auto``: the first preset of the model's
        family (:data:`~semlens.relevance.presets.AUTO`), unless it does not conserve on the
        median image and a later one does so on three quarters of them; and ``gradient`` with a
        :class:`FallbackWarning` for a model that they do not cover. A
        :class:`ConservationWarning` says when rules do not conserve.
    layout
        Order of the axes of maps, for layers of which it cannot be found out.

    Raises
    ------
    RelevanceError
        If rules were asked for by name and the model has operations that they do not cover.
    """
    if rules == GRADIENT:
        return GradientEngine(module, example, layers, layout)
    try:
        engine = LRPEngine(module, example[:2], layers, rules, layout)
    except RelevanceError as error:
        if rules != "auto":
            raise
        warnings.warn(
            f"{error.value} Relevance is gradient times input instead, which is noisier and "
            "does not conserve.",
            FallbackWarning,
            stacklevel=2,
        )
        return GradientEngine(module, example, layers, layout)
    share = float(np.median(conserved(engine, example)))
    for name in engine.family[1:] if rules == "auto" else ():
        if _conserves(share):
            break
        other = engine.with_rules(name)
        passed = conserved(other, example)
        # a mean near one may hide shares far below and above it
        if np.mean([_conserves(float(each)) for each in passed]) >= STEADY:
            engine, share = other, float(np.median(passed))
    if not _conserves(share):
        warnings.warn(
            f"With rules '{engine.rules.name}' {share:.2f} of a logit reach the pixels, where 1 "
            "should: heatmaps and relevances may mislead. semlens.check shows where it goes.",
            ConservationWarning,
            stacklevel=2,
        )
    return engine


def _conserves(share: float) -> bool:
    return bool(CONSERVED[0] <= share <= CONSERVED[1])


def engine_for(
    model: SubjectModel,
    layers: Sequence[str],
    rules: str | Rules = "auto",
    size: Sequence[int] | None = None,
    *,
    classes: bool = False,
) -> RelevanceEngine:
    """Return a model's relevance engine: the same rules whatever the images.

    Parameters
    ----------
    rules
        As for :func:`make_engine`; ``auto`` is decided on the model's own example pictures.
    size
        Height and width of the inputs; by default those of the example pictures.
    classes
        Whether relevance will start at classes, so that a model without logits is refused.

    Raises
    ------
    ModelError
        If ``classes`` are meant and the model puts out no logits, as a detector.
    RelevanceError
        As for :func:`make_engine`.
    """
    example = model.example
    if size is not None and tuple(size) != example.shape[-2:]:
        example = functional.interpolate(example, tuple(size))
    if classes:
        check_logits(model)
    return make_engine(model.module, example, layers, rules, model.layout)


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
        self._known: dict[tuple[tuple[str, ...], torch.Size], RelevanceEngine] = {}

    def engine(self, inputs: Tensor, layers: Sequence[str]) -> RelevanceEngine:
        """Return the engine for some layers and for images of the size of ``inputs``."""
        key = (tuple(layers), inputs.shape[-2:])
        if key not in self._known:
            self._known[key] = engine_for(self._model, layers, self._rules, key[1])
        return self._known[key]

    def exact(self, layers: Sequence[str]) -> bool:
        """Whether rules, not the fallback, cover the model from these layers down."""
        return self.name(layers) != GRADIENT

    def name(self, layers: Sequence[str]) -> str:
        """Return the name of the rules that are used."""
        known = [engine for (names, _), engine in self._known.items() if names == tuple(layers)]
        return (known or [self.engine(self._model.example, layers)])[0].rules.name
