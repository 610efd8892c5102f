"""Which rule each kind of layer gets: named presets, and changes to them."""

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
    """Rules by kind of layer.

    Parameters
    ----------
    name
        Under which they are known.
    first
        For the layer that reads the pixels.
    conv, dense
        For the other convolutions and dense layers.
    attention
        ``constant``: attention weights carry no relevance (CP-LRP); ``taylor``: AttnLRP.
    epsilon
        Stabiliser of denominators.
    gamma_conv, gamma_dense
        Strength of the gamma rule, where it is used.
    layers
        Exceptions: rule by name of a module; all weighted sums inside it get that rule.
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

    def at(self, scopes: tuple[str, ...], kind: Literal["first", "conv", "dense"]) -> SumRule:
        """Return the rule of a weighted sum inside some modules."""
        named: list[SumRule] = [self.layers[one] for one in reversed(scopes) if one in self.layers]
        return named[0] if named else getattr(self, kind)


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
"""What ``auto`` tries, in this order, for models without and with attention."""

GRADIENT = "gradient"
"""Name of the fallback, gradient times input, which works for any differentiable model."""


def preset(rules: str | Rules, **changes: Any) -> Rules:
    """Return a preset by name, with changes.

    Raises
    ------
    RelevanceError
        If there is none of that name, or a rule or number is wrong.
    """
    found = rules if isinstance(rules, Rules) else PRESETS.get(rules)
    if found is None:
        raise _unknown(str(rules), (*PRESETS, GRADIENT, "auto"))
    return replace(found, **changes)


def _unknown(name: str, known: tuple[str, ...]) -> RelevanceError:
    return RelevanceError(
        f"There are no rules '{name}'.",
        f"The nearest names are {nearest(name, known)}.",
        f"Choose one of {', '.join(known)}.",
    )


def check_rules(name: str) -> None:
    """Refuse a name that is no preset, ``gradient`` or ``auto``.

    Raises
    ------
    RelevanceError
        It lists the names.
    """
    if name not in (GRADIENT, "auto"):
        preset(name)
