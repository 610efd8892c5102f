"""What an installation takes on disk, and what each extra adds.

    pip install '.[test]' && python -m benchmarks installed_size

Sizes are those of the files of each package in the running environment. What an extra shares with
the core is counted with the core only.
"""

from __future__ import annotations

import argparse
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.harness import benchmark, table

EXTRAS = ("hf", "open-clip", "photo", "mcp", "notebook", "onnx", "ray", "remote", "test")
NAMED = 2
"""Largest packages that a row names."""


def packages(extra: str = "") -> set[str]:
    """Return the packages that semlens needs in this environment, with or without an extra."""
    queue, done = [("semlens", frozenset({extra}))], set[tuple[str, frozenset[str]]]()
    while queue:
        name, extras = one = queue.pop()
        if one in done:
            continue
        done.add(one)
        for text in distribution(name).requires or []:
            need = Requirement(text)
            environments = [{"extra": extra} for extra in ("", *extras)]
            if need.marker is None or any(map(need.marker.evaluate, environments)):
                queue.append((canonicalize_name(need.name), frozenset(need.extras)))
    return {name for name, _ in done}


def megabytes(name: str) -> float:
    """Return the size of a package's files in 10^6 bytes."""
    files = [Path(str(file.locate())) for file in distribution(name).files or []]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


@benchmark(minutes=1, quoted=("docs/installation.md",))
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Add up the files of the packages of each part."""
    core = packages()
    gpu = {name for name in core if name.startswith(("nvidia-", "cuda-")) or name == "triton"}
    parts = {
        "semlens": {"semlens"},
        "torch's libraries for NVIDIA GPUs": gpu,
        "the other packages it needs": core - gpu - {"semlens"},
        **{f"`semlens[{extra}]` adds": packages(extra) - core for extra in EXTRAS},
    }
    return {
        "parts": {
            title: {name: megabytes(name) for name in names} for title, names in parts.items()
        }
    }


def show(result: dict[str, Any]) -> None:
    """Print a row per part, with its largest packages."""
    rows = []
    for title, sizes in result["parts"].items():
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:NAMED]
        named = ", ".join(f"{name} {sizes[name]:,.0f}" for name in largest)
        rows.append([title, len(sizes), f"{sum(sizes.values()):,.0f}", named])
    print(table(["part", "packages", "MB", "largest"], rows))
