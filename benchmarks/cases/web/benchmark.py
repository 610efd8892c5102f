"""Speed of the web application, memory of its server, and size of its page.

Every server runs in its own process and is queried over HTTP on this machine. The databases are
synthetic, with random vectors of 512 dimensions and realistic thumbnails. The bundled embedder
embeds the texts.

    python -m benchmarks web                          # about ten minutes; writes 1 GB
    python -m benchmarks web --work W --json          # keeps the databases in W
    python -m benchmarks web --parts search memory
    python -m benchmarks web --demo semlens-demo/demo.semlens --parts paint

Parts: ``search`` (text queries at 20,000 and 200,000 components), ``memory`` (with 1,000 and with
100,000 example images), ``clients`` (50 for a minute), ``page`` (compressed size), ``paint`` (first
paint of the demo database's overview in Chromium), ``pan`` (frame rate while a map of 100,000
components is dragged).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cases.web.browser import browser_problem, paint, pan
from benchmarks.cases.web.parts import clients, empty_page, memory, page_size, search_latency
from benchmarks.harness import benchmark, log
from semlens.web.page_build import STATIC

PARTS = ("search", "memory", "clients", "page", "paint", "pan")
GOALS = {
    "search_20k_ms": 150, "search_200k_ms": 400, "paint_ms": 1000, "pan_frames_per_s": 10,
    "js_gzip_kib": 160,
}  # fmt: skip


OPTIONS: dict[str, dict[str, Any]] = {
    "--parts": {"nargs": "+", "choices": PARTS, "default": list(PARTS)},
    "--demo": {"type": Path, "help": "database of semlens demo"},
}


def measure_part(part: str, options: argparse.Namespace, work: Path, page: Path) -> dict[str, Any]:
    """Return the result of a part, or why it was left out."""
    quick, demo = options.quick, options.demo
    built = (STATIC / "index.html").is_file()
    if part in ("page", "paint", "pan") and not built:
        return {"left_out": "the page is not built: npm run build in web/"}
    if part in ("paint", "pan") and (reason := browser_problem()):
        return {"left_out": reason}
    if part == "paint" and demo is None:
        return {"left_out": "no demo database: pass one with --demo"}
    sizes = (200, 2000) if quick else (20_000, 200_000)
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "search": lambda: {str(n): search_latency(work, page, n, quick) for n in sizes},
        "memory": lambda: memory(work, page, quick),
        "clients": lambda: clients(work, page, quick),
        "page": lambda: page_size(STATIC),
        "paint": lambda: paint(demo, STATIC, 2 if quick else 7),
        "pan": lambda: pan(work, STATIC, 2000 if quick else 100_000, quick),
    }
    return measures[part]()


@benchmark(minutes=10, options=OPTIONS)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure the parts in sequence."""
    page = empty_page(work)  # only browsers need the built page
    result: dict[str, Any] = {"goals": GOALS}
    for part in options.parts:
        result[part] = measure_part(part, options, work, page)
        log(f"{part} {json.dumps(result[part])}")
    return result
