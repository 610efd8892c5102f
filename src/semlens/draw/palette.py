"""Colours with a meaning, the same on the command line, in reports and in the web application.

``web/src/app.css`` has the same colours; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

FOR, AGAINST = "#2563cf", "#d77400"
"""Evidence for and against a class: blue and orange, also in heatmaps."""
VERDICTS: Mapping[str, str] = MappingProxyType(
    {"valid": "#00775f", "spurious": "#d03a1a", "both": "#a3428a", "unexpected": "#86909e"}
)
"""The four verdicts of an audit. Always with a word or a shape: no four hues are distinguishable
with every colour blindness."""
NO_VERDICT = "no verdict"
"""Of a component that the audit did not consider relevant."""
ON_DARK: Mapping[str, str] = MappingProxyType(
    {
        "for": "#6ea2ff",
        "against": "#f0a030",
        "valid": "#2fc4a1",
        "spurious": "#ff7a5c",
        "both": "#e08bcb",
        "unexpected": "#98a3b1",
    }
)
"""The same on dark backgrounds."""


def rgb(colour: str) -> tuple[int, int, int]:
    """Return the red, green and blue of ``#rrggbb``, from 0 to 255."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue
