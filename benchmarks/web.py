"""How fast the web application is, how much memory its server takes, and how much it weighs.

Every server is a process of its own, asked over HTTP on this machine. Synthetic databases have
random vectors of 512 dimensions and real thumbnails; texts are embedded by the bundled embedder.

    python benchmarks/web.py                          # some ten minutes; writes 1 GB
    python benchmarks/web.py --work W --json          # keeps the databases in W
    python benchmarks/web.py --parts search memory
    python benchmarks/web.py --demo semlens-demo/demo.semlens --parts paint
    python benchmarks/web.py --quick

Parts: ``search`` (text queries at 20,000 and 200,000 components), ``memory`` (1,000 against
100,000 example images), ``clients`` (50 for a minute), ``page`` (what it weighs), ``paint`` (the
overview of the demo database in Chromium), ``pan`` (frames while 100,000 components are dragged).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from surroundings import machine
from web_browser import missing, paint, pan
from web_parts import clients, memory, search_latency, weight

from semlens.web.built import STATIC

PARTS = ("search", "memory", "clients", "page", "paint", "pan")
GOALS = {
    "search_20k_ms": 150, "search_200k_ms": 400, "paint_ms": 1000, "pan_frames_per_s": 10,
    "js_gzip_kib": 150,
}  # fmt: skip


def measure(part: str, work: Path, page: Path, demo: Path | None, quick: bool) -> dict[str, Any]:
    """Return what a part measures, or why it was left out."""
    built = (STATIC / "index.html").is_file()
    if part in ("page", "paint", "pan") and not built:
        return {"left_out": "the page is not built: npm run build in web/"}
    if part in ("paint", "pan") and (reason := missing()):
        return {"left_out": reason}
    if part == "paint" and demo is None:
        return {"left_out": "no demo database: give one with --demo"}
    sizes = (200, 2000) if quick else (20_000, 200_000)
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "search": lambda: {str(n): search_latency(work, page, n, quick) for n in sizes},
        "memory": lambda: memory(work, page, quick),
        "clients": lambda: clients(work, page, quick),
        "page": lambda: weight(STATIC),
        "paint": lambda: paint(demo or work, STATIC, 2 if quick else 7),
        "pan": lambda: pan(work, STATIC, 2000 if quick else 100_000, quick),
    }
    return measures[part]()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--demo", type=Path, help="a database that semlens demo has made")
    parser.add_argument("--work", type=Path, help="keep the databases here for the next run")
    parser.add_argument("--quick", action="store_true", help="tiny databases")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(), "goals": GOALS}
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page"  # only the browser's parts need the built one
        page.mkdir()
        (page / "index.html").write_text("<!doctype html><title>semlens</title>", "utf-8")
        for part in given.parts:
            found[part] = measure(part, given.work or Path(folder), page, given.demo, given.quick)
            if not given.json:
                print(part, json.dumps(found[part], indent=2), flush=True)
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
