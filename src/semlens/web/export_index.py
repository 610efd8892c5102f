"""The page of an export that lists its models, each with its finding and one component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from semlens.draw.html import component_card, render
from semlens.lenses.describe.overview import notable_rows
from semlens.store.atomic_files import save_text
from semlens.store.manifest import public_spec
from semlens.web.app_state import ModelContext

INDEX = "models.html"
PICTURES = 8


def write_index(
    folder: Path, contexts: Sequence[ModelContext], findings: Mapping[int, str]
) -> None:
    """Write the page; ``findings`` are the results of the audits of all classes, by model."""
    models = [_model(context, findings.get(context.number, "")) for context in contexts]
    embedders = {context.db.manifest.embedder.fingerprint for context in contexts}
    comparable = models[0]["embedder"] if len(embedders) == 1 else None
    save_text(folder / INDEX, render("models.html.j2", models=models, comparable=comparable))


def _model(context: ModelContext, finding: str) -> dict[str, Any]:
    db = context.db
    manifest = db.manifest
    first = notable_rows(db, 1).tolist() if manifest.recipe.thumbnails else []
    return {
        "name": context.name,
        "link": quote(context.name, safe=""),
        "finding": finding,
        "spec": public_spec(manifest.model.spec),
        "data": public_spec(manifest.data.spec),
        "embedder": public_spec(manifest.embedder.spec),
        "components": manifest.rows,
        "images": manifest.samples,
        "layers": list(db.layers),
        "card": component_card(db, first[0], PICTURES) if first else None,
    }
