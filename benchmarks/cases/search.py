"""Search among a million components: semlens beside bare products and approximate indexes.

    python -m benchmarks search --index none             # three minutes, 4 GB on disk
    python -m benchmarks search --layers 2               # 100,000 components
    python -m benchmarks search --mapped 10000000        # and 10 GB of 16-bit vectors on disk

The database is that of ``scale``, with more components per layer.  A search compares every
component with the query and with noise, and says how many stand out.  The bare products, of a query
with all concept vectors, are what an exact search cannot do without: of 32-bit vectors that are in
memory, and of the 16-bit ones on disk, which take half of it.  usearch and FAISS (``pip install
usearch faiss-cpu``) find ten neighbours approximately, without noise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import semlens as sl
from benchmarks.harness import Clock, benchmark, log, memory_mib, peak_mib, reset_peak
from benchmarks.worlds.many_components import QUICK, RandomWords, Size, random_vectors, write
from semlens.store.examples import in_32_bits

TOP = 10
VECTORS_PER_CENTRE = 40
"""Vectors that FAISS computes each centre from."""

Search = Callable[[np.ndarray], np.ndarray]


def measure_indexes(
    units: np.ndarray, queries: np.ndarray, work: Path, names: list[str]
) -> dict[str, dict[str, float]]:
    """Return what building, opening and searching each installed index takes, and its recall."""
    exact = [set(np.argpartition(-(units @ query), TOP)[:TOP].tolist()) for query in queries]
    return {name: _measure(name, units, queries, exact, work) for name in names if find_spec(name)}


def _measure(
    name: str, units: np.ndarray, queries: np.ndarray, exact: list[set[int]], work: Path
) -> dict[str, float]:
    log(f"building the index of {name}")
    path = work / f"{name}-{len(units)}.index"
    reset_peak()
    before = memory_mib("VmRSS")
    with Clock() as building:
        BUILD[name](units, path)
    with Clock() as opening:
        search = OPEN[name](path)
    times, cpu, recalls = [], [], []
    for query, best in zip(queries, exact, strict=True):
        start, start_cpu = time.perf_counter(), time.process_time()
        found = search(query)
        times.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
        recalls.append(len(best & set(found.tolist())) / TOP)
    return {
        "build_seconds": building.seconds,
        "build_cpu_seconds": building.cpu_seconds,
        "build_extra_mib": peak_mib() - before,
        "open_ms": 1000 * opening.seconds,
        "index_mib": path.stat().st_size / 2**20,
        "p50_ms": 1000 * float(np.median(times)),
        "p50_cpu_ms": 1000 * float(np.median(cpu)),
        f"recall_at_{TOP}": float(np.mean(recalls)),
    }


def _build_usearch(units: np.ndarray, path: Path) -> None:
    from usearch.index import Index

    index = Index(ndim=units.shape[1], metric="ip", dtype="f16")
    index.add(np.arange(len(units)), units)
    index.save(str(path))


def _open_usearch(path: Path) -> Search:
    from usearch.index import Index

    index = Index.restore(str(path), view=True)
    index.expansion_search = 512
    return lambda query: index.search(query, TOP).keys


def _build_faiss(units: np.ndarray, path: Path) -> None:
    import faiss

    centres = min(2048, max(1, len(units) // 200))
    index = faiss.index_factory(units.shape[1], f"IVF{centres},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.train(units[:: max(1, len(units) // (VECTORS_PER_CENTRE * centres))])
    index.add(units)
    faiss.write_index(index, str(path))


def _open_faiss(path: Path) -> Search:
    import faiss

    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    index.nprobe = max(8, min(256, index.nlist // 4))
    return lambda query: index.search(query[None], TOP)[1][0]


BUILD: Mapping[str, Callable[[np.ndarray, Path], None]] = {
    "usearch": _build_usearch,
    "faiss": _build_faiss,
}
OPEN: Mapping[str, Callable[[Path], Search]] = {"usearch": _open_usearch, "faiss": _open_faiss}


def flat(measured: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return one dictionary; ``ann`` is the first of the indexes, None if there is none."""
    first: Mapping[str, float] = next(iter(measured.values()), {})
    named = {
        f"{name}_{key}": value for name, part in measured.items() for key, value in part.items()
    }
    recall = f"recall_at_{TOP}"
    return {"ann_p50_ms": first.get("p50_ms"), recall: first.get(recall), **named}


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
