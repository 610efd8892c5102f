"""Vertical order of the nodes of a layered graph, with few crossing edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

SWEEPS = 6
"""Number of sweeps over all columns, alternately down and up."""


def order_by_barycentre(
    columns: Sequence[Sequence[str]], links: Mapping[tuple[str, str], float]
) -> list[list[str]]:
    """Sort columns by the weighted mean position of their neighbours, sweeping down and up.

    Parameters
    ----------
    columns
        Names of the nodes of each column, from the lowest to the highest layer.
    links
        Weights by (upper, lower) name.

    Returns
    -------
    list
        Of all orders that were tried, including the given one, that with the lowest
        :func:`crossing_weight`.
    """
    order = [list(column) for column in columns]
    best, lowest = [list(column) for column in order], crossing_weight(order, links)
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        for column_index in range(len(order) - 2, -1, -1) if downwards else range(1, len(order)):
            neighbours = order[column_index + 1 if downwards else column_index - 1]
            order[column_index] = _sorted(order[column_index], neighbours, links)
        weight = crossing_weight(order, links)
        if weight < lowest:
            best, lowest = [list(column) for column in order], weight
    return best


def _sorted(
    column: Sequence[str], neighbours: Sequence[str], links: Mapping[tuple[str, str], float]
) -> list[str]:
    position: dict[str, float] = {}
    for index, name in enumerate(column):
        weights = [
            abs(links.get((other, name), 0.0) or links.get((name, other), 0.0))
            for other in neighbours
        ]
        total = sum(weights)
        centre = sum(i * w for i, w in enumerate(weights)) / total if total else index
        # positions are relative to the length of the column, which may differ
        position[name] = centre / max(1, len(neighbours if total else column) - 1)
    return sorted(column, key=lambda name: position[name])


def crossing_weight(
    columns: Sequence[Sequence[str]], links: Mapping[tuple[str, str], float]
) -> float:
    """Return the sum, over all pairs of crossing edges, of the smaller of their weights."""
    total = 0.0
    for lower, upper in zip(columns, columns[1:], strict=False):
        lower_index = {name: i for i, name in enumerate(lower)}
        upper_index = {name: i for i, name in enumerate(upper)}
        edges = [
            (upper_index[a], lower_index[b], abs(weight))
            for (a, b), weight in links.items()
            if a in upper_index and b in lower_index
        ]
        for (a, b, first), (c, d, second) in combinations(edges, 2):
            if (a - c) * (b - d) < 0:
                total += min(first, second)
    return total
