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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import command, tell
from web_browser import missing, paint, pan
from web_parts import clients, memory, search_latency, weight

from semlens.web.page_build import STATIC

PARTS = ("search", "memory", "clients", "page", "paint", "pan")
GOALS = {
    "search_20k_ms": 150, "search_200k_ms": 400, "paint_ms": 1000, "pan_frames_per_s": 10,
    "js_gzip_kib": 150,
}  # fmt: skip


OPTIONS: dict[str, dict[str, Any]] = {
    "--parts": {"nargs": "+", "choices": PARTS, "default": list(PARTS)},
    "--demo": {"type": Path, "help": "a database that semlens demo has made"},
}


def measure_part(part: str, options: argparse.Namespace, work: Path, page: Path) -> dict[str, Any]:
    """Return what a part measures, or why it was left out."""
    quick, demo = options.quick, options.demo
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
        "paint": lambda: paint(demo, STATIC, 2 if quick else 7),
        "pan": lambda: pan(work, STATIC, 2000 if quick else 100_000, quick),
    }
    return measures[part]()


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure the parts, one after the other."""
    page = work / "page"  # only the browser's parts need the built one
    page.mkdir(exist_ok=True)
    (page / "index.html").write_text("<!doctype html><title>semlens</title>", "utf-8")
    found: dict[str, Any] = {"goals": GOALS}
    for part in options.parts:
        found[part] = measure_part(part, options, work, page)
        tell(f"{part} {json.dumps(found[part])}")
    return found


def show(result: dict[str, Any]) -> None:
    """Print every part for people."""
    for name, found in result.items():
        print(name, json.dumps(found, indent=2))


if __name__ == "__main__":
    command(__doc__, measure, show, OPTIONS)
