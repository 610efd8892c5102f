"""Layout of an attribution graph: from nodes and edges to positioned cards, curves and texts.

Columns are layers, from the lowest on the left to the class on the right.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from semlens.draw.encode_images import fit_text
from semlens.draw.graph_ordering import order_by_barycentre
from semlens.draw.graph_scene import (
    BAR,
    CARD,
    INSET,
    THUMB,
    Curve,
    NodeCard,
    PlacedText,
    Scene,
    VerdictPart,
)
from semlens.draw.palette import NO_VERDICT, VERDICTS

COLUMN_GAP = 150.0
ROW_GAP = 12.0
MARGIN = 30.0
TOP = 128.0
BOTTOM = 76.0
LEGEND_LINE = 22.0
MAX_CARDS = 12
"""Cards in a column; if there are more groups, the weakest are merged into the last card."""
MERGED = "/+"
"""Suffix of a merged node's id."""
MAX_WIDTH = 15.0
"""Width of the strongest curve."""
MIN_STRENGTH = 0.02
"""Curves weaker than this fraction of the strongest one are not drawn."""


@dataclass(frozen=True)
class GraphNode:
    """The selected components of one layer with the same label, or the class itself.

    Shares are signed; a negative share speaks against the class.
    """

    id: str
    layer: str
    """Empty for the class."""
    label: str
    components: tuple[str, ...]
    """Names of the components, largest share first."""
    mean: float
    """Share of the layer's absolute relevance, mean over the images."""
    maximum: float
    """Share on the image where its magnitude is largest."""
    shares: tuple[float, ...] = ()
    """Share of each component, mean over the images; they sum to ``mean``."""
    verdicts: Mapping[str, float] | None = None
    """Share of each verdict in the group's absolute relevance; None without an audit."""


@dataclass(frozen=True)
class GraphEdge:
    """Relevance that reaches ``target`` if it starts only at ``source``, in the upper layer."""

    source: str
    target: str
    weight: float
    """Signed share of the lower layer's absolute relevance, mean over the images."""


@dataclass(frozen=True)
class GraphHeading:
    """Values of the whole graph that the picture states."""

    name: str
    images: int
    minimum: float
    share_shown: Mapping[str, float]
    edges_shown: Mapping[str, float]
    overall: float


Links = dict[tuple[str, str], float]


def layout_graph(
    nodes: Sequence[GraphNode],
    edges: Sequence[GraphEdge],
    heading: GraphHeading,
    thumbnails: Mapping[str, bytes],
) -> Scene:
    """Position all elements of the picture.

    Parameters
    ----------
    nodes
        The class (whose layer is empty) and the groups of every layer.
    heading
        The keys of its ``share_shown`` are the layers, from the lowest to the highest.
    thumbnails
        WebP images by node id.
    """
    groups, links = _merged(nodes, edges, [*heading.share_shown, ""])
    by_id = {node.id: node for group in groups for node in group}
    order = order_by_barycentre([[node.id for node in group] for group in groups], links)
    columns = [sorted(column, key=lambda node_id: node_id.endswith(MERGED)) for column in order]
    judged = any(node.verdicts for node in nodes)
    bottom = BOTTOM + (LEGEND_LINE if judged else 0)
    height = TOP + _column_height(max(map(len, columns))) + bottom
    width = 2 * MARGIN + len(columns) * (CARD[0] + COLUMN_GAP) - COLUMN_GAP
    cards: dict[str, NodeCard] = {}
    for column_index, column in enumerate(columns):
        x = MARGIN + column_index * (CARD[0] + COLUMN_GAP)
        y = TOP + (height - bottom - TOP - _column_height(len(column))) / 2
        strongest = max((abs(by_id[node_id].mean) for node_id in column), default=0.0) or 1.0
        for node_id in column:
            tint = abs(by_id[node_id].mean) / strongest
            cards[node_id] = _card(
                len(cards), x, y, by_id[node_id], tint, heading, thumbnails.get(node_id)
            )
            y += CARD[1] + ROW_GAP
    curves, min_weight = _curves(cards, links, by_id)
    legend, samples = _legend(height - (LEGEND_LINE if judged else 0), min_weight, links)
    key, parts = _verdict_key(height) if judged else ([], [])
    return Scene(
        width,
        height,
        f"Attribution graph of the class {heading.name}",
        (*curves, *samples),
        tuple(cards.values()),
        (*_headings(heading, width), *legend, *key),
        tuple(parts),
    )


def _column_height(cards: int) -> float:
    return cards * (CARD[1] + ROW_GAP) - ROW_GAP


