"""What a static export records: the requests that the page would send, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import permutations
from typing import Any

from semlens.concept_database import ConceptDatabase
from semlens.lenses.audit.class_verdict import FLAGGED
from semlens.lenses.describe.overview import class_table, notable_rows
from semlens.lenses.labelling.component_labels import label_tables
from semlens.progress import report_progress
from semlens.types import Component
from semlens.web.app_state import ModelContext
from semlens.web.export_recorder import Recorder, quote_component, request_path

SINGLE = 5000
"""Components without a card whose strongest example is included, for maps and lists."""
STRIP = 8
"""Examples in a strip; the page clips those that do not fit."""
TABLE_ROWS = 500
"""Table rows per request."""
GRAPH = {"groups": "label", "min_relevance": 0.01, "top": 16}
"""Default settings of the graph on the page."""
PAIRS = 30
"""Pairs per request."""
COLOURED = 60
"""Classes by whose relevance the map can be coloured, those with the most images."""
MEASURES = ("clarity", "redundancy", "polysemanticity")


class Exporter:
    """Sends the requests that the page would send, page by page."""

    def __init__(
        self,
        recorder: Recorder,
        contexts: Sequence[ModelContext],
        cards: int,
        components: Sequence[str | Component],
        crops: int,
        originals: bool,
        graphs: Sequence[Sequence[int]],
    ) -> None:
        self.recorder = recorder
        self.contexts = contexts
        self.max_cards = cards
        self.components = [Component.parse(str(name)) for name in components]
        self.crops = crops
        self.originals = originals
        self.graphs = graphs
        self.cards = 0
        self.findings: dict[int, str] = {}
        """Result of the audit of all classes, by number of the model."""
        self._shown: dict[int, set[int]] = {}
        """Rows of the components that the overview shows, which always get a card."""
        self._done = 0
        self._total = 0

    async def run(self) -> None:
        """Record everything and write the index."""
        await self.recorder.json("models")
        for context in self.contexts:
            await self._model(context)
        for context in self.contexts:
            rows = sorted({*self._chosen(context.db), *self._shown[context.number]})
            self._expect(len(rows))
            self.cards += len(rows)
            for start in range(0, len(rows), 8):
                group = rows[start : start + 8]
                await asyncio.gather(*(self._card(context, row) for row in group))
            await self._single_examples(context, set(rows))
        for a, b in permutations(self.contexts, 2):
            await self._pair(a, b)
        self.recorder.finish({"originals": self.originals, "strip": STRIP, "crops": self.crops})
        await self.recorder.close()

    def _chosen(self, database: ConceptDatabase) -> list[int]:
        """Return the rows of the highest ranked components, and of those that were named."""
        names = [name for name in self.components if name.layer in database.layers]
        rows = notable_rows(database, self.max_cards).tolist()
        return [*rows, *map(int, database.rows_of(names))]

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
        routes = ("overview", "scores", "labels", "names", "places", "suggested-queries")
        await self._record(json, [f"{base}/{name}" for name in routes])
        cursors = range(0, context.db.manifest.rows, TABLE_ROWS)
        table = [request_path(f"{base}/components", cursor=c, k=TABLE_ROWS) for c in cursors]
        await self._record(json, table)
        classes = list(self._classes(context))
        colours: list[dict[str, Any]] = [{"by": measure} for measure in MEASURES]
        colours += [{"by": "relevance", "class": number} for number in self._largest(context)]
        values = [request_path(f"{base}/colours", **colour) for colour in colours]
        await self._record(self.recorder.bytes, [f"{base}/map", f"{base}/map/labels", *values])
        if classes:
            paths = ["classes", *(f"verdicts/{number}" for number in classes)]
            await self._record(json, [f"{base}/{path}" for path in paths])
        sweep = await json(f"{base}/sweep") if classes else None
        if sweep is not None:
            self.findings[context.number] = sweep["sentence"]
        self._shown[context.number] = await record_overview(self.recorder, context, sweep)
        for entry in sweep["classes"] if sweep else ():
            if entry["standing"]["kind"] in FLAGGED and entry["strongest"]:
                await json(f"{base}/verdicts/{entry['target']}/before-after")
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

    def _largest(self, context: ModelContext) -> list[int]:
        if context.db.manifest.relevance is None:
            return []
        table = context.db.relevance_classes
        largest = table.sort_values("samples", ascending=False, kind="stable").head(COLOURED)
        return sorted(int(number) for number in largest["class"])

    async def _audits(self, base: str) -> None:
        await self.recorder.json(f"{base}/concept-sets")
        saved = await self.recorder.json(f"{base}/audits")
        for entry in await self.recorder.json(f"{base}/audit-summaries") or ():
            if entry["standing"] and entry["standing"]["kind"] in FLAGGED:
                await self.recorder.json(f"{base}/audits/{entry['id']}/before-after")
        for entry in saved["audits"] if saved else ():
            path = f"{base}/audits/{entry['id']}"
            await self.recorder.json(path)
            await self.recorder.json(f"{path}/result")
            await self.recorder.json(f"{path}/standing")
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
        await self.recorder.json(f"{base}/labels")
        for other in self.contexts:
            if other is not context:
                path = request_path(f"{base}/counterpart", other=other.number)
                await self.recorder.json(path)
        await self.recorder.file(request_path(f"{base}/strip.webp", count=STRIP))
        for example in (card or {"examples": []})["examples"][: self.crops]:
            for view in ("crop", "whole") if self.originals else ("crop",):
                path = f"{base}/crops/{example['rank']}.webp"
                await self.recorder.file(request_path(path, view=view))
        self._advance()

    async def _single_examples(self, context: ModelContext, with_card: set[int]) -> None:
        """Record the strongest example of components without a card, in place of their strip."""
        for row in sorted({*notable_rows(context.db, SINGLE).tolist()} - with_card):
            base = f"models/{context.number}/components/"
            path = f"{base}{quote_component(context.db.component(row))}/strip.webp"
            await self.recorder.file(
                request_path(path, count=1), requested=request_path(path, count=STRIP)
            )

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


EXTREMES = ("clarity",)
"""Measures whose largest values the page lists, the first of which is its picture of a vector."""
LISTED = 5
"""Components in such a list."""
BARS = 48
"""Numbers of the vector in the picture."""
CLASS_IMAGES = 3
"""Images of a class."""
MOST_CLASSES = 200
"""Classes with images."""
UNEXPECTED_CLASSES = 24
"""Classes whose unexpected components are recorded, most suspicious first."""
UNEXPECTED = 6
"""Unexpected components of a class."""


async def record_overview(
    recorder: Recorder, context: ModelContext, sweep: dict[str, Any] | None
) -> set[int]:
    """Record the responses and pictures of the overview and of the unexpected components.

    Parameters
    ----------
    sweep
        The recorded audit of all classes, if there is one.

    Returns
    -------
    set
        Rows of the components that these pages show.
    """
    base, names = f"models/{context.number}", list[str]()
    for measure in EXTREMES:
        path = request_path(f"{base}/components", sort=measure, descending="true", k=LISTED)
        page = await recorder.json(path)
        names += [row["component"] for row in page["rows"]] if page else []
    found = await recorder.json(f"{base}/polysemantic")
    several = [one["component"] for one in found["components"]] if found else []
    if names:
        first = quote_component(Component.parse(names[0]))
        await recorder.json(request_path(f"{base}/components/{first}/vector", count=BARS))
    targets = class_table(context.db)["target"].tolist()
    if not targets and context.db.manifest.classes:
        predicted = await recorder.json(f"{base}/predicted-classes")
        targets = [entry["target"] for entry in predicted["classes"]] if predicted else []
    for target in targets[:MOST_CLASSES]:
        await recorder.file(request_path(f"{base}/classes/{target}/strip.webp", count=CLASS_IMAGES))
    for entry in sweep["classes"][:UNEXPECTED_CLASSES] if sweep else ():
        names += [one["component"] for one in entry["strongest"]]
        path = f"{base}/classes/{entry['target']}/unexpected"
        found = await recorder.json(request_path(path, k=UNEXPECTED))
        names += [one["component"] for one in found["components"]] if found else []
    return {context.db.row(Component.parse(name)) for name in [*names, *several]}
