"""Static export: the page as a folder that works from disk or any web server, without semlens."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from semlens.analysis.classes import find_class
from semlens.analysis.describe.overview import notable_rows
from semlens.analysis.saved_labels import label_tables
from semlens.api import ConceptDatabase
from semlens.errors import RelevanceError, ServeError
from semlens.progress import progress_bars, report_progress
from semlens.store.atomic_files import save_text
from semlens.web.app import create_app
from semlens.web.app_state import ModelContext
from semlens.web.export_recorder import Recorder, quote_component, request_path
from semlens.web.page_build import static_folder

CARDS = 1000
"""Components of a model that get a card by default."""
CROPS = 12
"""Examples on a card."""
STRIP = 8
"""Examples in a strip; the page clips those that do not fit."""
TABLE_ROWS = 500
"""Table rows per request."""
GRAPH = {"groups": "label", "min_relevance": 0.01, "top": 16}
"""Default settings of the graph on the page."""
PAIRS = 30
"""Pairs per request."""
MEASURES = ("clarity", "redundancy", "polysemanticity")


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
    originals: bool = False,
    graphs: Sequence[int | str] = (),
) -> StaticExport:
    """Export overview, map, table, cards, classes, audits and comparison as a static site.

    Search uses labels there, since the embedder is not part of the export. A database without
    saved labels is first labelled with the paper's vocabulary, and the labels are saved.

    Parameters
    ----------
    cards
        Number of components of each model that get a card, highest ranked first.
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
        recorder = Recorder(app, partial)
        exporter = _Exporter(recorder, contexts, cards, originals, graph_classes)
        with (
            progress_bars(),
            ThreadPoolExecutor(1) as pool,
        ):  # a notebook runs a loop in this thread
            variables = copy_context()
            pool.submit(lambda: variables.run(asyncio.run, exporter.run())).result()
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


class _Exporter:
    """Sends the requests that the page would send, page by page."""

    def __init__(
        self,
        recorder: Recorder,
        contexts: Sequence[ModelContext],
        cards: int,
        originals: bool,
        graphs: Sequence[Sequence[int]],
    ) -> None:
        self.recorder = recorder
        self.contexts = contexts
        self.max_cards = cards
        self.originals = originals
        self.graphs = graphs
        self.cards = 0
        self._done = 0
        self._total = 0

    async def run(self) -> None:
        """Record everything and write the index."""
        await self.recorder.json("models")
        for context in self.contexts:
            await self._model(context)
        for context in self.contexts:
            rows = notable_rows(context.db, self.max_cards)
            self._expect(len(rows))
            self.cards += len(rows)
            for start in range(0, len(rows), 8):
                group = rows[start : start + 8]
                await asyncio.gather(*(self._card(context, int(row)) for row in group))
        for a, b in permutations(self.contexts, 2):
            await self._pair(a, b)
        self.recorder.finish({"originals": self.originals, "strip": STRIP, "crops": CROPS})
        await self.recorder.close()

    def _expect(self, count: int) -> None:
        self._total += count
        report_progress("Recording responses", self._done, self._total)

    def _advance(self) -> None:
        self._done += 1
        report_progress("Recording responses", self._done, self._total)

    async def _record(self, record: Callable[[str], Awaitable[Any]], paths: Sequence[str]) -> None:
        self._expect(len(paths))
        for path in paths:
            await record(path)
            self._advance()

    async def _model(self, context: ModelContext) -> None:
        base, json = f"models/{context.number}", self.recorder.json
        await self._labels(context, base)
        routes = ("overview", "scores", "labels", "clusters")
        await self._record(json, [f"{base}/{name}" for name in routes])
        cursors = range(0, context.db.manifest.rows, TABLE_ROWS)
        table = [request_path(f"{base}/components", cursor=c, k=TABLE_ROWS) for c in cursors]
        await self._record(json, table)
        classes = list(self._classes(context))
        colours: list[dict[str, Any]] = [{"by": measure} for measure in MEASURES]
        colours += [{"by": "relevance", "class": number} for number in classes]
        values = [request_path(f"{base}/colours", **colour) for colour in colours]
        await self._record(self.recorder.bytes, [f"{base}/map", f"{base}/map/labels", *values])
        if classes:
            await json(f"{base}/classes")
        relevance = [request_path(f"{base}/classes/{number}/relevance", k=10) for number in classes]
        await self._record(json, relevance)
        graphs = [{"class": number, **GRAPH} for number in self.graphs[context.number]]
        await self._record(json, [request_path(f"{base}/graph", **graph) for graph in graphs])
        await self._audits(base)

    async def _labels(self, context: ModelContext, base: str) -> None:
        """Label the components if no labels are saved: the export searches in labels."""
        db = context.db
        if db.embedder.has_text and db.is_writable and not label_tables(db):
            await self.recorder.post(f"{base}/labels", {})

    def _classes(self, context: ModelContext) -> Iterator[int]:
        if context.db.manifest.relevance is not None:
            yield from (int(c) for c in context.db.relevance_classes["class"])

    async def _audits(self, base: str) -> None:
        await self.recorder.json(f"{base}/concept-sets")
        saved = await self.recorder.json(f"{base}/audits")
        for entry in saved["audits"] if saved else ():
            path = f"{base}/audits/{entry['id']}"
            await self.recorder.json(path)
            await self.recorder.json(f"{path}/result")
            for file in ("components.csv", "concepts.toml", "report.html"):
                await self.recorder.file(f"{path}/{file}")

    async def _card(self, context: ModelContext, row: int) -> None:
        name = quote_component(context.db.component(row))
        base = f"models/{context.number}/components/{name}"
        card = await self.recorder.json(base)
        for section in ("measures", "senses", "neighbours"):
            await self.recorder.json(f"{base}/{section}")
        if context.db.manifest.relevance is not None:
            await self.recorder.json(f"{base}/relevances")
        labels = await self.recorder.json(f"{base}/labels")
        concepts = labels["concepts"] if labels else None
        if concepts:
            await self.recorder.json(request_path(f"{base}/senses", concepts=concepts))
            await self.recorder.json(request_path(f"{base}/neighbours", concepts=concepts))
        for other in self.contexts:
            if other is not context:
                path = request_path(f"{base}/counterpart", other=other.number)
                await self.recorder.json(path)
        await self.recorder.file(request_path(f"{base}/strip.webp", count=STRIP))
        for example in (card or {"examples": []})["examples"][:CROPS]:
            for view in ("crop", "whole") if self.originals else ("crop",):
                path = f"{base}/crops/{example['rank']}.webp"
                await self.recorder.file(request_path(path, view=view))
        self._advance()

    async def _pair(self, a: ModelContext, b: ModelContext) -> None:
        both = {"a": a.number, "b": b.number}
        if await self.recorder.json(request_path("compare", **both)) is None:
            return
        await self.recorder.bytes(request_path("compare/points", **both))
        for kind in ("matched", "only_first", "only_second"):
            path = request_path("compare/pairs", **both, cursor=0, k=PAIRS, kind=kind)
            page = await self.recorder.json(path)
            while page and page["cursor"] is not None:
                query = {**both, "cursor": page["cursor"], "k": PAIRS, "kind": kind}
                page = await self.recorder.json(request_path("compare/pairs", **query))
            await self.recorder.file(request_path("compare/pairs.csv", **both, kind=kind))
