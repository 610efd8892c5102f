"""What a billion images and a million components take, from constants measured on this machine.

A small real build gives the time of each stage per image and per example, and the bytes of each
file per row. A merge of 10,000 synthetic shards, and a database with 10,000 crops files, are run
with the code of a build. The plan is arithmetic on these numbers: no part of it is a guess, except
the price of a core hour and the speed of the network, which are options.

    python -m benchmarks plan                            # ten minutes
    python -m benchmarks plan --record
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import semlens as sl
from benchmarks.harness import ROOT, Clock, benchmark, table
from benchmarks.harness.results import measurement
from benchmarks.worlds.build_inputs import make_images
from semlens.models.load import load_model
from semlens.run.plan import Execution
from semlens.stages.embed import CropRef
from semlens.store.reader import data_fingerprint
from semlens.streaming.statistics import TopExamples
from semlens.types import Box

IMAGES, COMPONENTS, EXAMPLES, DIM = 10**9, 10**6, 30, 512
REFERENCE_BYTES = 512 * 2**20
GIB, TB = 2**30, 1e12


# -- constants ------------------------------------------------------------------------------------


def build_constants(work: Path, count: int, layer: str) -> dict[str, float]:
    """Build a database from generated photographs; return seconds and bytes per unit."""
    images = make_images(work, count, 500)
    marks: list[tuple[str, int, float]] = []

    def progress(stage: str, done: int, total: int) -> None:
        marks.append((stage, done, time.process_time()))

    subject = load_model("torchvision/resnet18", random_weights=0)
    db = sl.build(
        work / "small.semlens", subject, images, "semlens/demo", [layer], examples=1,
        reference=0, execution=Execution(batch_size=8, workers=0, shard=count), progress=progress,
    )  # fmt: skip

    def seconds(stage: str) -> float:
        """Return the CPU seconds of a stage, at the rate between its first and last report."""
        of_stage = {done: t for name, done, t in reversed(marks) if name == stage}
        (first, begin), (last, end) = min(of_stage.items()), max(of_stage.items())
        return (end - begin) * last / max(1, last - first)

    pairs = int(db.components["examples"].sum())
    crops = sum(db.manifest.crops)

    def size(name: str) -> int:
        return sum(p.stat().st_size for p in (work / "small.semlens").rglob(name))

    return {
        "bytes of an image": sum(p.stat().st_size for p in images.rglob("*.jpg")) / count,
        "CPU s to hash an image": seconds("hash") / count,
        "CPU s to collect an image": seconds("collect") / count,
        "CPU s to crop an example by relevance": seconds("crop") / pairs,
        "CPU s to embed a crop": seconds("embed") / crops,
        "bytes of an example": size(f"{layer}.parquet") / pairs,
        "bytes of a component": (db.path / "components.parquet").stat().st_size
        / len(db.components),
        "bytes of a thumbnail": size("0000.parquet") / crops,
    }


def row_constants(count: int) -> dict[str, float]:
    """Return what one image takes in memory and in ``samples.parquet``."""
    rng = np.random.default_rng(0)
    tracemalloc.start()
    ids = [f"n{i // 1300:08d}/n{i // 1300:08d}_{i:09d}.JPEG" for i in range(count)]
    digests = [rng.bytes(32).hex() for _ in range(count)]
    logits: tuple[int | None, ...] = tuple(i // 1300 for i in range(count))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    data_fingerprint(ids, digests)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    samples = pa.table({
        "sample": range(count), "path": ids, "sha256": digests, "target": [i[:9] for i in ids],
        "logit": pa.array(logits, pa.int32()), "error": pa.nulls(count, pa.string()),
    })  # fmt: skip
    sink = pa.BufferOutputStream()
    pq.write_table(samples, sink, compression="ZSTD", row_group_size=4096)
    tracemalloc.start()
    crops = {CropRef(i, Box(i, i + 1, i + 300, i + 301)): i for i in range(count // 10)}
    per_crop = tracemalloc.get_traced_memory()[0] / len(crops)
    tracemalloc.stop()
    return {
        "bytes in memory for an image": held / count,
        "further bytes while the data is fingerprinted": (peak - held) / count,
        "bytes of a row of samples.parquet": sink.getvalue().size / count,
        "bytes in memory for a crop's name": per_crop,
    }


def merge_constants(components: int) -> dict[str, float]:
    """Return the time of merging the examples of two shards, per component and side."""
    rows = 2 * components
    generator = torch.Generator().manual_seed(0)

    def random_top(first: int, high: float) -> TopExamples:
        values = high + torch.rand(EXAMPLES, rows, generator=generator)
        sample = torch.arange(first, first + EXAMPLES)
        top = TopExamples.empty(rows, EXAMPLES)
        return top.update(values, sample, torch.zeros_like(values, dtype=torch.int32))

    base, dense, sparse = random_top(0, 1), random_top(EXAMPLES, 1), random_top(EXAMPLES, -1)
    times: dict[str, float] = {}
    for name, other in (("all change", dense), ("none changes", sparse)):
        with Clock() as clock:
            for _ in range(5):
                base.merge(other)
        times[name] = clock.read(5 * rows)["cpu_seconds"]
    return {
        "CPU s to merge a row of examples": times["all change"],
        "CPU s to merge a row that does not change": times["none changes"],
        "bytes of a row of examples in a shard": EXAMPLES * 12.0,
    }


# -- the plan -------------------------------------------------------------------------------------


def plan(constants: dict[str, float], options: argparse.Namespace) -> dict[str, Any]:
    """Return the plan: a list of rows for each table."""
    c, shards = constants, options.shards
    pairs = COMPONENTS * EXAMPLES  # among so many images, each may have its own image and crop
    top_bytes = 2 * COMPONENTS * c["bytes of a row of examples in a shard"]
    disk = {
        "samples.parquet": IMAGES * c["bytes of a row of samples.parquet"],
        "components.parquet": COMPONENTS * c["bytes of a component"],
        "examples/": pairs * c["bytes of an example"],
        "vectors/ of components": COMPONENTS * 2.0 * DIM,
        "vectors/crops/": pairs * (2.0 * DIM + 24),
        "thumbnails/": pairs * c["bytes of a thumbnail"],
        "reference/, at most": float(REFERENCE_BYTES),
        f"partial/: examples of {shards} shards": shards * top_bytes,
    }
    traffic = {
        "hash every image": IMAGES * c["bytes of an image"],
        "run the model on every image": IMAGES * c["bytes of an image"],
        "read the images of examples": pairs * c["bytes of an image"],
    }
    cpu = {
        "hash": IMAGES * c["CPU s to hash an image"],
        "collect": IMAGES * c["CPU s to collect an image"],
        "crop by relevance": pairs * c["CPU s to crop an example by relevance"],
        "run the model on the images of examples": pairs * c["CPU s to collect an image"],
        "embed": pairs * c["CPU s to embed a crop"],
        "merge, in one process": merge_seconds(c, shards),
    }
    per_image = c["bytes in memory for an image"]
    fingerprinted = per_image + c["further bytes while the data is fingerprinted"]
    per_component = EXAMPLES * (2.0 * DIM + c["bytes in memory for a crop's name"])
    memory = {
        "ids and hashes of all images": IMAGES * per_image,
        "the same, while the data is fingerprinted": IMAGES * fingerprinted,
        "examples while two shards are merged": 3 * top_bytes,
        "vectors and names of all crops": COMPONENTS * per_component,
    }
    limit = options.memory * GIB
    breaks = sorted([
        ("fingerprint of the data, in memory", limit / fingerprinted, "images"),
        ("ids and hashes, in memory", limit / per_image, "images"),
        ("vectors and names of crops, in memory", limit / per_component, "components"),
        ("merge of two shards, in memory", limit / (3 * top_bytes / COMPONENTS), "components"),
        ("number of a sample in 32 bits", 2.0**32, "images"),
    ], key=lambda row: row[1] / (IMAGES if row[2] == "images" else COMPONENTS))  # fmt: skip
    return {"disk": disk, "traffic": traffic, "cpu": cpu, "memory": memory, "breaks": breaks}


def merge_seconds(c: dict[str, float], shards: int) -> float:
    """Return the time of merging shards one after another.

    After k shards, a further one has one of the m best samples of a row with probability
    1 - (k / (k + 1))^m; if more than half of the rows change, all are sorted.
    """
    k = np.arange(1, shards, dtype=float)
    changed = 1 - (k / (k + 1)) ** EXAMPLES
    changed = np.where(changed > 0.5, 1.0, changed)
    full, kept = (c[f"CPU s to merge a row {x}"] for x in ("of examples", "that does not change"))
    return float(2 * COMPONENTS * (changed * full + kept).sum())


# -- command --------------------------------------------------------------------------------------


def apart(what: str, folder: Path, *numbers: int) -> dict[str, Any]:
    """Run a part in a process of its own, so that its peak memory is its own."""
    arguments = [sys.executable, "-m", "benchmarks.cases.plan.run", what, folder, *numbers]
    text = subprocess.run(
        list(map(str, arguments)), check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout
    return json.loads(text.strip().splitlines()[-1])


@benchmark(
    minutes=10,
    quoted=("docs/scale.md",),
    options={
        "--shards": {"type": int, "default": 64, "help": "shards of the planned build"},
        "--memory": {"type": float, "default": 64.0, "help": "GiB of the machine that merges"},
        "--price": {"type": float, "default": 0.05, "help": "of a core hour, in any currency"},
        "--network": {"type": float, "default": 10.0, "help": "Gbit/s in all"},
    },
)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure the constants, run the merge and the database, and compute the plan."""
    begin = time.monotonic()
    runs = 100 if options.quick else 10_000
    constants = {
        **build_constants(work, *((16, "layer2") if options.quick else (24, "layer4"))),
        **row_constants(2000 if options.quick else 200_000),
        **merge_constants(200 if options.quick else 20_000),
    }
    result = {
        "constants": constants,
        "merge": apart("merge", work / "merge", runs, 64),
        "store": apart("store", work / "store", runs),
        "remote": apart("remote", work / "remote", 50 if options.quick else 2000),
        "plan": plan(constants, options),
        "options": {k: getattr(options, k) for k in ("shards", "memory", "price", "network")},
    }
    result |= measurement(begin, ("src", "benchmarks/cases/plan"))
    return result


