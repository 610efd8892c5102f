"""Where everything in the picture of an attribution graph goes; plain shapes, drawn elsewhere.

Columns are layers, from the lowest on the left to the class on the right.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from semlens.draw.encode_images import shortened

CARD = (226.0, 58.0)
THUMB = 46.0
INSET = 6.0
GAP_ACROSS = 150.0
GAP_DOWN = 12.0
MARGIN = 30.0
TOP = 128.0
BOTTOM = 76.0
MAX_CARDS = 12
"""Boxes in a column; further groups become one, at its bottom."""

REST = "/+"

WIDEST = 15.0
FAINTEST = 0.02
"""Lines thinner than this share of the widest one are not drawn."""


@dataclass(frozen=True)
class GraphNode:
    """The kept components of one layer that have one label; or the class itself.

    Shares are signed: below zero, the components speak against the class.
    """

    id: str
    layer: str
    """Empty for the class."""
    label: str
    components: tuple[str, ...]
    """Their names, the one of the largest share first."""
    mean: float
    """Their part in the layer's absolute relevance, mean over the images."""
    maximum: float
    """The same on the image where it is largest (in size)."""


@dataclass(frozen=True)
class GraphEdge:
    """What reaches ``target`` when relevance starts at ``source``, the upper one, only."""

    source: str
    target: str
    weight: float
    """Signed, in shares of the lower layer's absolute relevance, mean over the images."""


@dataclass(frozen=True)
class GraphHeading:
    """What the picture says of the whole graph."""

    name: str
    images: int
    minimum: float
    share_shown: Mapping[str, float]
    edges_shown: Mapping[str, float]
    overall: float


@dataclass(frozen=True)
class PlacedText:
    """A line of text; ``y`` is its base line."""

    x: float
    y: float
    text: str
    size: float = 12.5
    bold: bool = False
    soft: bool = False
    middle: bool = False
    """Whether ``x`` is its middle."""


@dataclass(frozen=True)
class NodeCard:
    """A rounded box with a thumbnail and texts; ``tint`` is the strength of its colour."""

    number: int
    x: float
    y: float
    tint: float
    against: bool
    title: str
    texts: tuple[PlacedText, ...]
    webp: bytes | None
    rest: bool = False
    """Whether it stands for all that had no room."""


@dataclass(frozen=True)
class Curve:
    """A line from the right side of a lower box to the left side of an upper one."""

    start: tuple[float, float]
    end: tuple[float, float]
    width: float
    opacity: float
    against: bool
    title: str = ""
    ends: tuple[int, int] | None = None
    """Numbers of the lower and the upper card."""


@dataclass(frozen=True)
class Scene:
    """The whole picture, in pixels; lines lie under the cards."""

    width: float
    height: float
    title: str
    curves: tuple[Curve, ...]
    cards: tuple[NodeCard, ...]
    texts: tuple[PlacedText, ...]


Links = dict[tuple[str, str], float]


def layout_graph(
    nodes: Sequence[GraphNode],
    edges: Sequence[GraphEdge],
    heading: GraphHeading,
    thumbnails: Mapping[str, bytes],
) -> Scene:
    """Place the parts of a picture.

    Parameters
    ----------
    nodes
        The class (whose layer has an empty name) and the groups of every layer.
    heading
        Its ``share_shown`` names the layers from the lowest to the highest.
    thumbnails
        WebP pictures by the id of a node.
    """
    groups, links = _merged(nodes, edges, [*heading.share_shown, ""])
    kept = {node.id: node for group in groups for node in group}
    order = order_by_barycentre([[node.id for node in group] for group in groups], links)
    columns = [sorted(column, key=lambda name: name.endswith(REST)) for column in order]
    height = TOP + _tall(max(map(len, columns))) + BOTTOM
    width = 2 * MARGIN + len(columns) * (CARD[0] + GAP_ACROSS) - GAP_ACROSS
    cards: dict[str, NodeCard] = {}
    for place, column in enumerate(columns):
        x = MARGIN + place * (CARD[0] + GAP_ACROSS)
        y = TOP + (height - BOTTOM - TOP - _tall(len(column))) / 2
        strongest = max((abs(kept[name].mean) for name in column), default=0.0) or 1.0
        for name in column:
            tint = abs(kept[name].mean) / strongest
            cards[name] = _card(len(cards), x, y, kept[name], tint, heading, thumbnails.get(name))
            y += CARD[1] + GAP_DOWN
    curves, least = _curves(cards, links, kept)
    legend, samples = _legend(height, least, links)
    return Scene(
        width,
        height,
        f"Attribution graph of the class {heading.name}",
        (*curves, *samples),
        tuple(cards.values()),
        (*_headings(heading, width), *legend),
    )


