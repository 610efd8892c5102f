"""Extending a database: the time beside a full build, the size of the state, and equal bits.

    python -m benchmarks extend                    # a quarter of an hour on a busy core
    python -m benchmarks extend --only bits        # one minute
    python -m benchmarks extend --work FOLDER      # keeps the first database for the next run

A database of the demo's images is extended by more of them, and built over all of them, in turn;
all files are compared. The second table counts crop vectors that have other bits in other batches,
on which it depends whether crops can be kept.
"""

from __future__ import annotations

import argparse
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import semlens as sl
from benchmarks.harness import Clock, benchmark, in_turns, median, ratio
from benchmarks.worlds.tiny import contents
from semlens.demo.bundled_images import DemoWorld
from semlens.embedders.load import Embedder, load_embedder
from semlens.models.load import load_model
from semlens.run.plan import Execution

BATCH = 32


def make_folders(work: Path, count: int, new: int) -> tuple[Path, Path]:
    """Write some of the demo's images to a folder, and others to a second one."""
    world, folders = DemoWorld(), (work / f"images-{count}", work / f"more-{new}-{count}")
    pictures = random.Random(0).sample(world.pictures, count + new)
    for folder, chosen in zip(folders, (pictures[:count], pictures[count:]), strict=True):
        for picture in chosen:
            file = folder / Path(picture.path).relative_to("images")
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                world.image(picture).save(file, "WEBP", lossless=True)
    return folders


def size(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def time_extension(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time an extension and a full build in turn, and compare their files."""
    old, new = make_folders(work, options.count, options.new)
    model, embedder = load_model("semlens/demo"), load_embedder("semlens/demo")
    layers, execution = options.layers.split(","), Execution(BATCH, 0)

    def build(path: Path, images: Any) -> None:
        sl.build(
            path, model, images, embedder, layers, execution=execution, examples=options.examples,
            crop=options.crop, relevance=True, extendable=True, progress=lambda *step: None,
        )  # fmt: skip

    settings = f"{options.count}-{options.layers}-{options.examples}-{options.crop}"
    base, full, extended = (
        work / f"{name}.semlens" for name in (f"base-{settings}", "full", "extended")
    )
    build(base, sl.load_images(old))  # nothing to do if an earlier run has left it
    done: list[Any] = []

    def full_build() -> dict[str, float]:
        shutil.rmtree(full, ignore_errors=True)
        with Clock() as clock:
            build(full, sl.JoinedImages([sl.load_images(old), sl.load_images(new)]))
        return clock.read()

    def extension() -> dict[str, float]:
        shutil.rmtree(extended, ignore_errors=True)
        shutil.copytree(base, extended)
        with Clock() as clock:
            done.append(
                sl.extend(
                    extended,
                    new,
                    model=model,
                    embedder=embedder,
                    execution=execution,
                    progress=lambda *step: None,
                )  # fmt: skip
            )
        return clock.read()

    parts = {"full build": full_build, "extension": extension}
    rounds = list(in_turns(parts, options.rounds))
    state = size(base / "state")
    return {
        "images": options.count, "new": options.new, "layers": layers,
        "components": sl.open(base).manifest.rows, "examples": options.examples,
        "identical": contents(full) == contents(extended),
        "files": len(contents(full)), "extension": asdict(done[-1]),
        "state_bytes": state, "other_bytes": size(base) - state,
        "parts": {
            name: {key: median(rounds, name, key) for key in ("seconds", "cpu_seconds")}
            for name in parts
        },
        "speed_up": ratio(rounds, ["full build"], ["extension"]),
        "cpu_speed_up": ratio(rounds, ["full build"], ["extension"], "cpu_seconds"),
    }  # fmt: skip


# -- equal bits ---------------------------------------------------------------------------------


def batches(order: list[int], sizes: list[int]) -> Iterator[list[int]]:
    """Cut an order of crops into batches of these sizes, again and again."""
    start = number = 0
    while start < len(order):
        yield order[start : start + sizes[number % len(sizes)]]
        start += sizes[number % len(sizes)]
        number += 1


def embed(embedder: Embedder, inputs: Tensor, order: list[int], sizes: list[int]) -> Tensor:
    """Embed crops in batches; return their vectors as stored, in the order of the crops."""
    vectors = torch.zeros(len(inputs), embedder.dim, dtype=torch.float16)
    for batch in batches(order, sizes):
        vectors[batch] = embedder.embed_batch(inputs[batch]).half()
    return vectors


def compare_bits(count: int) -> dict[str, dict[str, float]]:
    """Return by embedder and kind of batches the share of crops whose vectors differ."""
    world = DemoWorld()
    pictures = [world.image(p) for p in random.Random(0).sample(world.pictures, count)]
    corner = [p.crop((0, 0, p.width // 2, p.height // 2)) for p in pictures]
    result: dict[str, dict[str, float]] = {}
    in_order = list(range(count))
    shuffled = random.Random(1).sample(in_order, count)
    kinds = {
        f"batches of {BATCH}, other crops": (shuffled, [BATCH]),
        "batches of 31": (in_order, [31]),
        "batches of 5, 17, 3 and 29": (shuffled, [5, 17, 3, 29]),
        "one by one": (in_order, [1]),
    }
    for spec in ("semlens/demo", "semlens/photo"):
        embedder = load_embedder(spec)
        inputs = torch.stack([embedder.preprocess(crop) for crop in corner])
        expected = embed(embedder, inputs, in_order, [BATCH])
        result[spec] = {
            kind: float((embed(embedder, inputs, *how) != expected).any(1).float().mean())
            for kind, how in kinds.items()
        }
    return result


@benchmark(
    minutes=15,
    quoted=("docs/extend.md",),
    options={
        "--count": {"type": int, "default": 2000, "help": "images of the database"},
        "--new": {"type": int, "default": 200, "help": "images that are added"},
        "--layers": {"default": "layer3", "help": "layers of the demo's model"},
        "--examples": {"type": int, "default": 30, "help": "examples per component"},
        "--crop": {"default": "auto", "help": "how examples are cropped"},
        "--only": {"choices": ("time", "bits"), "help": "one of the two tables"},
    },
    rounds=1,
)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure one or both of the tables."""
    torch.set_num_threads(1)
    if options.quick:
        options.count, options.new, options.examples, options.rounds = 36, 8, 2, 1
    result: dict[str, Any] = {}
    if options.only != "bits":
        result["extension"] = time_extension(work, options)
    if options.only != "time":
        result["bits"] = compare_bits(BATCH if options.quick else 3 * BATCH)
    return result
