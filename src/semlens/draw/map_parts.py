"""What a map is drawn from: the colours of its points and the labels of its clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64


@dataclass(frozen=True)
class MapLabel:
    """The text of one cluster, where it belongs, and how many components it stands for."""

    text: str
    x: float
    y: float
    size: int


@dataclass(frozen=True, eq=False)
class Groups:
    """Each point belongs to one of some groups, or to none (-1).

    Parameters
    ----------
    title
        What the groups are.
    ordered
        Whether neighbours in ``names`` are alike, as layers from first to last.
    """

    title: str
    names: tuple[str, ...]
    group: Int64[np.ndarray, " n"]
    ordered: bool = False


@dataclass(frozen=True, eq=False)
class Queries:
    """How much each point aligns with each query; none has a hue of its own below zero."""

    names: tuple[str, ...]
    alignment: Float32[np.ndarray, "n q"]


@dataclass(frozen=True, eq=False)
class Scale:
    """One value per point, NaN where there is none.

    Parameters
    ----------
    signed
        Whether zero is the middle.
    sized
        Whether larger absolute values are larger points, too.
    """

    title: str
    values: Float32[np.ndarray, " n"]
    signed: bool = False
    sized: bool = False

    @property
    def limits(self) -> tuple[float, float]:
        """Ends of the scale: least and largest value; of signed ones the farthest, both ways."""
        known = self.values[np.isfinite(self.values)]
        if not len(known):
            return 0.0, 0.0
        if self.signed:
            far = float(np.abs(known).max())
            return -far, far
        return float(known.min()), float(known.max())


Colouring = Groups | Queries | Scale
