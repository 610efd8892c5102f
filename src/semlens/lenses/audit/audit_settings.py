"""Settings of an audit that are saved with it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Strict

from semlens.lenses.class_relevance import MINIMUM, Minimum
from semlens.settings import Settings, setting
from semlens.types import Layers

LEVEL = 0.05
"""Significance level: probability that random concepts count as a finding."""
Bound = Annotated[float, setting("A difference of two cosines.", ge=-2, le=2)]

Level = Annotated[
    float, setting("Probability that as many random concepts would align by chance.", gt=0, lt=1)
]
Threshold = Annotated[
    Bound | tuple[Bound | None, Bound | None] | None,
    setting("Fixed alignment threshold instead (the paper uses 0)."),
]
"""One threshold for both sides, or (valid, spurious); None calibrates it by ``level``."""
Seed = Annotated[int, setting("Random seed.", ge=0)]


class AuditSettings(Settings):
    """Settings of :func:`semlens.lenses.audit.audit.audit` besides its concept lists."""

    model_config = ConfigDict(strict=True)

    layers: Layers = None
    minimum: Minimum = MINIMUM
    level: Level = LEVEL
    threshold: Annotated[tuple[Bound | None, Bound | None], Strict(False)] = (None, None)
    """Fixed thresholds for (valid, spurious) concepts; None calibrates them by ``level``."""
    seed: Seed = 0

    def as_arguments(self) -> dict[str, Any]:
        """Return the settings as keyword arguments of an audit."""
        threshold = None if self.threshold == (None, None) else self.threshold
        return {**dict(self), "threshold": threshold}
