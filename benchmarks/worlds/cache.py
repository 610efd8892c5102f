"""What a killed run keeps: subjects, databases and results, in a folder per world and settings."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import semlens as sl
from benchmarks.harness import ROOT
from benchmarks.worlds.planted import PlantedWorld
from demo_world.decoded import decode
from demo_world.nets import as_subject, load_subject, save_subject
from demo_world.subject import make_net, train_subject
from semlens.demo.bundled_images import MarkedWorld
from semlens.recipe import fingerprint
from semlens.store.atomic_files import write_atomic

SHOWN = ("cli", "draw", "web")
"""Rooms of the package that show results."""


def default_cache() -> Path:
    """Return the benchmark's folder in the user's cache folder."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "semlens" / "planted"


def world_folder(cache: Path, planted: PlantedWorld) -> Path:
    """Return the folder of a world with its current settings."""
    return cache / f"{planted.name}-{planted.settings[:8]}"


def trained_subject(planted: PlantedWorld, world: MarkedWorld, folder: Path) -> sl.SubjectModel:
    """Load the world's subject; train it first if there is none, or make an untrained one."""
    path = folder / "subject.safetensors"
    if not path.is_file():
        if planted.trained:
            with contextlib.redirect_stdout(sys.stderr):
                net = train_subject(decode(world), planted.recipe)
        else:
            torch.manual_seed(planted.seed)
            net = make_net(planted.recipe, len(world.classes))
        write_atomic(path, lambda temporary: save_subject(net, temporary))
    return as_subject(load_subject(path), world.classes, f"python:{planted.name}")


def remembered(path: Path, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result that was saved with the same key; else compute and save it."""
    if path.is_file():
        saved = json.loads(path.read_text("utf-8"))
        if saved["key"] == key:
            return saved["result"]
    text = json.dumps({"key": key, "result": compute()}, indent=1)
    write_atomic(path, lambda temporary: temporary.write_text(text + "\n", "utf-8"))
    return json.loads(text)["result"]


@lru_cache(maxsize=2)
def code_digest(case: str = "planted") -> str:
    """Return a digest of the code and the concept sets that a case depends on, at the start."""
    package = ROOT / "src" / "semlens"
    files = [
        *(p for p in package.rglob("*.py") if p.relative_to(package).parts[0] not in SHOWN),
        *(package / "assets" / "concepts").rglob("*.toml"),
        ROOT / "benchmarks" / "worlds" / f"{case}.py",
        *(ROOT / "benchmarks" / "cases" / case).glob("*.py"),
    ]
    return fingerprint(*(path.read_text("utf-8") for path in sorted(files)))
