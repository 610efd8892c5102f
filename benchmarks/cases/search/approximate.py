"""Approximate indexes of concept vectors: build, size, opening, time and recall of each.

Imported by ``search``. usearch has a graph of neighbours (HNSW), FAISS lists of vectors around
centres (IVF) with 16-bit numbers. Both return the best ten, with no word on how many others are
above noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Clock, log, memory_mib, peak_mib, reset_peak

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