def constants_table(result: dict[str, Any]) -> str:
    """Return the constants as a Markdown table."""
    return table(("constant", "value"), [(k, f"{v:.3g}") for k, v in result["constants"].items()])


def runs_table(result: dict[str, Any]) -> str:
    """Return the run of the merge and the database as a Markdown table."""
    merge, store = result["merge"], result["store"]
    shards, files = merge["shards"], store["crops_files"]
    rows = [
        (f"write {shards} shards, {merge['written_bytes'] / 1e9:.2f} GB", merge["write"], None),
        (f"merge {shards} shards", merge["merge"], merge["merge_mib"]),
        (f"write a database of {files} crops files", store["write"], None),
        (f"open it (manifest: {store['manifest_bytes'] / 1e6:.1f} MB)", store["open"], None),
        ("read the examples of a component", store["card"], None),
        ("search it; memory of all three", store["search"], store["read_mib"]),
    ]
    return table(
        ("step", "seconds", "CPU seconds", "peak MiB"),
        [(n, f"{t['seconds']:.3g}", f"{t['cpu_seconds']:.3g}", f"{m:.0f}" if m else "")
         for n, t, m in rows],
    )  # fmt: skip


def remote_table(result: dict[str, Any]) -> str:
    """Return what was read of a database in an object store, as a Markdown table."""
    remote = result["remote"]
    total = remote["bytes"]
    rows = [(k, f"{v / 1e6:.2f}", f"{100 * v / total:.2g} %") for k, v in remote["read"].items()]
    return table(("step", "MB read", "of the database"), [*rows, ("all", f"{total / 1e6:.0f}", "")])


