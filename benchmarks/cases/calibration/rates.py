"""Simulated p-values, and how often they are below a level, with intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64
from scipy.stats import beta, false_discovery_control

Kind = Literal["null", "violated", "no null", "unused"]
"""Of a simulation: there is nothing to find; nothing, but the test's assumptions are violated;
there may be something to find; semlens does not use the test."""
Family = Literal["bonferroni", "sweep"]
"""How the classes of a draw are tested together: smallest p times their number, or q values."""
LEVEL = 0.05


@dataclass(frozen=True)
class Simulation:
    """P-values of one test under one null.

    Parameters
    ----------
    p_values
        One row per draw, one column per class that is tested in it.
    drawn
        Whether the figure shows it.
    members
        Names of the classes, if they are the same in each draw.
    """

    test: str
    null: str
    p_values: Float64[np.ndarray, "draws members"]
    kind: Kind = "null"
    family: Family | None = None
    drawn: bool = False
    members: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the rates as plain values."""
        values: dict[str, Any] = {
            "name": self.test,
            "null": self.null,
            "kind": self.kind,
            "draws": len(self.p_values),
        }
        for level, key in ((LEVEL, "below_05"), (0.01, "below_01")):
            values |= named_rate(key, self.p_values < level)
        if self.members:
            shares = (self.p_values < LEVEL).mean(0).tolist()
            values["below_05_by_class"] = dict(zip(self.members, shares, strict=True))
        if self.family is not None:
            values |= named_rate("family_wise_05", any_alarm(self.p_values, self.family)[:, None])
        return values


@dataclass(frozen=True)
class Rate:
    """How often something happens that should happen with a nominal probability, if any."""

    test: str
    null: str
    nominal: float | None
    happened: np.ndarray
    """One row per draw, one column per member."""

    def record(self) -> dict[str, Any]:
        """Return the rate as plain values."""
        about = {"name": self.test, "null": self.null, "nominal": self.nominal}
        return {**about, "draws": len(self.happened), **named_rate("rate", self.happened)}


def any_alarm(p_values: Float64[np.ndarray, "draws members"], family: Family) -> np.ndarray:
    """Return whether any class of a draw is an alarm, all tested together."""
    if family == "sweep":
        return false_discovery_control(p_values, axis=1).min(1) < LEVEL
    return p_values.min(1) * p_values.shape[1] < LEVEL


def named_rate(key: str, happened: np.ndarray) -> dict[str, float]:
    """Return ``key``, ``key_low`` and ``key_high``."""
    share, low, high = rate(happened)
    return {key: share, f"{key}_low": low, f"{key}_high": high}


def rate(happened: np.ndarray) -> tuple[float, float, float]:
    """Return a share and its 95 % interval (Clopper and Pearson 1934).

    The members of a draw may depend on one another. The interval is that of as many independent
    observations as have the variance of the draws' shares (Korn and Graubard 1998); with one
    member per draw, they are the draws.
    """
    draws, members = happened.shape
    by_draw = happened.mean(1)
    share = float(by_draw.mean())
    variance = float(by_draw.var(ddof=1)) / draws
    count = float(draws)
    if members > 1 and variance > 0:
        count = min(share * (1 - share) / variance, draws * members)
    hits = share * count
    low = 0.0 if share == 0 else float(beta.ppf(0.025, hits, count - hits + 1))
    high = 1.0 if share == 1 else float(beta.ppf(0.975, hits + 1, count - hits))
    return share, low, high
