"""The page as a folder that opens from disk or from any web server, with no semlens behind it."""

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
from semlens.progress import report, shown
from semlens.store.atomic_files import save_text
from semlens.web.app import create_app
from semlens.web.app_state import ModelContext
from semlens.web.export_recorder import Recorder, address, quoted
from semlens.web.page_build import static_folder

CARDS = 1000
"""Components of a model that have a card of their own, by default."""
CROPS = 12
"""Examples of a card."""
STRIP = 8
"""Examples of a strip: the page cuts off what it has no room for."""
TABLE = 500
"""Rows of the table that are asked for at once."""
GRAPH = {"groups": "label", "min_relevance": 0.01, "top": 16}
"""The graph that the page shows first."""
PAIRS = 30
MEASURES = ("clarity", "redundancy", "polysemanticity")


@dataclass(frozen=True)
class StaticExport:
    """What was written."""

    folder: Path
    cards: int
    components: int
    files: int
    bytes: int
    left_out: dict[str, str]
    """Why an answer is not there, by its path."""


def export_site(
    databases: Sequence[ConceptDatabase | str | Path],
    folder: str | Path,
    *,
    cards: int = CARDS,
    originals: bool = False,
    graphs: Sequence[int | str] = (),
) -> StaticExport:
    """Write overview, map, table, cards, classes, audits and comparison as a static site.

    Searching goes by labels there: the embedder stays at home. A database without kept labels
    is labelled with the paper's vocabulary first, and keeps them.

    Parameters
    ----------
    cards
        Components of each model that get a card; the most notable ones.
    originals
        Whether to add the whole image of each example, and not its crop only.
    graphs
        Classes, by name or logit, whose attribution graphs are traced and added; needs the
        model. Of several databases, those that have the class.

    Raises
    ------
    ServeError
        If the folder holds something else or cannot be written, or the page was not built.
    RelevanceError
        If no database has a class of ``graphs``.
    """
    target = Path(folder).expanduser().resolve()
    _check_free(target)
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    app = create_app(databases)
    traced = _classes([one.db for one in app.state.serving.models], graphs)
    try:
        _page(part)
        recorder = Recorder(app, part)
        served: list[ModelContext] = app.state.serving.models
        writer = _Exporter(recorder, served, cards, originals, traced)
        with shown(), ThreadPoolExecutor(1) as pool:  # a notebook has a loop in this thread
            context = copy_context()
            pool.submit(lambda: context.run(asyncio.run, writer.write())).result()
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    except OSError as error:
        raise ServeError(
            f"The folder '{target}' cannot be written ({error.strerror or error}).",
            "Expected a place that can be written.",
            "Choose another one.",
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    files = [path for path in target.rglob("*") if path.is_file()]
    return StaticExport(
        target,
        writer.cards,
        sum(one.db.manifest.rows for one in served),
        len(files),
        sum(path.stat().st_size for path in files),
        recorder.left_out,
    )


def _check_free(target: Path) -> None:
    """Refuse a folder whose content would be lost, and the one that the user stands in."""
    ours = (target / "data" / "index.js").is_file()
    empty = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    if not (ours or empty):
        raise ServeError(
            f"The folder '{target}' holds something else.",
            "Expected an empty folder, or an export of before.",
            "Choose another one.",
        )
    if target == Path.cwd():
        raise ServeError(
            f"The folder '{target}' is the current one, and would be replaced.",
            "Expected another one.",
            "Name a folder in it, such as 'site'.",
        )


def _classes(databases: Sequence[ConceptDatabase], graphs: Sequence[int | str]) -> list[list[int]]:
    """Return the logits of classes in each database: one name may have several numbers."""
    found: list[list[int]] = [[] for _ in databases]
    for name in graphs:
        missing: list[RelevanceError] = []
        for db, numbers in zip(databases, found, strict=True):
            try:
                numbers.append(find_class(db, name))
            except RelevanceError as error:
                missing.append(error)
        if len(missing) == len(databases):
            raise missing[0]
    return found


def _page(folder: Path) -> None:
    """Copy the built page, and let it load the index of the data first."""
    static = static_folder()
    folder.mkdir(parents=True)
    for path in static.iterdir():
        if path.is_file() and path.name != "stamp":
            shutil.copyfile(path, folder / path.name)
    page = (static / "index.html").read_text("utf-8")
    first = '<script defer src="./data/index.js"></script>\n    <script defer src="./app.js">'
    changed = page.replace('<script defer src="./app.js">', first)
    if changed == page:
        raise ServeError(
            "The built page loads no app.js.", "Expected one.", "Install semlens again."
        )
    save_text(folder / "index.html", changed)


class _Exporter:
    """Asks, page by page, what the page asks."""

    def __init__(
        self,
        recorder: Recorder,
        served: Sequence[ModelContext],
        cards: int,
        originals: bool,
        graphs: Sequence[Sequence[int]],
    ) -> None:
        self.recorder = recorder
        self.served = served
        self.limit = cards
        self.originals = originals
        self.graphs = graphs
        self.cards = 0
        self._done = 0
        self._total = 0

    async def write(self) -> None:
        """Record everything, and write the index."""
        await self.recorder.json("models")
        for one in self.served:
            await self._model(one)
        for one in self.served:
            rows = notable_rows(one.db, self.limit)
            self._expect(len(rows))
            self.cards += len(rows)
            for start in range(0, len(rows), 8):
                group = rows[start : start + 8]
                await asyncio.gather(*(self._card(one, int(row)) for row in group))
        for a, b in permutations(self.served, 2):
            await self._pair(a, b)
        self.recorder.finish({"originals": self.originals, "strip": STRIP, "crops": CROPS})
        await self.recorder.close()

    def _expect(self, count: int) -> None:
        self._total += count
        report("recording answers", self._done, self._total)

    def _tell(self) -> None:
        self._done += 1
        report("recording answers", self._done, self._total)

    async def _record(self, record: Callable[[str], Awaitable[Any]], paths: Sequence[str]) -> None:
        self._expect(len(paths))
        for path in paths:
            await record(path)
            self._tell()

    async def _model(self, one: ModelContext) -> None:
        base, json = f"models/{one.number}", self.recorder.json
        await self._labels(one, base)
        parts = ("overview", "scores", "labels", "clusters")
        await self._record(json, [f"{base}/{name}" for name in parts])
        starts = range(0, one.db.manifest.rows, TABLE)
        table = [address(f"{base}/components", cursor=start, k=TABLE) for start in starts]
        await self._record(json, table)
        classes = list(self._classes(one))
        colours: list[dict[str, Any]] = [{"by": measure} for measure in MEASURES]
        colours += [{"by": "relevance", "class": number} for number in classes]
        data = [address(f"{base}/colours", **colour) for colour in colours]
        await self._record(self.recorder.bytes, [f"{base}/map", f"{base}/map/labels", *data])
        if classes:
            await json(f"{base}/classes")
        relied = [address(f"{base}/classes/{number}/relevance", k=10) for number in classes]
        await self._record(json, relied)
        graphs = [{"class": number, **GRAPH} for number in self.graphs[one.number]]
        await self._record(json, [address(f"{base}/graph", **graph) for graph in graphs])
        await self._audits(base)

    async def _labels(self, one: ModelContext, base: str) -> None:
        """Keep labels if there are none: words are looked up in them."""
        if one.db.embedder.has_text and one.db.is_writable and not label_tables(one.db):
            await self.recorder.post(f"{base}/labels", {})

    def _classes(self, one: ModelContext) -> Iterator[int]:
        if one.db.manifest.relevance is not None:
            yield from (int(c) for c in one.db.relevance_classes["class"])

    async def _audits(self, base: str) -> None:
        await self.recorder.json(f"{base}/concept-sets")
        kept = await self.recorder.json(f"{base}/audits")
        for known in kept["audits"] if kept else ():
            path = f"{base}/audits/{known['id']}"
            await self.recorder.json(path)
            await self.recorder.json(f"{path}/result")
            for file in ("components.csv", "concepts.toml", "report.html"):
                await self.recorder.file(f"{path}/{file}")

    async def _card(self, one: ModelContext, row: int) -> None:
        base = f"models/{one.number}/components/{quoted(one.db.component(row))}"
        card = await self.recorder.json(base)
        for part in ("measures", "senses", "neighbours"):
            await self.recorder.json(f"{base}/{part}")
        if one.db.manifest.relevance is not None:
            await self.recorder.json(f"{base}/relevances")
        labels = await self.recorder.json(f"{base}/labels")
        concepts = labels["concepts"] if labels else None
        if concepts:
            await self.recorder.json(address(f"{base}/senses", concepts=concepts))
            await self.recorder.json(address(f"{base}/neighbours", concepts=concepts))
        for other in self.served:
            if other is not one:
                await self.recorder.json(address(f"{base}/twin", other=other.number))
        await self.recorder.file(address(f"{base}/strip.webp", count=STRIP))
        for example in (card or {"examples": []})["examples"][:CROPS]:
            for view in ("crop", "whole") if self.originals else ("crop",):
                path = f"{base}/crops/{example['place']}.webp"
                await self.recorder.file(address(path, view=view))
        self._tell()

    async def _pair(self, a: ModelContext, b: ModelContext) -> None:
        both = {"a": a.number, "b": b.number}
        if await self.recorder.json(address("compare", **both)) is None:
            return
        await self.recorder.bytes(address("compare/points", **both))
        for kind in ("matched", "only_first", "only_second"):
            path = address("compare/pairs", **both, cursor=0, k=PAIRS, kind=kind)
            found = await self.recorder.json(path)
            while found and found["cursor"] is not None:
                more = {**both, "cursor": found["cursor"], "k": PAIRS, "kind": kind}
                found = await self.recorder.json(address("compare/pairs", **more))
            await self.recorder.file(address("compare/pairs.csv", **both, kind=kind))