def plan_tables(result: dict[str, Any]) -> str:
    """Return the plan as Markdown tables."""
    values, options = result["plan"], result["options"]
    price, network = options["price"], options["network"]
    hours = {name: seconds / 3600 for name, seconds in values["cpu"].items()}

    def sized(title: str, rows: dict[str, float], unit: float, name: str) -> str:
        cells = [(k, f"{v / unit:.3g}") for k, v in rows.items()]
        return table((title, name), [*cells, ("sum", f"{sum(rows.values()) / unit:.3g}")])

    days = {k: v / (network * 1e9 / 8) / 3600 for k, v in values["traffic"].items()}
    return "\n\n".join([
        sized("on disk", values["disk"], TB, "TB"),
        table(
            ("over the network", "TB", f"hours at {network:g} Gbit/s"),
            [(k, f"{v / TB:.3g}", f"{days[k]:.3g}") for k, v in values["traffic"].items()],
        ),
        table(
            ("computation", "core hours", f"cost at {price:g} per core hour"),
            [(k, f"{v:.3g}", f"{v * price:,.0f}")
             for k, v in [*hours.items(), ("sum", sum(hours.values()))]],
        ),
        table(("in memory, of one process", "GiB"),
              [(k, f"{v / GIB:.3g}") for k, v in values["memory"].items()]),
        table((f"what breaks first, with {options['memory']:g} GiB", "at"),
              [(what, f"{limit:.2g} {unit}") for what, limit, unit in values["breaks"]]),
    ])  # fmt: skip


def tables(result: dict[str, Any]) -> dict[str, str]:
    """Return the tables of the documentation."""
    parts = {
        "constants": constants_table,
        "runs": runs_table,
        "remote": remote_table,
        "plan": plan_tables,
    }
    return {f"scale {name}": text(result) for name, text in parts.items()}


def show(result: dict[str, Any]) -> None:
    """Print all tables."""
    print("\n\n".join(tables(result).values()))
