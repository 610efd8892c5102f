"""Static export: the page as a folder that works from disk or any web server, without semlens.

An export of several models has a page that lists them, each with its finding.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from semlens.concept_database import ConceptDatabase
from semlens.draw.html import component_card, render
from semlens.errors import RelevanceError, ServeError
from semlens.lenses.classes import find_class
from semlens.lenses.describe.overview import notable_rows
from semlens.progress import progress_bars
from semlens.store.atomic_files import save_text
from semlens.store.manifest import absolute_paths, public_spec
from semlens.types import Component
from semlens.web.app import create_app
from semlens.web.app_state import ModelContext
from semlens.web.export_recorder import Recorder
from semlens.web.export_requests import Exporter
from semlens.web.page_build import static_folder

CARDS = 1000
"""Components of a model that get a card by default."""
CROPS = 12
"""Examples on a card by default."""


@dataclass(frozen=True)
class StaticExport:
    """A finished export."""

    folder: Path
    cards: int
    components: int
    files: int
    bytes: int
    left_out: dict[str, str]
    """Reason why a response was not recorded, by path."""


def export_site(
    databases: Sequence[ConceptDatabase | str | Path],
    folder: str | Path,
    *,
    cards: int = CARDS,
    components: Sequence[str | Component] = (),
    crops: int = CROPS,
    originals: bool = False,
    graphs: Sequence[int | str] = (),
) -> StaticExport:
    """Export overview, map, table, cards, classes, audits and comparison as a static site.

    Of several databases, ``models.html`` lists the models, each with its finding.

    Search uses labels there, since the embedder is not part of the export. A database without
    saved labels is first labelled with the paper's vocabulary, and the labels are saved.

    Parameters
    ----------
    cards
        Number of components of each model that get a card, highest ranked first; those that the
        overview shows get one as well.
    components
        Further components that get a card, in the databases that have their layer.
    crops
        Largest number of examples on a card.
    originals
        Whether to include the whole image of each example besides its crop.
    graphs
        Classes, by name or logit, whose attribution graphs are traced and included; needs the
        model. With several databases, each class is traced in those that have it.

    Raises
    ------
    ServeError
        If the folder contains other files or cannot be written, or the page was not built.
    RelevanceError
        If no database has a class of ``graphs``.
    """
    target = Path(folder).expanduser().resolve()
    _check_free(target)
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    app = create_app(databases)
    contexts: list[ModelContext] = app.state.semlens.models
    graph_classes = _find_classes([context.db for context in contexts], graphs)
    try:
        _copy_page(partial)
        recorder = Recorder(app, partial, private_folders(context.db for context in contexts))
        exporter = Exporter(recorder, contexts, cards, components, crops, originals, graph_classes)
        with (
            progress_bars(),
            ThreadPoolExecutor(1) as pool,
        ):  # a notebook runs a loop in this thread
            variables = copy_context()
            pool.submit(lambda: variables.run(asyncio.run, exporter.run())).result()
        if len(contexts) > 1:
            write_index(partial, contexts, exporter.findings)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except OSError as error:
        raise ServeError(
            f"The folder '{target}' cannot be written ({error.strerror or error}).",
            "Expected a writable location.",
            "Choose another folder.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    files = [path for path in target.rglob("*") if path.is_file()]
    return StaticExport(
        target,
        exporter.cards,
        sum(context.db.manifest.rows for context in contexts),
        len(files),
        sum(path.stat().st_size for path in files),
        recorder.left_out,
    )


def private_folders(databases: Iterable[ConceptDatabase]) -> list[Path]:
    """Return the folders of the databases, and of their models and images, longest first.

    An export is for other people: they see names of files, and not where they are.
    """
    folders: set[Path] = set()
    for database in databases:
        manifest = database.manifest
        sources = (manifest.model, manifest.data, manifest.embedder, manifest.boxes)
        specs = [source.spec for source in sources if source is not None]
        parts = [part for spec in specs for part in absolute_paths(spec)]
        paths = [Path(database.path).resolve(), *map(Path, parts)]
        folders |= {path.parent for path in paths if path.is_absolute()}
    return sorted(folders - {Path("/")}, key=lambda path: -len(str(path)))


def _check_free(target: Path) -> None:
    """Refuse a folder with other files, and the current folder."""
    export = (target / "data" / "index.js").is_file()
    empty = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    if not (export or empty):
        raise ServeError(
            f"The folder '{target}' contains other files.",
            "Expected an empty folder or a previous export.",
            "Choose another folder.",
        )
    if target == Path.cwd():
        raise ServeError(
            f"The folder '{target}' is the current folder, which would be replaced.",
            "Expected a different folder.",
            "Choose a subfolder, such as 'site'.",
        )


def _find_classes(
    databases: Sequence[ConceptDatabase], graphs: Sequence[int | str]
) -> list[list[int]]:
    """Return the logits of the classes in each database, which may number them differently."""
    logits: list[list[int]] = [[] for _ in databases]
    for name in graphs:
        errors: list[RelevanceError] = []
        for db, database_logits in zip(databases, logits, strict=True):
            try:
                database_logits.append(find_class(db, name))
            except RelevanceError as error:
                errors.append(error)
        if len(errors) == len(databases):
            raise errors[0]
    return logits


def _copy_page(folder: Path) -> None:
    """Copy the built page and make it load the index of the data first."""
    static = static_folder()
    folder.mkdir(parents=True)
    for path in static.iterdir():
        if path.is_file() and path.name != "stamp":
            shutil.copyfile(path, folder / path.name)
    page = (static / "index.html").read_text("utf-8")
    scripts = '<script defer src="./data/index.js"></script>\n    <script defer src="./app.js">'
    export_page = page.replace('<script defer src="./app.js">', scripts)
    if export_page == page:
        raise ServeError(
            "The built page does not load 'app.js'.",
            "Expected a page that was built with semlens.",
            "Install semlens again.",
        )
    save_text(folder / "index.html", export_page)


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
