"""The demo's database, built once in a work folder."""

from __future__ import annotations

from pathlib import Path

import semlens as sl
from semlens.demo.bundled_images import DemoWorld
from semlens.demo.walkthrough import build_demo


def demo_database(work: Path, world: DemoWorld | None = None) -> sl.ConceptDatabase:
    """Open the database in ``demo/`` of a work folder, or build it there if it is missing."""
    path = work / "demo" / "demo.semlens"
    return sl.open(path) if path.is_dir() else build_demo(path.parent, world or DemoWorld())
