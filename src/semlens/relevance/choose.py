"""The engine for a model: exact rules where they hold, else a fallback that says it is one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import Tensor, nn

from semlens.errors import RelevanceError
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
