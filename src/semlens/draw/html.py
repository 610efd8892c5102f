"""HTML with embedded pictures, from the templates of the package."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from semlens.draw.example_picture import example_webp
from semlens.store.reader import Database

CARDS = 20
"""Most components of a result that are shown with pictures."""


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("semlens.draw"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, **values: Any) -> str:
    """Render one of the package's templates; all values are escaped."""
    return _environment().get_template(template).render(**values)


def webp_uri(data: bytes) -> str:
    """Return a WebP image as a data URI."""
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def component_card(
    database: Database, row: int, count: int = 8, caption: str = "", note: str = ""
) -> dict[str, Any]:
    """Return a component and its examples, as the templates expect them."""
    examples = database.examples_of(row, count)
    return {
        "name": str(database.component(row)),
        "caption": caption,
        "note": note,
        "without_pictures": "no stored pictures" if examples else "no examples",
        "strip": [
            {"uri": webp_uri(webp), "path": example.path}
            for example in examples
            if (webp := example_webp(database, example)) is not None
        ],
    }


def cards_html(database: Database, title: str, rows: Sequence[tuple[int, str]]) -> str:
    """Return components with captions and examples; those after the first are only counted."""
    cards = [component_card(database, row, caption=caption) for row, caption in rows[:CARDS]]
    return render("cards.html.j2", title=title, cards=cards, more=max(len(rows) - CARDS, 0))
