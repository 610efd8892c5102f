"""Presets of relevance rules by kind of layer, and how to change them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from semlens.errors import RelevanceError, nearest

SumRule = Literal["epsilon", "zplus", "gamma", "flat"]
"""Rules for weighted sums."""

SUM_RULES: tuple[str, ...] = get_args(SumRule)


@dataclass(frozen=True)
class Rules:
    """Relevance rules by kind of layer.

    Parameters
    ----------
    name
        Name of the preset.
    first
        Rule of the layer that reads the pixels.
    conv, dense
        Rules of the other convolutions and dense layers.
    attention
        ``constant``: attention weights carry no relevance (CP-LRP); ``taylor``: AttnLRP.
    epsilon
        Stabiliser of denominators.
    gamma_conv, gamma_dense
        Strength of the gamma rule.
    layers
        Overrides: rule by name of a module, for all weighted sums inside of it.
    """

    name: str
    first: SumRule = "flat"
    conv: SumRule = "zplus"
    dense: SumRule = "epsilon"
    attention: Literal["constant", "taylor"] = "constant"
    epsilon: float = 1e-6
    gamma_conv: float = 0.25
    gamma_dense: float = 0.05
    layers: Mapping[str, SumRule] = field(default_factory=dict[str, SumRule])

    def __post_init__(self) -> None:
        """Check the names and numbers."""
        for name in (self.first, self.conv, self.dense, *self.layers.values()):
            if name not in SUM_RULES:
                raise _unknown(name, SUM_RULES)
        if self.epsilon <= 0 or self.gamma_conv < 0 or self.gamma_dense < 0:
            raise RelevanceError(
                f"epsilon is {self.epsilon}, gamma {self.gamma_conv} and {self.gamma_dense}.",
                "Expected an epsilon above 0, and gammas of 0 or more.",
                "Try 1e-6 and 0.25.",
            )

    def rule_for(self, scopes: tuple[str, ...], kind: Literal["first", "conv", "dense"]) -> SumRule:
        """Return the rule of a weighted sum inside some modules."""
        overrides: list[SumRule] = [
            self.layers[scope] for scope in reversed(scopes) if scope in self.layers
        ]
        return overrides[0] if overrides else getattr(self, kind)


EPSILON_PLUS_FLAT = Rules("epsilon-plus-flat")
"""The paper's composite for CNNs (H.1): epsilon, z+ and flat."""

PRESETS: Mapping[str, Rules] = MappingProxyType(
    {
        rules.name: rules
        for rules in (
            EPSILON_PLUS_FLAT,
            Rules("epsilon-gamma", first="flat", conv="gamma"),
            Rules("attnlrp", first="gamma", conv="gamma", dense="gamma", attention="taylor"),
            Rules("attnlrp-epsilon", first="epsilon", conv="gamma", attention="taylor"),
            Rules("cp-lrp", first="gamma", conv="gamma"),
            Rules("epsilon", first="epsilon", conv="epsilon"),
        )
    }
)
"""``epsilon-plus-flat`` for CNNs; ``attnlrp`` (Achtibat et al. 2024, its settings for ViTs) and
``cp-lrp`` (Ali et al. 2022) for transformers; ``epsilon`` conserves best."""

AUTO = MappingProxyType(
    {
        False: ("epsilon-plus-flat", "epsilon-gamma", "epsilon"),
        True: ("attnlrp", "attnlrp-epsilon", "cp-lrp", "epsilon"),
    }
)
"""The presets that ``auto`` tries in order, for models without and with attention."""

GRADIENT = "gradient"
"""Name of the fallback, gradient times input, which works for any differentiable model."""


def preset(rules: str | Rules, **changes: Any) -> Rules:
    """Return a preset by name, with changes.

    Raises
    ------
    RelevanceError
        If the name, a rule or a number is not valid.
    """
    base = rules if isinstance(rules, Rules) else PRESETS.get(rules)
    if base is None:
        raise _unknown(str(rules), (*PRESETS, GRADIENT, "auto"))
    return replace(base, **changes)


def _unknown(name: str, names: tuple[str, ...]) -> RelevanceError:
    return RelevanceError(
        f"Unknown rules '{name}'.",
        f"The nearest names are {nearest(name, names)}.",
        f"Choose one of {', '.join(names)}.",
    )


def check_rules(name: str) -> None:
    """Raise an error unless the name is a preset, ``gradient`` or ``auto``.

    Raises
    ------
    RelevanceError
        If it is none of them; the text lists the names.
    """
    if name not in (GRADIENT, "auto"):
        preset(name)
