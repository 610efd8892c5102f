"""A merge and a database of many shards, in a process of its own, for ``plan``.

    python -m benchmarks.cases.plan.run merge FOLDER SHARDS COMPONENTS
    python -m benchmarks.cases.plan.run store FOLDER SHARDS
    python -m benchmarks.cases.plan.run remote FOLDER COMPONENTS_PER_LAYER

prints one JSON object with times in seconds and the peak memory in MiB.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch

import semlens as sl
from benchmarks.harness import Clock, peak_mib, reset_peak
from benchmarks.worlds.many_components import RandomWords, Size, write
from semlens.stages.collect import Collected, LayerStatistics
from semlens.store.atomic_files import load_sealed, save_sealed
from semlens.streaming.statistics import Moments, SampleReadouts, TopExamples, batch_statistics

BATCH, EXAMPLES, LAYER = 32, 30, "layer"
REFERENCE = 2048
CHECKED = 3
"""Components whose merged examples are compared with a sort of all readouts."""


def readouts_of(shard: int, components: int) -> torch.Tensor:
    """Return the synthetic readouts of a shard of one batch."""
    return torch.randn(BATCH, components, generator=torch.Generator().manual_seed(shard))


def shard_of(shard: int, components: int, shards: int) -> Collected:
    """Collect one batch as the build does."""
    values = readouts_of(shard, components)
    sample = torch.arange(shard * BATCH, (shard + 1) * BATCH)
    both = torch.cat([values, -values], 1)
    top = TopExamples.empty(2 * components, EXAMPLES)
    top = top.update(both, sample, torch.zeros_like(both, dtype=torch.int32))
    block = batch_statistics(values, torch.stack([values, -values]))
    reference = SampleReadouts.empty(components)
    if shard % max(1, shards * BATCH // REFERENCE) == 0:
        reference = reference.update(values, sample)
    statistics = LayerStatistics(top, Moments().update(shard, block), (), reference)
    return Collected({LAYER: statistics}, {})


def merge(folder: Path, shards: int, components: int) -> dict[str, Any]:
    """Write and merge shards, and compare the result with a sort of all readouts."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{shard:06d}.safetensors" for shard in range(shards)]
    with Clock() as writing:
        for shard, path in enumerate(paths):
            save_sealed(path, shard_of(shard, components, shards).tensors())
    reset_peak()
    before = peak_mib()
    with Clock() as merging:
        merged = reduce(
            Collected.merge,
            (Collected.from_tensors(load_sealed(path) or {}, [LAYER]) for path in paths),
        )
    peak = peak_mib() - before
    values = torch.cat([readouts_of(shard, components)[:, :CHECKED] for shard in range(shards)])
    best = values.sort(dim=0, descending=True, stable=True)
    total = merged.layers[LAYER].moments.total()
    if not (
        torch.equal(merged.layers[LAYER].top.sample[:CHECKED].T, best.indices[:EXAMPLES])
        and total.count.unique().tolist() == [shards * BATCH]
        and np.allclose(total.mean[:CHECKED], values.double().mean(0), atol=1e-12)
    ):
        raise SystemExit("The merged shards differ from a sort of all readouts.")
    return {
        "shards": shards,
        "components": components,
        "written_bytes": sum(path.stat().st_size for path in paths),
        "write": writing.read(),
        "merge": merging.read(),
        "merge_mib": peak,
    }


def store(folder: Path, shards: int) -> dict[str, Any]:
    """Write a database of one crops file per shard, and open, verify and search it."""
    size = Size(layers=10, rows=1000, dim=64, samples=BATCH * shards, crops=10 * shards,
                crops_per_file=10)  # fmt: skip
    with Clock() as writing:
        write(folder / "x.semlens", size)
    reset_peak()
    before = peak_mib()
    with Clock() as opening:
        db = sl.open(folder / "x.semlens", embedder=RandomWords(size.dim))
    with Clock() as card:
        db.examples_of(17)
    with Clock() as searching:
        db.search("watermark")
    return {
        "crops_files": len(db.manifest.crops),
        "manifest_bytes": (folder / "x.semlens" / "manifest.json").stat().st_size,
        "write": writing.read(),
        "open": opening.read(),
        "card": card.read(),
        "search": searching.read(),
        "read_mib": peak_mib() - before,
    }


def remote(folder: Path, rows: int) -> dict[str, Any]:
    """Open a database in an object store; return the bytes that each question copied."""
    import fsspec
    from moto.server import ThreadedMotoServer

    size = Size(layers=10, rows=rows, samples=10 * rows, crops=20 * rows,
                crops_per_file=max(1, rows // 2))  # fmt: skip
    database, copies = folder / "x.semlens", folder / "copies"
    rng = np.random.default_rng(0)
    write(database, size, pictures=[rng.bytes(4000) for _ in range(100)])
    os.environ |= {"SEMLENS_CACHE": str(copies), "AWS_ACCESS_KEY_ID": "x",
                   "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    os.environ["AWS_ENDPOINT_URL_S3"] = "http://{}:{}".format(*server.get_host_and_port())
    store = fsspec.filesystem("s3")
    store.mkdir("models")
    store.put(str(database), "models/x.semlens", recursive=True)
    read: dict[str, int] = {}

    def step(name: str, ask: Callable[[], Any]) -> Any:
        answer = ask()
        files = (path for path in copies.rglob("*") if path.is_file())
        read[name] = sum(path.stat().st_size for path in files) - sum(read.values())
        return answer

    db = step("open", lambda: sl.open("s3://models/x.semlens", embedder=RandomWords(size.dim)))
    examples = step("examples of a component", lambda: db.examples_of(17))
    step("a thumbnail", lambda: db.thumbnail(examples[0].crop))
    step("the first search of all layers", lambda: db.search("watermark"))
    step("another search", lambda: db.search("red"))
    server.stop()
    total = sum(path.stat().st_size for path in database.rglob("*") if path.is_file())
    return {"bytes": total, "read": read}


if __name__ == "__main__":
    what, work, *numbers = sys.argv[1:]
    print(
        json.dumps(
            {"merge": merge, "store": store, "remote": remote}[what](Path(work), *map(int, numbers))
        )
    )
