"""Where everything in the picture of an attribution graph goes; plain shapes, drawn elsewhere.

Columns are layers, from the lowest on the left to the class on the right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

from PIL import ImageFont

from semlens.draw.graph_order import by_barycentre

CARD = (226.0, 58.0)
THUMB = 46.0
INSET = 6.0
GAP_ACROSS = 150.0
GAP_DOWN = 12.0
MARGIN = 30.0
TOP = 128.0
BOTTOM = 76.0
MOST = 12
"""Boxes in a column; further groups become one, at its bottom."""

REST = "/+"

WIDEST = 15.0
FAINTEST = 0.02
"""Lines thinner than this share of the widest one are not drawn."""


@runtime_checkable
class NodeLike(Protocol):
    """What the picture needs to know of a group of components."""

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def layer(self) -> str: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def components(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def mean(self) -> float: ...  # noqa: D102
    @property
    def maximum(self) -> float: ...  # noqa: D102


@runtime_checkable
class EdgeLike(Protocol):
    """What the picture needs to know of what passes between two groups."""

    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def target(self) -> str: ...  # noqa: D102
    @property
    def weight(self) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class Heading:
    """What the picture says of the whole graph."""

    name: str
    images: int
    minimum: float
    share_shown: Mapping[str, float]
    edges_shown: Mapping[str, float]
    overall: float


@dataclass(frozen=True)
class Text:
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
class Card:
    """A rounded box with a thumbnail and texts; ``tint`` is the strength of its colour."""

    number: int
    x: float
    y: float
    width: float
    height: float
    tint: float
    against: bool
    title: str
    texts: tuple[Text, ...]
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
    cards: tuple[Card, ...]
    texts: tuple[Text, ...]


@dataclass(frozen=True)
class _Node:
    id: str
    layer: str
    label: str
    components: tuple[str, ...]
    mean: float
    maximum: float | None


def arrange(
    nodes: Sequence[NodeLike],
    edges: Sequence[EdgeLike],
    heading: Heading,
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
    columns, links = _merged(nodes, edges, [*heading.share_shown, ""])
    columns = [
        sorted(column, key=lambda name: name.endswith(REST))
        for column in by_barycentre(columns, links)
    ]
    kept = {node.id: node for node in map(_plain, nodes)}
    kept.update({node.id: node for node in _rests(nodes, columns)})
    tallest = max(len(column) for column in columns)
    height = TOP + tallest * (CARD[1] + GAP_DOWN) - GAP_DOWN + BOTTOM
    width = 2 * MARGIN + len(columns) * (CARD[0] + GAP_ACROSS) - GAP_ACROSS
    strongest = {
        layer: max((abs(kept[name].mean) for name in column), default=0.0) or 1.0
        for layer, column in zip([*heading.share_shown, ""], columns, strict=True)
    }
    cards: dict[str, Card] = {}
    for place, column in enumerate(columns):
        x = MARGIN + place * (CARD[0] + GAP_ACROSS)
        used = len(column) * (CARD[1] + GAP_DOWN) - GAP_DOWN
        y = TOP + (height - BOTTOM - TOP - used) / 2
        for name in column:
            node = kept[name]
            tint = abs(node.mean) / strongest[node.layer]
            cards[name] = _card(len(cards), x, y, node, tint, heading, thumbnails.get(name))
            y += CARD[1] + GAP_DOWN
    curves, least = _curves(cards, links, kept)
    legend, samples = _legend(height, least, _missing(links, least))
    return Scene(
        width,
        height,
        f"Attribution graph of the class {heading.name}",
        (*curves, *samples),
        tuple(cards.values()),
        (*_headings(heading, width), *legend),
    )


Links = dict[tuple[str, str], float]


def _plain(node: NodeLike) -> _Node:
    return _Node(node.id, node.layer, node.label, node.components, node.mean, node.maximum)


def _rest(layer: str) -> str:
    return layer + REST


def _merged(
    nodes: Sequence[NodeLike], edges: Sequence[EdgeLike], layers: Sequence[str]
) -> tuple[list[list[str]], Links]:
    """Return the columns' ids, and weights by (source, target); what is too much is joined."""
    columns: list[list[str]] = []
    stands_for: dict[str, str] = {}
    for layer in layers:
        ranked = sorted((n for n in nodes if n.layer == layer), key=lambda n: -abs(n.mean))
        shown = ranked if len(ranked) <= MOST else ranked[: MOST - 1]
        rest = ranked[len(shown) :]
        stands_for.update({node.id: _rest(layer) for node in rest})
        columns.append([node.id for node in shown] + ([_rest(layer)] if rest else []))
    links: Links = {}
    for edge in edges:
        key = (
            stands_for.get(edge.source, edge.source),
            stands_for.get(edge.target, edge.target),
        )
        links[key] = links.get(key, 0.0) + edge.weight
    return columns, links


def _rests(nodes: Sequence[NodeLike], columns: Sequence[Sequence[str]]) -> list[_Node]:
    """Return the nodes that stand for all that a column has no room for."""
    shown = {name for column in columns for name in column}
    found: list[_Node] = []
    for layer in {node.layer: None for node in nodes}:
        rest = [node for node in nodes if node.layer == layer and node.id not in shown]
        if rest:
            names = tuple(name for node in rest for name in node.components)
            mean = sum(node.mean for node in rest)
            found.append(_Node(_rest(layer), layer, f"+{len(rest)} more", names, mean, None))
    return found


