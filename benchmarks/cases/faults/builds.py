"""Builds that are starved of disk, or given changing inputs, and two that write at once."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.cases.faults.process import Ending, run
from benchmarks.cases.faults.stops import STAGES
from benchmarks.cases.faults.trials import (
    IDENTICAL,
    REFUSED,
    WRONG,
    Bench,
    Trial,
    changed,
    differences,
    judge,
)
from benchmarks.harness import log
from benchmarks.worlds.tiny import IMAGES

# -- disks ------------------------------------------------------------------------------------


def limited_files(bench: Bench) -> Iterator[Trial]:
    """Files that may not grow beyond a size."""

    def limit(size: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    for size in bench.some(np.geomspace(100, 60_000, 25).astype(int).tolist()):
        path = bench.target()
        ending = bench.build(path, partial(limit, size)).ending()
        yield bench.after_refusal("files that may not grow", ending, path)


def may_mount() -> bool:
    """Whether this process may mount file systems."""
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount") is not None


def full_disks(bench: Bench) -> Iterator[Trial]:
    """Build on a file system that is full before the end, then let it grow."""
    if not may_mount():
        return
    for size in bench.some(np.linspace(16, 300, 25).astype(int).tolist()):
        folder = bench.target()
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:  # noqa: S603
            log("No file system can be mounted here.")
            return
        try:
            ending = bench.build(folder / "db").ending()
            grow = ["mount", "-o", "remount,size=50m", str(folder)]
            subprocess.run(grow, check=True)  # noqa: S603
            yield bench.after_refusal("a full disk", ending, folder / "db")
        finally:
            subprocess.run(["umount", str(folder)], check=True)  # noqa: S603, S607


# -- inputs that change or fail ---------------------------------------------------------------


def changed_images(bench: Bench) -> Iterator[Trial]:
    """Images that change, vanish or are emptied in some stage of a build."""
    own = Bench(bench.work.with_name("trials-images"), bench.extent)  # others read theirs
    images = own.inputs.images
    other = (images / "ape" / "00.png").read_bytes() + b"x"
    kinds: dict[str, Callable[[Path], object]] = {
        "is replaced": lambda path: path.write_bytes(other),
        "is truncated": lambda path: path.write_bytes(path.read_bytes()[:200]),
        "is emptied": lambda path: path.write_bytes(b""),
        "vanishes": Path.unlink,
    }
    for (kind, change), stage in bench.some(list(product(kinds.items(), ("command", *STAGES))), 2):
        for _ in bench.some(range(2)):
            chosen = sorted(images.rglob("*.png"))[int(own.draw.integers(1, IMAGES))]
            yield _changed_image(own, f"an image that {kind}", stage, chosen, change)


def _changed_image(
    bench: Bench, fault: str, stage: str, image: Path, change: Callable[[Path], object]
) -> Trial:
    """Change an image: a build has those before, or those after, and never a mixture."""
    path = bench.target()
    child = bench.build(path)
    child.wait_for(stage, bench.draw.uniform(0, 0.1))
    with changed(image, change):
        ending = child.ending()
        if not (ending.finished and differences(bench.whole, path)):
            different = None
        elif (different := _unlike_fresh(bench, path)) and not image.exists():
            image.symlink_to("nowhere")  # listed, but gone when it was read
            different = _unlike_fresh(bench, path)
    if different is None:
        return bench.after_refusal(fault, ending, path)
    shutil.rmtree(path)
    detail = f"in '{stage}', {image.name}: a mixture, {different}"
    return Trial(fault, WRONG if different else IDENTICAL, detail)


def _unlike_fresh(bench: Bench, path: Path) -> list[str]:
    """Return the files in which a database differs from one of the images as they are now."""
    fresh = bench.target()
    bench.build(fresh).ending()
    different = differences(fresh, path)
    shutil.rmtree(fresh, ignore_errors=True)
    return different


def failing_models(bench: Bench) -> Iterator[Trial]:
    """Let a model, or the preprocessing in a decoding thread, raise an error at some call."""
    errors = ("ValueError", "RuntimeError", "MemoryError", "SystemExit", "OSError", "KeyError")
    names = {"model": "a model that raises", "preprocessing": "a worker that raises"}
    calls = {"model": (1, 2, 3, 6), "preprocessing": (1, 3, 12, 20, 40)}
    for place, fault in names.items():
        for call, error in bench.some(list(product(calls[place], errors))):
            path, setting = bench.target(), f"{place}:{call}:{error}"
            ending = bench.build(path, partial(os.environ.__setitem__, "FAULT", setting)).ending()
            trial = bench.after_refusal(fault, ending, path)
            yield Trial(trial.fault, trial.outcome, f"{setting}: {trial.detail}")


def two_writers(bench: Bench) -> Iterator[Trial]:
    """Two processes that build the same database at the same time."""
    for _ in bench.some(range(25)):
        path = bench.target()
        children = [bench.build(path)]
        children[0].wait_for("command", bench.draw.uniform(0, 0.5))
        children.append(bench.build(path))
        endings = [child.ending() for child in children]
        wrong = [e for e in endings if not (e.finished or e.refused)]
        if wrong or all(e.refused for e in endings):
            yield Trial("two writers", WRONG, str((wrong or endings)[0]))
        else:
            yield bench.again("two writers", path)


def damaged_shards(bench: Bench) -> Iterator[Trial]:
    """Shards of an interrupted build that are damaged before it goes on."""
    for kind in bench.some(("emptied", "truncated", "with a changed bit", "removed"), 2):
        for _ in bench.some(range(10)):
            path = bench.target()
            child = bench.build(path)
            child.wait_for("relate" if bench.draw.random() < 0.5 else "merge")
            child.send(signal.SIGKILL)
            child.ending()
            shards = sorted((path / "partial").glob("*.safetensors"))
            if not shards:
                shutil.rmtree(path, ignore_errors=True)
                continue
            shard = shards[int(bench.draw.integers(len(shards)))]
            data = bytearray(shard.read_bytes())
            if kind == "removed":
                shard.unlink()
            elif kind == "with a changed bit":
                data[int(bench.draw.integers(len(data)))] ^= 1 << int(bench.draw.integers(8))
                shard.write_bytes(data)
            else:
                shard.write_bytes(data[: len(data) // 2] if kind == "truncated" else b"")
            yield bench.again(f"a shard {kind}", path)


def read_only(bench: Bench) -> Iterator[Trial]:
    """Ask, and extend, a database on a file system that cannot be written."""
    path = bench.target(bench.whole)
    questions = bench.inputs.questions(path, bench.picture)
    questions |= bench.inputs.keeping_questions(path, bench.picture.parent)
    questions = dict(bench.some(list(questions.items()), 3))
    expected = dict[str, Ending]()
    for name, question in questions.items():
        expected[name] = run(question)
        shutil.rmtree(path / "analysis", ignore_errors=True)  # none has results of another
    if may_mount():
        bind = [["mount", "--bind", path, path], ["mount", "-o", "remount,ro,bind", path]]
        undo: Callable[[], object] = partial(subprocess.run, ["umount", path], check=True)
        for arguments in bind:
            subprocess.run(arguments, check=True)  # noqa: S603
    else:
        folders = [path, *(p for p in path.rglob("*") if p.is_dir())]
        undo = lambda: [folder.chmod(0o755) for folder in folders]  # noqa: E731
        for folder in folders:
            folder.chmod(0o555)
    try:
        for name, question in questions.items():
            yield judge("a read-only folder", name, run(question), expected[name])
        ending = run(bench.inputs.build(path, ["first", "second", "head"]))
        outcome = REFUSED if ending.refused else WRONG
        yield Trial("a read-only folder", outcome, str(ending))
    finally:
        undo()
