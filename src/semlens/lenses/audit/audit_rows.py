"""Rows of the tables of an audit, as the page and evidence files have them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from semlens.lenses.audit.relevance_shares import Verdict

Side = Literal["valid", "spurious"]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShareRow(_Row):
    """Components with a verdict in a layer or, last, in all layers, and their share.

    Low and high are the range over resampled examples; null if none were drawn.
    """

    layer: str
    verdict: Verdict
    components: int
    by_number: float
    by_number_low: float | None
    by_number_high: float | None
    by_relevance: float
    by_relevance_low: float | None
    by_relevance_high: float | None


class NullShareRow(_Row):
    """The share of a layer's relevance that a list claims, compared with random concept sets."""

    side: Side
    layer: str
    share: float
    expected: float
    """Mean share of random concept sets of the same size."""
    p_value: float
    """Probability that they claim as much."""


class ConceptRow(_Row):
    """A concept: the components that match it best, and its contrast with other classes."""

    concept: str
    kind: Side
    category: str
    components: int
    relevance: float
    contrast: float | None
    """Association with the class's relevance, beyond that of the other classes."""
    contrast_others: float | None
    """The largest contrast of another class."""
    p_value: float | None


class ComponentRow(_Row):
    """A relevant component: its shares of its layer's relevance, and its verdict.

    For each side, the best concept, its alignment and its threshold; null if the list is empty.
    """

    component: str
    layer: str
    mean: float
    max: float
    verdict: Verdict
    certainty: float | None
    """Share of the bootstrap draws with the same verdict."""
    valid_concept: str | None
    valid: float | None
    valid_threshold: float | None
    spurious_concept: str | None
    spurious: float | None
    spurious_threshold: float | None
    carries: float | None = None
    """Share of the class's gain from a sign that is lost without it; null if none clearly is."""