def _merged(
    nodes: Sequence[GraphNode], edges: Sequence[GraphEdge], layers: Sequence[str]
) -> tuple[list[list[GraphNode]], Links]:
    """Return the nodes of each column, and edge weights by (source, target).

    Nodes that a column has no room for are merged into one.
    """
    columns: list[list[GraphNode]] = []
    merged_id = {node.id: node.id for node in nodes}
    for layer in layers:
        ranked = sorted((n for n in nodes if n.layer == layer), key=lambda n: -abs(n.mean))
        visible = ranked if len(ranked) <= MAX_CARDS else ranked[: MAX_CARDS - 1]
        hidden = ranked[len(visible) :]
        columns.append(visible)
        if hidden:
            visible.append(_merged_node(layer, hidden))
            merged_id |= {node.id: layer + MERGED for node in hidden}
    links: Links = defaultdict(float)
    for edge in edges:
        links[merged_id[edge.source], merged_id[edge.target]] += edge.weight
    return columns, dict(links)


def _merged_node(layer: str, nodes: Sequence[GraphNode]) -> GraphNode:
    """Return one node for several groups; its verdicts are the mean of theirs, by relevance."""
    weights = [sum(map(abs, node.shares)) for node in nodes]
    total = sum(weights)
    verdicts: dict[str, float] = {}
    for node, weight in zip(nodes, weights, strict=True):
        for verdict, share in (node.verdicts or {}).items():
            verdicts[verdict] = verdicts.get(verdict, 0.0) + share * (
                weight / total if total else 0
            )
    return GraphNode(
        layer + MERGED,
        layer,
        f"+{len(nodes)} more",
        tuple(name for node in nodes for name in node.components),
        sum(node.mean for node in nodes),
        math.nan,
        tuple(share for node in nodes for share in node.shares),
        verdicts or None,
    )


def verdicts_text(node: GraphNode) -> str:
    """Return the composition of a group in words, the largest share first."""
    ranked = sorted((node.verdicts or {}).items(), key=lambda item: -item[1])
    if len(ranked) == 1:
        return ranked[0][0]
    shares = [(f"{100 * share:.0f}" if share >= 0.005 else "< 1", name) for name, share in ranked]
    return ", ".join(f"{share} % {verdict}" for share, verdict in shares)


def percent(share: float) -> str:
    """Format a share as a percentage with two significant digits."""
    value = 100 * share
    return f"{value:.0f} %" if abs(value) >= 9.95 else f"{value:.1f} %"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" + ("s" if number != 1 else "")


def _card(
    index: int,
    x: float,
    y: float,
    node: GraphNode,
    tint: float,
    heading: GraphHeading,
    webp: bytes | None,
) -> NodeCard:
    merged = node.id.endswith(MERGED)
    left = x + INSET + (THUMB + 9 if webp is not None else 6)
    width = x + CARD[0] - 8 - left
    verdicts = verdicts_text(node)
    if not node.layer:
        subtitle, title = f"class · {_counted(heading.images, 'image')}", f"the class {node.label}"
    else:
        subtitle = f"{percent(node.mean)} · {_counted(len(node.components), 'component')}"
        names = ", ".join(node.components[:20])
        names += ", …" if len(node.components) > 20 else ""
        maximum = "" if merged else f", {percent(node.maximum)} at most"
        judged = f"\nverdicts, by relevance: {verdicts}" if verdicts else ""
        title = f"{node.label}\n{percent(node.mean)} on average{maximum}{judged}\n{names}"
    lines = (21, 37) if verdicts else (28, 47)
    texts = [
        PlacedText(left, y + lines[0], fit_text(node.label, 14.5, width), 14.5, bold=True),
        PlacedText(left, y + lines[1], fit_text(subtitle, 12.0, width), 12.0, soft=True),
    ]
    if verdicts:
        texts.append(PlacedText(left, y + 52, fit_text(verdicts, 11.0, width), 11.0))
    parts = _parts(node.verdicts or {}, left, y + CARD[1] - 9, width)
    tint = 0.0 if merged else tint
    return NodeCard(index, x, y, tint, node.mean < 0, title, tuple(texts), webp, merged, parts)


def _parts(
    verdicts: Mapping[str, float], left: float, y: float, width: float
) -> tuple[VerdictPart, ...]:
    """Return the stacked bar of a group's verdicts."""
    parts: list[VerdictPart] = []
    for verdict in (*VERDICTS, NO_VERDICT):
        if verdict in verdicts:
            x = parts[-1].x + parts[-1].width if parts else left
            parts.append(VerdictPart(x, y, width * verdicts[verdict], BAR, verdict))
    return tuple(parts)


