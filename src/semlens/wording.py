"""How names and numbers are written in findings, on the command line and on the page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

STRAIGHT, CURLY = "''", "\u201c\u201d"
"""Quotes around names: of the command line, and of the page."""


def p_text(p: float, symbol: str = "p") -> str:
    """Return a p-value (or q-value) as text."""
    if p < 1e-4:
        return f"{symbol} < 0.0001"
    return f"{symbol} = {p:.4f}" if p < 0.01 else f"{symbol} = {p:.3f}"


def p_value(value: float) -> str:
    """Return a p-value for a table; a dash if it is missing."""
    if math.isnan(value):
        return "-"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def quoted(name: str, quotes: str) -> str:
    """Return a name in quotes, see :data:`STRAIGHT`."""
    return f"{quotes[0]}{name}{quotes[1]}"


def percent(share: float) -> str:
    """Return a share as text."""
    return f"{100 * share:.0f} %"


def precise(share: float | None) -> str:
    """Return a share as text with one decimal; a dash if it is missing."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.1f} %"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, without a line break at its end."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def unbroken(text: str, quotes: str) -> str:
    """Keep numbers together with their signs where a browser breaks the lines."""
    if quotes != CURLY:
        return text
    return re.sub(r" (=|<) (?=\d)", "\u00a0\\1\u00a0", text).replace(" %", "\u00a0%")


def numbered(names: Sequence[str]) -> list[str]:
    """Return names of which equal ones are numbered."""
    return [
        f"{name} {names[: i + 1].count(name)}" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]
