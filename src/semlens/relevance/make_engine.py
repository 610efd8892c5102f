"""Choosing the relevance engine of a model: LRP rules that conserve, or gradient times input."""

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
from semlens.relevance.conservation import conserved_shares
from semlens.relevance.gradient_engine import GradientEngine
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.presets import GRADIENT, Rules
from semlens.relevance.protocols import RelevanceEngine
from semlens.types import Layout

CONSERVED_RANGE = (0.5, 1.5)
"""Range of the share of a logit that should reach the pixels."""
MIN_CONSERVED_IMAGES = 0.75
"""Share of the images on which a later preset must conserve to be preferred."""


class FallbackWarning(UserWarning):
    """Relevance is gradient times input, because the LRP rules do not cover the model."""


class ConservationWarning(UserWarning):
    """Much less, or much more, than a logit reaches the pixels."""


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
        A preset, custom rules, ``gradient``, or ``auto``: the first preset for the kind of model
        (:data:`~semlens.relevance.presets.AUTO`), unless it does not conserve on the median image
        and a later one does on three quarters of the images. For a model that the rules do not
        cover, ``auto`` uses ``gradient`` and issues a :class:`FallbackWarning`. A
        :class:`ConservationWarning` is issued if the rules do not conserve.
    layout
        Order of the axes of maps, for layers where it cannot be detected.

    Raises
    ------
    RelevanceError
        If rules were named and do not cover the model's operations.
    """
    if rules in (GRADIENT, Rules(GRADIENT)):
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
    share = float(np.median(conserved_shares(engine, example)))
    for name in engine.auto_presets[1:] if rules == "auto" else ():
        if _conserves(share):
            break
        candidate = engine.with_rules(name)
        candidate_shares = conserved_shares(candidate, example)
        # a mean near 1 may hide shares far below and above it
        if (
            np.mean([_conserves(float(value)) for value in candidate_shares])
            >= MIN_CONSERVED_IMAGES
        ):
            engine, share = candidate, float(np.median(candidate_shares))
    if not _conserves(share):
        warnings.warn(
            f"With rules '{engine.rules.name}' {share:.2f} of a logit reaches the pixels; 1 "
            "is expected. Heatmaps and relevance may mislead; semlens.check shows what absorbs it.",
            ConservationWarning,
            stacklevel=2,
        )
    return engine


def _conserves(share: float) -> bool:
    return bool(CONSERVED_RANGE[0] <= share <= CONSERVED_RANGE[1])


def engine_for(
    model: SubjectModel,
    layers: Sequence[str],
    rules: str | Rules = "auto",
    size: Sequence[int] | None = None,
    *,
    classes: bool = False,
) -> RelevanceEngine:
    """Return a subject model's relevance engine, with rules that do not depend on the images.

    Parameters
    ----------
    rules
        As for :func:`make_engine`; ``auto`` is decided on the model's example pictures.
    size
        Height and width of the inputs; by default those of the example pictures.
    classes
        Whether relevance will be seeded at classes, which requires a model with logits.

    Raises
    ------
    ModelError
        If ``classes`` is true and the model returns no logits, such as a detector.
    RelevanceError
        As for :func:`make_engine`.
    """
    example = model.example
    if size is not None and tuple(size) != example.shape[-2:]:
        example = functional.interpolate(example, tuple(size))
    if classes:
        check_logits(model)
    return make_engine(model.module, example, layers, rules, model.layout)


class EngineCache:
    """The relevance engines of a model, made on first use.

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
        self._engines: dict[tuple[tuple[str, ...], torch.Size], RelevanceEngine] = {}

    def engine(self, inputs: Tensor, layers: Sequence[str]) -> RelevanceEngine:
        """Return the engine for some layers and images of the size of ``inputs``."""
        key = (tuple(layers), inputs.shape[-2:])
        if key not in self._engines:
            self._engines[key] = engine_for(self._model, layers, self._rules, key[1])
        return self._engines[key]

    def is_exact(self, layers: Sequence[str]) -> bool:
        """Whether the LRP rules, not the fallback, are used for these layers."""
        return self.rules_name(layers) != GRADIENT

    def rules_name(self, layers: Sequence[str]) -> str:
        """Return the name of the rules used for these layers."""
        cached = [engine for (names, _), engine in self._engines.items() if names == tuple(layers)]
        return (cached or [self.engine(self._model.example, layers)])[0].rules.name