def _tall(boxes: int) -> float:
    return boxes * (CARD[1] + GAP_DOWN) - GAP_DOWN


def _merged(
    nodes: Sequence[GraphNode], edges: Sequence[GraphEdge], layers: Sequence[str]
) -> tuple[list[list[GraphNode]], Links]:
    """Return the nodes of each column, and weights by (source, target).

    What a column has no room for is joined into one node.
    """
    columns: list[list[GraphNode]] = []
    stands_for = {node.id: node.id for node in nodes}
    for layer in layers:
        ranked = sorted((n for n in nodes if n.layer == layer), key=lambda n: -abs(n.mean))
        shown = ranked if len(ranked) <= MAX_CARDS else ranked[: MOST - 1]
        rest = ranked[len(shown) :]
        columns.append(shown)
        if rest:
            names = tuple(name for node in rest for name in node.components)
            mean = sum(node.mean for node in rest)
            shown.append(
                GraphNode(layer + REST, layer, f"+{len(rest)} more", names, mean, math.nan)
            )
            stands_for |= {node.id: layer + REST for node in rest}
    links: Links = defaultdict(float)
    for edge in edges:
        links[stands_for[edge.source], stands_for[edge.target]] += edge.weight
    return columns, dict(links)


def percent(share: float) -> str:
    """Write a share with two digits that count."""
    value = 100 * share
    return f"{value:.0f} %" if abs(value) >= 9.95 else f"{value:.1f} %"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" + ("s" if number != 1 else "")


def _card(
    number: int,
    x: float,
    y: float,
    node: GraphNode,
    tint: float,
    heading: GraphHeading,
    webp: bytes | None,
) -> NodeCard:
    rest = node.id.endswith(REST)
    left = x + INSET + (THUMB + 9 if webp is not None else 6)
    room = x + CARD[0] - 8 - left
    if not node.layer:
        below, title = f"class · {_counted(heading.images, 'image')}", f"the class {node.label}"
    else:
        below = f"{percent(node.mean)} · {_counted(len(node.components), 'component')}"
        names = ", ".join(node.components[:20])
        names += ", …" if len(node.components) > 20 else ""
        most = "" if rest else f", {percent(node.maximum)} at most"
        title = f"{node.label}\n{percent(node.mean)} on average{most}\n{names}"
    texts = (
        PlacedText(left, y + 25, shortened(node.label, 14.5, room), 14.5, bold=True),
        PlacedText(left, y + 44, shortened(below, 12.0, room), 12.0, soft=True),
    )
    return NodeCard(number, x, y, 0.0 if rest else tint, node.mean < 0, title, texts, webp, rest)


def _curves(
    cards: Mapping[str, NodeCard], links: Links, kept: Mapping[str, GraphNode]
) -> tuple[list[Curve], float]:
    """Return the lines, strongest last, and the least weight that is drawn.

    The rest of a column counts for the layer as a whole, so its lines do not set the scale.

    Lines leave and enter a box side by side, in the order of the boxes at their other ends.
    """
    single = [abs(w) for ends, w in links.items() if not any(e.endswith(REST) for e in ends)]
    strongest = max(single, default=0.0) or 1.0
    least = FAINTEST * strongest
    drawn = {ends: w for ends, w in links.items() if abs(w) >= least and w != 0}
    widths = {e: max(0.8, WIDEST * min(1, abs(w) / strongest)) for e, w in drawn.items()}
    upper, lower = (_ports(cards, widths, side) for side in (0, 1))
    curves: list[Curve] = []
    for ends in sorted(drawn, key=lambda ends: abs(drawn[ends])):
        source, target = cards[ends[0]], cards[ends[1]]
        weight = drawn[ends]
        opacity = 0.12 + 0.54 * min(1, abs(weight) / strongest) ** 0.5
        names = [f"{kept[e].label} ({kept[e].layer or 'class'})" for e in (ends[1], ends[0])]
        curves.append(
            Curve(
                (target.x + CARD[0], lower[ends]),
                (source.x, upper[ends]),
                widths[ends],
                opacity * (0.4 if any(end.endswith(REST) for end in ends) else 1),
                weight < 0,
                f"{names[0]} → {names[1]}: {percent(weight)}",
                (target.number, source.number),
            )
        )
    return curves, least


def _ports(
    cards: Mapping[str, NodeCard], widths: Mapping[tuple[str, str], float], side: int
) -> dict[tuple[str, str], float]:
    """Return the height at which each line meets the box at one of its ends."""
    found: dict[tuple[str, str], float] = {}
    for name, card in cards.items():
        lines = [ends for ends in widths if ends[side] == name]
        total = sum(widths[ends] for ends in lines)
        scale = min(1.0, (CARD[1] - 12) / (total or 1.0))
        y = card.y + (CARD[1] - total * scale) / 2
        for ends in sorted(lines, key=lambda ends: cards[ends[1 - side]].y):
            found[ends] = y + widths[ends] * scale / 2
            y += widths[ends] * scale
    return found


