"""The order of boxes within each column, such that few lines cross."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

SWEEPS = 6


def by_barycentre(
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
        The order whose crossings weigh least among those that were tried, the given one
        included.
    """
    order = [list(column) for column in columns]
    best, least = [list(column) for column in order], crossings(order, links)
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        places = range(len(order) - 2, -1, -1) if downwards else range(1, len(order))
        for place in places:
            fixed = order[place + 1 if downwards else place - 1]
            order[place] = _sorted(order[place], fixed, links)
        found = crossings(order, links)
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
        # places are compared as parts of their column: one may be longer than the other
        centre = sum(i * w for i, w in enumerate(weights)) / total if total else 0.0
        scaled = centre / max(1, len(fixed) - 1)
        middle[name] = scaled if total else place / max(1, len(column) - 1)
    return sorted(column, key=lambda name: middle[name])


def crossings(columns: Sequence[Sequence[str]], links: Mapping[tuple[str, str], float]) -> float:
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
