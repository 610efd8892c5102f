"""The drawable elements of an attribution graph's picture, with their positions."""

from __future__ import annotations

from dataclasses import dataclass

CARD = (250.0, 66.0)
"""Width and height of a card."""
THUMB = 54.0
"""Side of a thumbnail."""
INSET = 6.0
"""Distance of the thumbnail from the card's edges."""
BAR = 4.0
"""Height of the bar of verdicts."""


@dataclass(frozen=True)
class PlacedText:
    """A line of text; ``y`` is the baseline.

    Parameters
    ----------
    soft
        Whether it has a muted colour.
    centred
        Whether ``x`` is the centre of the text, not its left end.
    """

    x: float
    y: float
    text: str
    size: float = 12.5
    bold: bool = False
    soft: bool = False
    centred: bool = False


@dataclass(frozen=True)
class VerdictPart:
    """A part of a stacked bar, in the colour of its verdict."""

    x: float
    y: float
    width: float
    height: float
    verdict: str


@dataclass(frozen=True)
class NodeCard:
    """A rounded box with a thumbnail and texts.

    Parameters
    ----------
    tint
        Strength of the colour, from 0 to 1.
    against
        Whether the node speaks against the class.
    title
        Tooltip.
    merged
        Whether the card stands for all nodes that had no room in the column.
    parts
        The verdicts on its components, side by side.
    """

    index: int
    x: float
    y: float
    tint: float
    against: bool
    title: str
    texts: tuple[PlacedText, ...]
    webp: bytes | None
    merged: bool = False
    parts: tuple[VerdictPart, ...] = ()


@dataclass(frozen=True)
class Curve:
    """A curve from the right side of a lower layer's card to the left side of an upper layer's.

    Parameters
    ----------
    against
        Whether the edge speaks against the class.
    title
        Tooltip.
    ends
        Indices of the lower and the upper card.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    width: float
    opacity: float
    against: bool
    title: str = ""
    ends: tuple[int, int] | None = None


@dataclass(frozen=True)
class Scene:
    """The whole picture, in pixels; curves are drawn below the cards."""

    width: float
    height: float
    title: str
    curves: tuple[Curve, ...]
    cards: tuple[NodeCard, ...]
    texts: tuple[PlacedText, ...]
    parts: tuple[VerdictPart, ...] = ()
    """Samples in the legend."""