def _headings(heading: GraphHeading, width: float) -> list[PlacedText]:
    images = _counted(heading.images, "image")
    subtitle = (
        f"{images} · components that reach {100 * heading.minimum:g} % of their layer's relevance "
        f"· the lines show {percent(heading.overall)} of it"
    )
    name = shortened(heading.name, 22.0, width - 2 * MARGIN - 150)
    texts = [
        PlacedText(MARGIN, 44.0, f"Attribution graph: {name}", 22.0, bold=True),
        PlacedText(MARGIN, 67.0, shortened(subtitle, 13.0, width - 2 * MARGIN), 13.0, soft=True),
    ]
    for place, (layer, boxes) in enumerate(heading.share_shown.items()):
        x = MARGIN + place * (CARD[0] + GAP_ACROSS) + CARD[0] / 2
        shown = f"boxes show {percent(boxes)}, lines {percent(heading.edges_shown[layer])}"
        texts += [
            PlacedText(x, 98.0, shortened(layer, 14.0, CARD[0]), 14.0, bold=True, middle=True),
            PlacedText(x, 115.0, shown, 11.5, soft=True, middle=True),
        ]
    return texts


def _legend(height: float, least: float, links: Links) -> tuple[list[PlacedText], list[Curve]]:
    """Return the texts below the graph, and the lines that they explain."""
    y, weights = height - 42, [abs(weight) for weight in links.values()]
    missing = sum(w for w in weights if w < least) / (sum(weights) or 1.0)
    left_out = f"lines under {percent(least)} are left out: {percent(missing)} of all together"
    samples = [
        Curve((MARGIN, y - 4), (MARGIN + 34, y - 4), 7.0, 0.6, False),
        Curve((MARGIN + 150, y - 4), (MARGIN + 184, y - 4), 7.0, 0.6, True),
    ]
    texts = [
        PlacedText(MARGIN + 42, y, "for the class", soft=True),
        PlacedText(MARGIN + 192, y, "against it", soft=True),
        PlacedText(MARGIN + 290, y, left_out, soft=True),
        PlacedText(
            MARGIN,
            y + 22,
            "Box: its share of the layer's relevance. Line: how much of the lower layer's "
            "relevance comes down from that upper box.",
            soft=True,
        ),
    ]
    return texts, samples


SWEEPS = 6


def order_by_barycentre(
    columns: Sequence[Sequence[str]], links: Mapping[tuple[str, str], float]
) -> list[list[str]]:
    """Sort columns by the weighted mean place of their neighbours, a few times to and fro.

    Parameters
    ----------
    columns
        Names from the lowest to the highest column.
    links
        Weights by (upper, lower) name.

    Returns
    -------
    list
        The order whose crossing_weight weigh least among those that were tried, the given one
        included.
    """
    order = [list(column) for column in columns]
    best, least = [list(column) for column in order], crossing_weight(order, links)
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        for place in range(len(order) - 2, -1, -1) if downwards else range(1, len(order)):
            fixed = order[place + 1 if downwards else place - 1]
            order[place] = _sorted(order[place], fixed, links)
        found = crossing_weight(order, links)
        if found < least:
            best, least = [list(column) for column in order], found
    return best


def _sorted(
    column: Sequence[str], fixed: Sequence[str], links: Mapping[tuple[str, str], float]
) -> list[str]:
    middle: dict[str, float] = {}
    for place, name in enumerate(column):
        weights = [
            abs(links.get((other, name), 0.0) or links.get((name, other), 0.0)) for other in fixed
        ]
        total = sum(weights)
        centre = sum(i * w for i, w in enumerate(weights)) / total if total else place
        # places are compared as parts of their column: one may be longer than the other
        middle[name] = centre / max(1, len(fixed if total else column) - 1)
    return sorted(column, key=lambda name: middle[name])


def crossing_weight(columns: Sequence[Sequence[str]], links: Mapping[tuple[str, str], float]) -> float:
    """Sum over all pairs of lines that cross the smaller of their weights."""
    total = 0.0
    for lower, upper in zip(columns, columns[1:], strict=False):
        low = {name: i for i, name in enumerate(lower)}
        high = {name: i for i, name in enumerate(upper)}
        lines = [
            (high[a], low[b], abs(weight))
            for (a, b), weight in links.items()
            if a in high and b in low
        ]
        for (a, b, first), (c, d, second) in combinations(lines, 2):
            if (a - c) * (b - d) < 0:
                total += min(first, second)
    return total
