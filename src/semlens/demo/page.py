"""The demo's page: the story with its pictures, in one file that opens from disk."""

from __future__ import annotations

from pathlib import Path

from semlens.analysis.search import Hits
from semlens.api import ConceptDatabase
from semlens.demo.story import Accuracy, Planted, Relevant
from semlens.demo.world import DemoWorld
from semlens.draw.html import component_card, render
from semlens.types import Component


def write_page(
    path: Path,
    db: ConceptDatabase,
    world: DemoWorld,
    hits: Hits,
    planted: Planted,
    relevant: list[Relevant],
    accuracy: Accuracy,
) -> None:
    """Write the page to ``path``."""

    def card(component: Component, caption: str) -> dict[str, object]:
        area = planted.components.get(component)
        note = f"planted (AUROC {area:.2f})" if area is not None else ""
        return component_card(db, db.row(component), 10, caption, note)

    page = render(
        "demo.html.j2",
        database=str(db.path),
        classes=world.classes,
        target=world.target,
        artefact=world.artefact,
        marked_share=world.marked_share,
        components=db.manifest.rows,
        layers=db.scores().per_layer().to_dict("records"),
        query=hits.query,
        planted_rank=planted.rank(hits),
        hits=[
            card(h.component, f"rank {h.rank}, alignment {h.alignment:.3f}") for h in hits.hits[:5]
        ],
        relevant=[card(r.component, r.label or "no label") for r in relevant],
        planted=[card(component, "") for component in planted.components],
        accuracy=accuracy,
    )
    path.write_text(page, "utf-8")
