"""HTML of results for notebooks: bounded in size, with all pictures embedded.

Colours follow the notebook's theme: text inherits its colour, lines are mixed from it, and charts
lie on their own white paper. Nothing here runs the model.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from semlens.draw.encode_images import decode_image, encode_webp
from semlens.draw.figure import figure_png, figure_svg
from semlens.draw.html import component_card, render, webp_uri
from semlens.draw.text_table import rich_table
from semlens.remote_files import remote_url
from semlens.store.reader import Database

ROWS = 20
"""Most rows of a table."""
SIDE = 2000
"""Largest side of a picture in pixels."""
SVG_BYTES = 300_000
"""Charts whose SVG is larger are embedded as bitmaps."""


def guarded_html(make: Callable[[], str], shown: object) -> str:
    """Return ``make()``; if it fails, the text of ``shown`` and the reason.

    A cell that has computed something should show it, even if a picture of it is missing.
    """
    try:
        return make()
    except Exception as error:  # noqa: BLE001  # whatever is wrong with a file or a picture
        return render("notebook_text.html.j2", text=repr(shown), reason=_reason(error))


def result_html(printed: RenderableType, draw: Callable[[], Figure | Image.Image]) -> str:
    """Return the picture of a result, and the tables and lines that a terminal prints.

    Parameters
    ----------
    printed
        What is printed.
    draw
        Draws the picture; if it fails, the reason is shown instead.
    """
    try:
        uri, reason = picture_uri(draw()), None
    except Exception as error:  # noqa: BLE001  # as above
        uri, reason = None, _reason(error)
    return render("notebook_result.html.j2", uri=uri, reason=reason, parts=_blocks(printed))


def picture_uri(picture: Figure | Image.Image) -> str:
    """Return a chart or a picture as a data URI: an SVG of its own, so that styles stay in it."""
    if isinstance(picture, Figure):
        svg = figure_svg(picture).encode()
        if len(svg) <= SVG_BYTES:
            return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
        return webp_uri(encode_webp(decode_image(figure_png(picture)), 88))
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    return webp_uri(encode_webp(small))


def database_html(database: Database, summary: pd.DataFrame, shown: int = 4) -> str:
    """Return what a database is made of, its layers, and the examples of a few components.

    Parameters
    ----------
    summary
        One row per layer.
    shown
        Number of components; none of a database elsewhere, whose files would be copied.
    """
    rows = np.flatnonzero(database.has_examples)
    if remote_url(database.location) is not None:
        shown = 0
    chosen = rows[:: max(1, len(rows) // shown)][:shown] if shown else []
    return render(
        "database.html.j2",
        database=database.location,
        manifest=database.manifest,
        parts=_blocks(rich_table(summary)),
        cards=[component_card(database, int(row)) for row in chosen],
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _blocks(printed: RenderableType) -> list[dict[str, Any]]:
    """Take apart what is printed: tables as cells, the rest as text."""
    if isinstance(printed, Group):
        return [block for part in printed.renderables for block in _blocks(part)]
    if isinstance(printed, Table):
        return [_table(printed)]
    if isinstance(printed, Text | str):
        text = _plain(printed)
        return [{"text": text}] if text.strip() else []
    console = Console(width=110, color_system=None, force_jupyter=False)
    with console.capture() as captured:
        console.print(printed)
    return [{"fixed": captured.get()}]


def _table(table: Table) -> dict[str, Any]:
    cells = [list(map(_plain, list(column.cells)[:ROWS])) for column in table.columns]
    return {
        "title": _plain(table.title or ""),
        "heads": [_plain(column.header) for column in table.columns],
        "numbers": [column.justify == "right" for column in table.columns],
        "rows": list(zip(*cells, strict=True)),
        "more": max(table.row_count - ROWS, 0),
    }


def _plain(text: RenderableType) -> str:
    return Text.from_markup(text).plain if isinstance(text, str) else str(text)
