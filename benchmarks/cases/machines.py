"""Builds on several workers: the same bytes, their speed, and the overhead per shard.

    python -m benchmarks machines            # six minutes on two cores
    python -m benchmarks machines --only identity

The same database is built in this process, from parts, by processes and by Ray, and compared byte
by byte. In the last case one of three nodes dies while the model runs. Then the model is timed
alone, on workers that have been started.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import benchmark, in_turns, median, ratio
from benchmarks.worlds.build_inputs import make_images, make_subject
from benchmarks.worlds.tiny import contents
from semlens.api import make_plan
from semlens.embedders.load import load_embedder
from semlens.models.load import load_model
from semlens.progress import progress_listener
from semlens.run.build_database import build_database
from semlens.run.executors.executor import Executor, Inputs, ThisProcess
from semlens.run.executors.local_processes import LocalProcesses
from semlens.run.executors.ray_cluster import Ray
from semlens.run.layer_stages import NewLayers
from semlens.run.parts import Part, build_part, merge_parts
from semlens.run.plan import Execution, Plan
from semlens.run.shards import Shards, hash_images
from semlens.stages.collect import layer_layouts

LAYERS, BATCH = ["0", "2"], 4
MODEL = """
import torch
from torchvision.transforms import v2


def make():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, 2), torch.nn.ReLU(), torch.nn.Conv2d(6, 10, 3, 2),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(10, 4),
    )
    resize = [v2.Resize((32, 32)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    return net, v2.Compose(resize), list("abcd")
"""
SHARD_BYTES = 2**22
"""Bytes of the result of an empty task: about those of a shard of 5,000 components."""


def plan_of(images: Path, executor: Executor | None = None, examples: int = 3) -> Plan:
    """Return the plan of the build that is compared."""
    execution = Execution(BATCH, 1, executor=executor or ThisProcess(1))
    return make_plan(
        f"{images.parent / 'tiny.py'}:make", images, "semlens/demo", LAYERS, relevance=True,
        execution=execution, examples=examples, crop="crp", rules="gradient",
    )  # fmt: skip


@dataclass(frozen=True)
class Shuffled:
    """Computes in this process, in random order, with the shards of seven workers."""

    count: int = 7

    @contextmanager
    def start(self, inputs: Inputs) -> Iterator[ShuffledWorkers]:
        """Return the workers."""
        yield ShuffledWorkers(inputs, self.count)


@dataclass(frozen=True)
class ShuffledWorkers:
    """See :class:`Shuffled`."""

    inputs: Inputs
    count: int

    def run(self, steps: Any, tasks: Any, running: Any) -> Iterator[tuple[range, Any]]:
        """Compute all tasks in random order."""
        tasks = list(tasks)
        random.Random(0).shuffle(tasks)
        for task in tasks:
            yield task.samples, task(self.inputs, dict.fromkeys(steps, lambda count: None))


# -- the same bytes -----------------------------------------------------------------------------


def build_here(path: Path, images: Path, executor: Executor | None = None, **kwargs: Any) -> None:
    """Build with an executor."""
    with progress_listener(kwargs.pop("progress", lambda *step: None)):
        build_database(path, plan_of(images, executor, **kwargs))


def build_parts(path: Path, images: Path, count: int) -> None:
    """Build in parts until they are complete, and merge them."""
    plan, complete = plan_of(images), False
    with progress_listener(lambda *step: None):
        while not complete:
            for number in range(count, 0, -1):
                complete = build_part(path, plan, Part(number, count)).is_complete
        merge_parts(path, plan)


def build_ray(path: Path, images: Path, nodes: int, dies: bool = False) -> None:
    """Build on a Ray cluster of several nodes on this machine; one of them may die midway."""
    with cluster(nodes) as (nodes_added, remove):

        def progress(step: str, done: int, total: int) -> None:
            if dies and step == "collect" and 0 < done < total and nodes_added:
                remove(nodes_added.pop())

        build_here(path, images, Ray(), progress=progress)


@contextmanager
def cluster(nodes: int, cpus: int = 1) -> Iterator[tuple[list[Any], Callable[[Any], None]]]:
    """Start a Ray cluster; yield its nodes besides the head, and a function that kills one."""
    import ray
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus})
    try:
        others = [started.add_node(num_cpus=cpus) for _ in range(nodes - 1)]
        ray.init(address=started.address, logging_level="ERROR", log_to_driver=False)
        yield others, lambda node: started.remove_node(node, allow_graceful=False)
    finally:
        ray.shutdown()
        started.shutdown()


BUILDS: Mapping[str, Callable[[Path, Path], None]] = {
    "one process": build_here,
    "1 part": lambda path, images: build_parts(path, images, 1),
    "3 parts": lambda path, images: build_parts(path, images, 3),
    "7 parts": lambda path, images: build_parts(path, images, 7),
    "shuffled order": lambda path, images: build_here(path, images, Shuffled()),
    "2 local processes": lambda path, images: build_here(path, images, LocalProcesses(2, 1)),
    "Ray, one node": lambda path, images: build_ray(path, images, 1),
    "Ray, three nodes, one dies": lambda path, images: build_ray(path, images, 3, dies=True),
    "control: one more example": lambda path, images: build_here(path, images, examples=4),
}


def identity(work: Path, images: Path) -> dict[str, dict[str, Any]]:
    """Return for each way to build whether its files are those of one process."""
    results: dict[str, dict[str, Any]] = {}
    expected: dict[str, str] = {}
    for name, build in BUILDS.items():
        path = work / f"{name.replace(' ', '-').replace(',', '').replace(':', '')}.semlens"
        started = time.monotonic()
        build(path, images)
        files = contents(path)
        expected = expected or files
        same = sum(files.get(file) == digest for file, digest in expected.items())
        results[name] = {
            "files": len(files), "equal": same, "identical": files == expected,
            "seconds": time.monotonic() - started,
        }  # fmt: skip
    return results


# -- speed --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Empty:
    """Computes nothing, and returns as much as a shard."""

    samples: range
    seconds: float = 0.0

    def __call__(self, inputs: Inputs, advance: Any) -> Mapping[str, Tensor]:
        """Return zeros."""
        time.sleep(self.seconds)
        return {"zeros": torch.zeros(SHARD_BYTES, dtype=torch.uint8)}


def time_executor(
    folder: Path, plan: Plan, executor: Executor, empty_tasks: int
) -> dict[str, float]:
    """Return the seconds to start workers, per empty task, and of the model over all images."""
    clock = time.monotonic
    before = clock()
    with executor.start(plan.inputs) as workers, progress_listener(lambda *step: None):
        warm = [Empty(range(i, i + 1), 0.5) for i in range(2 * workers.count)]
        list(workers.run(("warm",), warm, lambda counts: None))
        started = clock()
        tasks = [Empty(range(i, i + 1)) for i in range(empty_tasks)]
        list(workers.run(("empty",), tasks, lambda counts: None))
        emptied = clock()
        layouts = layer_layouts(plan.model, plan.layers, plan.recipe.readout)
        digests = hash_images(plan, workers)
        new = NewLayers(None, plan, layouts, plan.crops(layouts), digests)
        collect, shards = new.collect, Shards(folder)
        ready = clock()
        shards.complete(collect, workers, plan.execution)
        return {
            "start": started - before,
            "overhead": (emptied - started) / empty_tasks,
            "seconds": clock() - ready,
            "shards": len(list(folder.iterdir())),
        }


def speed(work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time a ResNet-18 over generated images by each executor, in turn."""
    count, rounds = (24, 1) if options.quick else (options.count, options.rounds)
    images = make_images(work, count, 256)
    model, embedder = load_model(make_subject(work)), load_embedder("semlens/demo")
    shard = max(8, count // 8 // 8 * 8)
    numbers = iter(range(10**6))

    def timed(executor: Executor) -> dict[str, float]:
        execution = Execution(8, 1, shard, executor)
        plan = make_plan(
            model, images, embedder, ["layer4"], execution=execution, crop="none"
        )  # fmt: skip
        folder = work / f"shards-{next(numbers)}"
        return time_executor(folder, plan, executor, 4 if options.quick else 10)

    with cluster(1, 2):
        executors = {
            "one process": ThisProcess(1),
            "2 local processes": LocalProcesses(2, 1),
            "Ray, 2 actors": Ray(threads=1),
        }
        parts = {name: lambda e=executor: timed(e) for name, executor in executors.items()}
        turns = list(in_turns(parts, rounds))
    return {
        "images": count,
        "rounds": turns,
        "by_executor": {
            name: {
                **{key: median(turns, name, key) for key in turns[0][name]},
                "speed_up": ratio(turns, ["one process"], [name]),
            }
            for name in executors
        },
    }  # fmt: skip


@benchmark(
    minutes=3,
    quoted=("docs/machines.md",),
    options={
        "--count": {"type": int, "default": 400, "help": "images that are timed"},
        "--only": {"choices": ("identity", "speed"), "help": "one of the two tables"},
    },
    rounds=2,
)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Compare the builds, and time the executors."""
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    if options.only != "speed":
        few = make_images(work, 24 if options.quick else 60, 110)
        (work / "tiny.py").write_text(MODEL, "utf-8")
        result["identity"] = identity(work, few)
    if options.only != "identity":
        result["speed"] = speed(work, options)
    return result