def _curves(
    cards: Mapping[str, NodeCard], links: Links, by_id: Mapping[str, GraphNode]
) -> tuple[list[Curve], float]:
    """Return the curves, strongest last, and the minimum weight that is drawn.

    Edges of merged nodes may be much stronger than others, so they do not set the scale. Curves
    leave and enter a card side by side, in the order of the cards at their other ends.
    """
    unmerged = [abs(w) for ends, w in links.items() if not any(e.endswith(MERGED) for e in ends)]
    strongest = max(unmerged, default=0.0) or 1.0
    min_weight = MIN_STRENGTH * strongest
    drawn = {ends: w for ends, w in links.items() if abs(w) >= min_weight and w != 0}
    widths = {e: max(0.8, MAX_WIDTH * min(1, abs(w) / strongest)) for e, w in drawn.items()}
    upper, lower = (_ports(cards, widths, side) for side in (0, 1))
    curves: list[Curve] = []
    for ends in sorted(drawn, key=lambda ends: abs(drawn[ends])):
        source, target = cards[ends[0]], cards[ends[1]]
        weight = drawn[ends]
        opacity = 0.12 + 0.54 * min(1, abs(weight) / strongest) ** 0.5
        names = [f"{by_id[e].label} ({by_id[e].layer or 'class'})" for e in (ends[1], ends[0])]
        curves.append(
            Curve(
                (target.x + CARD[0], lower[ends]),
                (source.x, upper[ends]),
                widths[ends],
                opacity * (0.4 if any(end.endswith(MERGED) for end in ends) else 1),
                weight < 0,
                f"{names[0]} → {names[1]}: {percent(weight)}",
                (target.index, source.index),
            )
        )
    return curves, min_weight


def _ports(
    cards: Mapping[str, NodeCard], widths: Mapping[tuple[str, str], float], side: int
) -> dict[tuple[str, str], float]:
    """Return the y coordinate at which each curve meets the card at one of its ends."""
    heights: dict[tuple[str, str], float] = {}
    for node_id, card in cards.items():
        links = [ends for ends in widths if ends[side] == node_id]
        total = sum(widths[ends] for ends in links)
        scale = min(1.0, (CARD[1] - 12) / (total or 1.0))
        y = card.y + (CARD[1] - total * scale) / 2
        for ends in sorted(links, key=lambda ends: cards[ends[1 - side]].y):
            heights[ends] = y + widths[ends] * scale / 2
            y += widths[ends] * scale
    return heights


def _headings(heading: GraphHeading, width: float) -> list[PlacedText]:
    images = _counted(heading.images, "image")
    subtitle = (
        f"{images} · components with at least {100 * heading.minimum:g} % of their layer's "
        f"relevance · the lines show {percent(heading.overall)} of it"
    )
    name = fit_text(heading.name, 22.0, width - 2 * MARGIN - 150)
    texts = [
        PlacedText(MARGIN, 44.0, f"Attribution graph: {name}", 22.0, bold=True),
        PlacedText(MARGIN, 67.0, fit_text(subtitle, 13.0, width - 2 * MARGIN), 13.0, soft=True),
    ]
    for index, (layer, share) in enumerate(heading.share_shown.items()):
        x = MARGIN + index * (CARD[0] + COLUMN_GAP) + CARD[0] / 2
        shown = f"boxes show {percent(share)}, lines {percent(heading.edges_shown[layer])}"
        texts += [
            PlacedText(x, 98.0, fit_text(layer, 14.0, CARD[0]), 14.0, bold=True, centred=True),
            PlacedText(x, 115.0, shown, 11.5, soft=True, centred=True),
        ]
    return texts


def _legend(height: float, min_weight: float, links: Links) -> tuple[list[PlacedText], list[Curve]]:
    """Return the texts below the graph, and the sample curves that they explain."""
    y, weights = height - 42, [abs(weight) for weight in links.values()]
    missing = sum(w for w in weights if w < min_weight) / (sum(weights) or 1.0)
    left_out = f"lines below {percent(min_weight)} are hidden ({percent(missing)} of the total)"
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
            "Box: its share of the layer's relevance. Line: the share of the lower layer's "
            "relevance that it receives from the upper box.",
            soft=True,
        ),
    ]
    return texts, samples


def _verdict_key(height: float) -> tuple[list[PlacedText], list[VerdictPart]]:
    """Return the last line of the legend: what the bars in the boxes mean."""
    y, x = height - 20, MARGIN
    texts = [PlacedText(x, y, "Bar: the audit's verdicts on the box, by relevance:", soft=True)]
    parts: list[VerdictPart] = []
    x += 296
    for verdict in VERDICTS:
        parts.append(VerdictPart(x, y - 9, 12.0, 9.0, verdict))
        texts.append(PlacedText(x + 17, y, verdict, soft=True))
        x += 17 + 7.5 * len(verdict) + 14
    return texts, parts
