"""Search among a million components: semlens beside bare products, and beside an approximate index.

    python benchmarks/search.py --no-index               # two minutes, 4 GB on disk
    python benchmarks/search.py --layers 2               # 100,000 components
    python benchmarks/search.py --quick

The database is that of ``scale.py``, with more components per layer.  A search compares every
component with the query and with noise, and says how many stand out.  The bare products, of a query
with all concept vectors, are what an exact search cannot do without: of 32-bit vectors that are in
memory, and of the 16-bit ones on disk, which take half of it.  usearch, if it is installed, finds
ten neighbours approximately, without noise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from harness import command, log, peak_mib, table
from scale import QUICK, RandomWords, Size, write

import semlens as sl

OPTIONS: dict[str, dict[str, Any]] = {
    "--layers": {"type": int, "default": 20, "help": "layers of 50,000 components"},
    "--no-index": {"action": "store_true", "help": "without usearch, whose index takes long"},
}
GOAL_MS = 100.0
TOP = 10


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Write the database unless it exists, and time queries one by one."""
    size = QUICK if options.quick else Size(layers=options.layers, rows=50_000)
    count = size.layers * size.rows
    path = work / f"search-{count}.semlens"
    if not (path / "manifest.json").is_file():
        log("writing the database")
        write(path, size)
    embedder = RandomWords(size.dim)
    start = time.perf_counter()
    database = sl.open(path, embedder=embedder)
    first = database.search("word 0")
    first_seconds = time.perf_counter() - start
    words = [f"word {i}" for i in range(1, 2 + options.rounds)]
    theta = database.theta
    # near components, as real queries are
    queries = (
        theta[:: count // len(words)][: len(words)] + 0.05 * embedder.embed_texts(words).numpy()
    )
    # in turn, so that what else the machine does is shared
    searches, floats, halves = [], [], []
    rows = np.arange(count)
    for word, query in zip(words, queries, strict=True):
        searches.append(seconds(lambda word=word: database.search(word)))
        floats.append(seconds(lambda query=query: theta @ query))
        halves.append(seconds(lambda query=query: database.products(query[None], rows)))
    exact = np.median(searches)
    result = {
        "components": count,
        "dimensions": size.dim,
        "goal_ms": GOAL_MS,
        "open_and_first_search_seconds": first_seconds,
        "exact_p50_ms": 1000 * exact,
        "exact_p95_ms": 1000 * np.quantile(searches, 0.95),
        "bare_float32_p50_ms": 1000 * np.median(floats),
        "bare_float16_p50_ms": 1000 * np.median(halves),
        "exact_over_bare_float16": exact / np.median(halves),
        "peak_mib": peak_mib(),
        "hits": len(first),
    }
    indexed = find_spec("usearch") and not options.no_index
    return {**result, **(approximate(theta, queries) if indexed else {})}


def approximate(theta: np.ndarray, queries: np.ndarray) -> dict[str, Any]:
    """Return build time, median time and recall of an approximate index of usearch."""
    from usearch.index import Index

    units = theta / np.linalg.norm(theta, axis=1, keepdims=True)
    index = Index(ndim=units.shape[1], metric="ip", dtype="f16")
    log("building the index of usearch")
    build = seconds(lambda: index.add(np.arange(len(units)), units))
    index.expansion_search = 256
    times, recalls = [], []
    for query in queries:
        times.append(seconds(lambda query=query: index.search(query, TOP)))
        best = np.argpartition(-(units @ query), TOP)[:TOP]
        recalls.append(len(set(best.tolist()) & set(index.search(query, TOP).keys.tolist())) / TOP)
    return {
        "ann_build_seconds": build,
        "ann_p50_ms": 1000 * np.median(times),
        f"recall_at_{TOP}": float(np.mean(recalls)),
    }


def seconds(work: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def show(result: dict[str, Any]) -> None:
    """Print a row for each figure."""
    rows = [
        [name.replace("_", " "), value]
        for name, value in result.items()
        if name not in {"quick", "machine"}
    ]
    print(table(["figure", "value"], rows))


if __name__ == "__main__":
    command(__doc__, measure, show, OPTIONS, rounds=20)
