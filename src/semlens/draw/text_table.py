"""Tables for the terminal, from data frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

_WHOLE = 10
"""Characters of a word, such as a number, that no narrow terminal cuts."""


def rich_table(
    frame: pd.DataFrame, title: str = "", columns: Sequence[str] | None = None, style: str = ""
) -> Table:
    """Make a table; numbers are right-aligned with three decimals, missing values are a dash."""
    column_names = list(columns or frame.columns)
    table = Table(title=escape(title) or None, title_justify="left", box=None, header_style="bold")
    table.style = style
    records = frame.loc[:, column_names].to_dict("records")
    rows = [[_cell(record[name]) for name in column_names] for record in records]
    for i, name in enumerate(column_names):
        header = str(name).replace("_", " ")
        words = " ".join(row[i] for row in rows).split()
        table.add_column(
            Text(header),
            justify="right" if pd.api.types.is_numeric_dtype(frame[name]) else "left",
            no_wrap=i == 0,  # the name of a row stays whole in a narrow terminal
            min_width=min(max(map(len, words), default=0), _WHOLE),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def titled_table(
    title: str, frame: pd.DataFrame, columns: Sequence[str] | None = None
) -> list[RenderableType]:
    """Return a title (which may be wider than the table), the table, and an empty line."""
    return [Text(title, style="italic"), rich_table(frame, columns=columns), Text()]


def text_bar(value: float, mark: float, full: float, width: int = 20) -> str:
    """Draw a value as a bar of characters, with ``|`` at a mark; ``full`` fills the width."""
    filled, place = (round(width * min(max(share / full, 0), 1)) for share in (value, mark))
    bar = ["█" if cell < filled else "·" for cell in range(width)]
    bar[min(place, width - 1)] = "|"
    return "".join(bar)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value)
    return str(value)