def percent(share: float) -> str:
    """Write a share with two digits that count."""
    value = 100 * share
    return f"{value:.0f} %" if abs(value) >= 9.95 else f"{value:.1f} %"


def _images(heading: Heading) -> str:
    return f"{heading.images} image" + ("s" if heading.images != 1 else "")


def _count(number: int) -> str:
    return f"{number} component" + ("s" if number != 1 else "")


def _card(
    number: int,
    x: float,
    y: float,
    node: _Node,
    tint: float,
    heading: Heading,
    webp: bytes | None,
) -> Card:
    left = x + INSET + (THUMB + 9 if webp is not None else 6)
    room = x + CARD[0] - 8 - left
    if not node.layer:
        below, title = f"class · {_images(heading)}", f"the class {node.label}"
    else:
        below = f"{percent(node.mean)} · {_count(len(node.components))}"
        names = ", ".join(node.components[:20])
        names += ", …" if len(node.components) > 20 else ""
        most = "" if node.maximum is None else f", {percent(node.maximum)} at most"
        title = f"{node.label}\n{percent(node.mean)} on average{most}\n{names}"
    label = Text(left, y + 25, shortened(node.label, 14.5, room), 14.5, bold=True)
    texts = (label, Text(left, y + 44, shortened(below, 12.0, room), 12.0, soft=True))
    rest = node.maximum is None
    against, tint = node.mean < 0, 0.0 if rest else tint
    return Card(number, x, y, CARD[0], CARD[1], tint, against, title, texts, webp, rest)


@lru_cache
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def shortened(text: str, size: float, room: float) -> str:
    """Cut a text so that it is at most ``room`` wide."""
    if _font(size).getlength(text) <= room:
        return text
    while text and _font(size).getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"


def _curves(
    cards: Mapping[str, Card], links: Links, kept: Mapping[str, _Node]
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
    upper = _ports(cards, widths, side=0)
    lower = _ports(cards, widths, side=1)
    curves: list[Curve] = []
    for ends in sorted(drawn, key=lambda ends: abs(drawn[ends])):
        source, target = cards[ends[0]], cards[ends[1]]
        weight = drawn[ends]
        opacity = 0.12 + 0.54 * min(1, abs(weight) / strongest) ** 0.5
        names = [f"{kept[e].label} ({kept[e].layer or 'class'})" for e in (ends[1], ends[0])]
        curves.append(
            Curve(
                (target.x + target.width, lower[ends]),
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
    cards: Mapping[str, Card], widths: Mapping[tuple[str, str], float], side: int
) -> dict[tuple[str, str], float]:
    """Return the height at which each line meets the box at one of its ends."""
    of: dict[str, list[tuple[str, str]]] = {}
    for ends in widths:
        of.setdefault(ends[side], []).append(ends)
    found: dict[tuple[str, str], float] = {}
    for name, lines in of.items():
        card = cards[name]
        lines.sort(key=lambda ends: cards[ends[1 - side]].y)
        total = sum(widths[ends] for ends in lines)
        scale = min(1.0, (card.height - 12) / total)
        y = card.y + (card.height - total * scale) / 2
        for ends in lines:
            found[ends] = y + widths[ends] * scale / 2
            y += widths[ends] * scale
    return found


def _headings(heading: Heading, width: float) -> list[Text]:
    subtitle = (
        f"{_images(heading)} · components that reach {100 * heading.minimum:g} % of their "
        f"layer's relevance · the lines show {percent(heading.overall)} of it"
    )
    name = shortened(heading.name, 22.0, width - 2 * MARGIN - 150)
    texts = [
        Text(MARGIN, 44.0, f"Attribution graph: {name}", 22.0, bold=True),
        Text(MARGIN, 67.0, shortened(subtitle, 13.0, width - 2 * MARGIN), 13.0, soft=True),
    ]
    for place, (layer, boxes) in enumerate(heading.share_shown.items()):
        x = MARGIN + place * (CARD[0] + GAP_ACROSS) + CARD[0] / 2
        shown = f"boxes show {percent(boxes)}, lines {percent(heading.edges_shown[layer])}"
        name = shortened(layer, 14.0, CARD[0])
        texts.append(Text(x, 98.0, name, 14.0, bold=True, middle=True))
        texts.append(Text(x, 115.0, shown, 11.5, soft=True, middle=True))
    return texts


def _missing(links: Links, least: float) -> float:
    """Return the share of all lines, by their weights, that is not drawn."""
    weights = [abs(weight) for weight in links.values()]
    return sum(w for w in weights if w < least) / (sum(weights) or 1.0)


def _legend(height: float, least: float, missing: float) -> tuple[list[Text], list[Curve]]:
    """Return the texts below the graph, and the lines that they explain."""
    y = height - 42
    left_out = f"lines under {percent(least)} are left out: {percent(missing)} of all together"
    lines = [
        Curve((MARGIN, y - 4), (MARGIN + 34, y - 4), 7.0, 0.6, False),
        Curve((MARGIN + 150, y - 4), (MARGIN + 184, y - 4), 7.0, 0.6, True),
    ]
    texts = [
        Text(MARGIN + 42, y, "for the class", soft=True),
        Text(MARGIN + 192, y, "against it", soft=True),
        Text(MARGIN + 290, y, left_out, soft=True),
        Text(
            MARGIN,
            y + 22,
            "Box: its share of the layer's relevance. Line: how much of the lower layer's "
            "relevance comes down from that upper box.",
            soft=True,
        ),
    ]
    return texts, lines
