"""HTML with embedded pictures: notebook summaries, and pages without other files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from semlens.draw.example_picture import example_webp
from semlens.store.reader import Database


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
    return {
        "name": str(database.component(row)),
        "caption": caption,
        "note": note,
        "strip": [
            {"uri": webp_uri(webp), "path": example.path}
            for example in database.examples_of(row, count)
            if (webp := example_webp(database, example)) is not None
        ],
    }


def cards_html(database: Database, title: str, rows: Sequence[tuple[int, str]]) -> str:
    """Return HTML of components with captions and examples, for notebooks."""
    cards = [component_card(database, row, caption=caption) for row, caption in rows]
    return render("cards.html.j2", title=title, cards=cards)


def database_html(database: Database, shown: int = 4) -> str:
    """Return HTML of a database's identity and the examples of a few components, for notebooks."""
    rows = [row for row in range(database.manifest.rows) if database.has_examples[row]]
    step = max(1, len(rows) // shown)
    return render(
        "database.html.j2",
        database=database.location,
        manifest=database.manifest,
        cards=[component_card(database, row) for row in rows[::step][:shown]],
    )
