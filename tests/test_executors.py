"""Builds by other executors and in parts: the same bytes, errors as here, and lost workers."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cloudpickle
import conftest
import pytest
import torch
from conftest import ColourEmbedder, LittleNet, to_tensor
from typer.testing import CliRunner

import semlens as sl
from semlens.api import make_plan
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.errors import ModelError, RecipeError, StaleError, StoreError, WorkerError
from semlens.models.subject import SubjectModel
from semlens.run.executors import ray_cluster
from semlens.run.executors.executor import Inputs
from semlens.run.executors.local_processes import LocalProcesses, visible_gpus
from semlens.run.executors.ray_cluster import Ray
from semlens.run.parts import Part, build_part, merge_parts
from semlens.run.plan import Execution, parse_executor

LAYERS = ["first", "second"]


def plan_of(folder, executor=None, shard=None, **settings):
    model = SubjectModel(LittleNet(), to_tensor, "v", "python:little", list("abcd"))
    execution = Execution(4, 1, shard)
    if executor is not None:
        execution = replace(execution, executor=executor)
    settings = {"relevance": True, "examples": 3, "reference": 20, **settings}
    return make_plan(
        model, ImageFolder(folder), ColourEmbedder(), LAYERS,
        execution=execution, rules="gradient", crop="crp", **settings,
    )  # fmt: skip


def build(path, folder, executor=None, shard=None, progress=lambda *step: None):
    plan = plan_of(folder, executor, shard)
    sl.build(
        path, plan.model, plan.images, plan.embedder, LAYERS, relevance=True,
        execution=plan.execution, recipe=plan.recipe, progress=progress,
    )  # fmt: skip
    return contents(path)


def contents(path: Path) -> dict[str, str]:
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory, pictures):
    """What one process makes with the default shards."""
    return build(tmp_path_factory.mktemp("here") / "db", pictures)


@dataclass(frozen=True)
class Shuffled:
    """Computes in this process, in random order, as if by three workers."""

    @contextmanager
    def start(self, inputs: Inputs):
        yield ShuffledWorkers(inputs)


@dataclass(frozen=True)
class ShuffledWorkers:
    inputs: Inputs
    count: int = 3

    def run(self, steps, tasks, running):
        tasks = list(tasks)
        random.Random(len(tasks)).shuffle(tasks)
        for task in tasks:
            yield task.samples, task(self.inputs, dict.fromkeys(steps, lambda count: None))


@pytest.mark.slow
@pytest.mark.parametrize("shard", [4, 12, None])
def test_any_cut_in_any_order_gives_the_same_bytes(tmp_path, pictures, expected, shard):
    assert build(tmp_path / "db", pictures, Shuffled(), shard) == expected


@pytest.mark.parametrize("count", [1, 3, pytest.param(7, marks=pytest.mark.slow)])
def test_parts_are_merged_to_the_same_bytes(tmp_path, pictures, expected, count):
    path, parts = tmp_path / "db", [Part(i, count) for i in range(1, count + 1)]
    plan = plan_of(pictures)
    steps = []
    for _ in range(3):  # hash, collect, then crop and relate
        for part in random.Random(0).sample(parts, count):
            report = build_part(path, plan, part)
            steps += [step for step, samples in report.computed.items() if samples]
        if report.is_complete:
            break
        with pytest.raises(StoreError, match="lacks"):
            merge_parts(path, plan)
    for part in parts:  # those that ran before the last stage could begin
        report = build_part(path, plan, part)
    assert report.is_complete
    assert not any(report.computed.values())
    assert set(steps) == {"hash", "collect", "crop", "relate"}
    merge_parts(path, plan)
    assert contents(path) == expected


@pytest.mark.slow
def test_parts_in_folders_of_their_own(tmp_path, pictures, expected):
    plan, folders = plan_of(pictures, relevance=False), [tmp_path / str(i) for i in (1, 2)]
    target = tmp_path / "db"
    for stage in ("hash", "collect", "crop"):
        for number, folder in enumerate(folders, 1):
            report = build_part(folder, plan, Part(number, 2))
            assert list(report.waiting) == [stage]
        if stage != "crop":
            with pytest.raises(StoreError, match="lacks"):
                merge_parts(target, plan, folders)
            for folder in folders:  # as rsync would
                shutil.copytree(target / "partial", folder / "partial", dirs_exist_ok=True)
    other = replace(plan, recipe=plan.recipe.model_copy(update={"examples": 2}))
    with pytest.raises(StoreError, match="belong to another build"):
        merge_parts(tmp_path / "other", other, folders)
    shard = next((folders[1] / "partial").glob("crop-*"))
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StoreError, match="damaged"):
        merge_parts(tmp_path / "damaged", plan, folders)
    shard.write_bytes(data)
    merge_parts(target, plan, folders)
    without = {
        name: digest for name, digest in expected.items()
        if not name.startswith("relevance") and name != "manifest.json"
    }  # fmt: skip
    assert {k: v for k, v in contents(target).items() if k != "manifest.json"} == without


def test_images_that_change_between_parts_are_hashed_again(tmp_path, pictures):
    folder, path = tmp_path / "pictures", tmp_path / "db"
    shutil.copytree(pictures, folder)
    plan = plan_of(folder, relevance=False)
    build_part(path, plan, Part(1, 2))
    build_part(path, plan, Part(2, 2))  # hashes the other half, and collects its own
    first, second = (folder / plan.images.ids[i] for i in (0, 1))
    shutil.copy(second, first)
    with pytest.raises(StaleError, match="1 images"):
        build_part(path, plan, Part(1, 2))
    assert not list((path / "partial").glob("hash-*"))
    assert list(build_part(path, plan, Part(1, 2)).waiting) == ["hash"]


@pytest.mark.slow
def test_the_commands_say_what_comes_next(tmp_path, pictures):
    # the demo's names are on every machine
    path = str(tmp_path / "db")
    options = [
        "--model", "semlens/demo", "--data", str(pictures), "--embedder", "semlens/demo",
        "--layers", "layer2.conv2", "--examples", "2", "--crop", "none", "--reference", "0",
        "--device", "cpu",
    ]  # fmt: skip

    def run(*arguments):
        ended = CliRunner().invoke(app, [*arguments])
        return ended.exit_code, " ".join(ended.output.split())

    code, text = run("build", path, *options, "--shard", "1/2")
    assert code == 0
    assert "Waiting for hashing the images, parts 2/2" in text
    code, text = run("merge", path)
    assert code == 1
    assert "lacks" in text
    run("build", path, *options, "--shard", "2/2")
    run("build", path, *options, "--shard", "1/2")
    run("build", path, *options, "--shard", "2/2")
    code, text = run("build", path, *options, "--shard", "1/2")
    assert "All parts are complete. Next: semlens merge" in text
    code, text = run("merge", path)
    assert code == 0, text
    assert (tmp_path / "db" / "manifest.json").is_file()
    assert not (tmp_path / "db" / "partial").exists()
    before = (tmp_path / "db" / "manifest.json").read_bytes()
    code, text = run("merge", path)  # as a scheduler does
    assert code == 0
    assert "is complete: there are no parts left to merge" in text
    assert "components" in text
    assert (tmp_path / "db" / "manifest.json").read_bytes() == before
    for wrong in ("3/2", "0/2", "x"):
        code, text = run("build", path, *options, "--shard", wrong)
        assert code == 1
        assert "I/N" in text
    assert run("merge", str(tmp_path / "none"))[0] == 1


def test_executors_by_name():
    assert parse_executor("processes:3", 2) == LocalProcesses(3, 2)
    assert parse_executor("ray://head:10001") == Ray("ray://head:10001", 1)
    for wrong in ("processes:0", "spark", "ray:/x"):
        with pytest.raises(RecipeError):
            parse_executor(wrong)


def test_one_gpu_per_process_unless_the_model_is_on_another_than_the_first(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert visible_gpus(torch.device("cpu")) == []
    assert visible_gpus(torch.device("cuda:0")) == ["4", "6"]
    assert visible_gpus(torch.device("cuda:1")) == []


# -- processes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crash:
    """Kills its worker until there is a file for each of so many attempts."""

    samples: range
    folder: Path
    times: int

    def __call__(self, inputs, advance):
        attempts = len(list(self.folder.iterdir()))
        if attempts < self.times:
            (self.folder / str(attempts)).touch()
            os.kill(os.getpid(), 9)
        return {"start": torch.tensor([self.samples.start])}


@dataclass(frozen=True)
class Fail:
    """Fails in a worker."""

    samples: range
    error: Exception

    def __call__(self, inputs, advance):
        raise self.error


@pytest.mark.slow
def test_lost_processes_are_replaced_and_errors_come_out_as_here(tmp_path, pictures):
    def run(workers, *tasks):
        return {s.start: t["start"].item() for s, t in workers.run(("x",), tasks, lambda n: None)}

    once, always, none = (tmp_path / name for name in ("once", "always", "none"))
    for folder in (once, always, none):
        folder.mkdir()
    inputs = plan_of(pictures).inputs
    with LocalProcesses(2, 1).start(inputs) as workers:
        tasks = [Crash(range(i, i + 1), none, 0) for i in range(5)]
        done = run(workers, *tasks, Crash(range(5, 6), once, 1))
        assert done == {i: i for i in range(6)}
        with pytest.raises(WorkerError, match="samples 7 to 7 .* lost 3 times"):
            run(workers, Crash(range(7, 8), always, 9))
        with pytest.raises(ModelError) as caught:
            run(workers, Fail(range(1), ModelError("a", "b", "c")))
        assert (caught.value.value, caught.value.expected, caught.value.remedy) == ("a", "b", "c")
        with pytest.raises(ZeroDivisionError) as plain:
            run(workers, Fail(range(1), ZeroDivisionError("x")))
        assert "In a worker" in plain.value.__notes__[0]
    with pytest.raises(WorkerError, match="cannot be sent"):
        model = replace(inputs.model, preprocess=Unpicklable())
        with LocalProcesses(1, 1).start(replace(inputs, model=model)):
            pass


class Unpicklable:
    def __call__(self, image):
        return to_tensor(image)

    def __reduce__(self):
        raise TypeError("holds a socket")


@pytest.mark.slow
def test_local_processes_give_the_same_bytes(tmp_path, pictures, expected):
    steps = []
    processes = LocalProcesses(2, torch.get_num_threads())
    got = build(tmp_path / "db", pictures, processes, progress=lambda *step: steps.append(step))
    assert got == expected
    assert {name for name, *_ in steps} == {"hash", "collect", "crop", "embed", "relate"}
    for name in ("hash", "collect", "crop", "embed", "relate"):
        done = [count for step, count, _ in steps if step == name]
        assert done == sorted(done)
        assert done[-1] == max(total for step, _, total in steps if step == name)


@pytest.mark.slow
@pytest.mark.timeout(600)  # a cluster starts slowly on a busy machine
def test_ray_gives_the_same_bytes_when_a_node_dies_midway(
    tmp_path, pictures, expected, monkeypatch
):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    crews, lost = [], []

    class Watched(ray_cluster._Actors):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            crews.append(self)

        def dismiss(self, worker):
            lost.append(worker)
            super().dismiss(worker)

    monkeypatch.setattr(ray_cluster, "_Actors", Watched)
    cloudpickle.register_pickle_by_value(conftest)  # the nodes cannot import it
    threads = torch.get_num_threads()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": threads})
    nodes = [cluster.add_node(num_cpus=threads) for _ in range(2)]
    try:
        ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
        killed = []

        def kill(step, done, total):
            wait(crews[0]._starting if step == "hash" else ())  # until all actors are ready
            if step == "collect" and 0 < done < total and not killed:
                killed.append(done)
                cluster.remove_node(nodes[0], allow_graceful=False)

        with pytest.raises(WorkerError, match=f"No node of the Ray cluster has {threads + 1} CPU"):
            build(tmp_path / "large", pictures, Ray(threads=threads + 1))
        executor = Ray(threads=threads)
        assert build(tmp_path / "db", pictures, executor, shard=4, progress=kill) == expected
        assert killed
        assert len(lost) == 1
    finally:
        cloudpickle.unregister_pickle_by_value(conftest)
        ray.shutdown()
        cluster.shutdown()
