"""Search among a million components: semlens beside bare products and approximate indexes.

    python -m benchmarks search --index none             # three minutes, 4 GB on disk
    python -m benchmarks search --layers 2               # 100,000 components
    python -m benchmarks search --mapped 10000000        # and 10 GB of 16-bit vectors on disk
    python -m benchmarks search --quick

The database is that of ``scale``, with more components per layer.  A search compares every
component with the query and with noise, and says how many stand out.  The bare products, of a query
with all concept vectors, are what an exact search cannot do without: of 32-bit vectors that are in
memory, and of the 16-bit ones on disk, which take half of it.  usearch and FAISS (``pip install
usearch faiss-cpu``) find ten neighbours approximately, without noise (``approximate``).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import semlens as sl
from benchmarks.cases.search.approximate import BUILD, flat, measure_indexes
from benchmarks.harness import benchmark, log, peak_mib, table
from benchmarks.worlds.many_components import QUICK, RandomWords, Size, random_vectors, write
from semlens.store.examples import in_32_bits

OPTIONS: dict[str, dict[str, Any]] = {
    "--layers": {"type": int, "default": 20, "help": "layers of 50,000 components"},
    "--index": {
        "nargs": "+", "choices": [*BUILD, "none"], "default": [*BUILD],
        "help": "approximate indexes, if installed; the first is called ann",
    },
    "--mapped": {
        "type": int, "default": 0,
        "help": "also the product of a query with so many vectors in a memory-mapped file",
    },
}  # fmt: skip
GOAL_MS = 100.0


@benchmark(minutes=10, quoted=("docs/scale.md",), options=OPTIONS, rounds=20)
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
    searches, floats, halves, cpu = [], [], [], []
    rows = np.arange(count)
    for word, query in zip(words, queries, strict=True):
        used = time.process_time()
        searches.append(seconds(lambda word=word: database.search(word)))
        cpu.append(time.process_time() - used)
        floats.append(seconds(lambda query=query: theta @ query))
        halves.append(seconds(lambda query=query: database.products(query[None], rows)))
    exact = np.median(searches)
    result = {
        "components": count,
        "dimensions": size.dim,
        "goal_ms": GOAL_MS,
        "open_and_first_search_seconds": first_seconds,
        "exact_p50_ms": 1000 * exact,
        "exact_p50_cpu_ms": 1000 * np.median(cpu),
        "exact_p95_ms": 1000 * np.quantile(searches, 0.95),
        "bare_float32_p50_ms": 1000 * np.median(floats),
        "bare_float16_p50_ms": 1000 * np.median(halves),
        "exact_over_bare_float16": exact / np.median(halves),
        "peak_mib": peak_mib(),
        "hits": len(first),
    }
    if options.mapped:
        result |= mapped(options.mapped, size.dim, work, options.rounds)
    units = theta / np.linalg.norm(theta, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    names = [name for name in options.index if name != "none"]
    return {**result, **flat(measure_indexes(units, queries, work, names))}


def mapped(count: int, dim: int, work: Path, rounds: int) -> dict[str, Any]:
    """Return the time of a query with 16-bit vectors of a memory-mapped file."""
    path = work / f"vectors-{count}.npy"
    if not path.is_file():
        log(f"writing {count} vectors")
        file = np.lib.format.open_memmap(path, "w+", np.float16, (count, dim))
        part = random_vectors(min(count, 100_000), dim).half().numpy()
        for start in range(0, count, len(part)):
            file[start : start + len(part)] = part[: count - start]
        file.flush()
    file = torch.from_numpy(np.load(path, mmap_mode="c"))
    products, query = torch.empty(count), torch.ones(dim)

    def product() -> None:
        for rows, vectors in in_32_bits(file):
            torch.mv(vectors, query, out=products[rows])

    times = [seconds(product) for _ in range(max(2, rounds // 4))]
    return {
        "mapped_vectors": count,
        "mapped_gib": path.stat().st_size / 2**30,
        "mapped_first_ms": 1000 * times[0],
        "mapped_p50_ms": 1000 * float(np.median(times[1:])),
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
