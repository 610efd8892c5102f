"""Make the planted worlds of labels, and the units of known content that are judged on them.

    python -m benchmarks label_worlds --work W [--cache DIR] [--worlds NAME ...]

draws the worlds, trains the subjects, builds a database of each with each embedder, and writes the
units. What a killed run has made is kept. ``units`` in the result has the number of units by world.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.harness import benchmark
from benchmarks.worlds.cache import default_cache
from benchmarks.worlds.labelled.scenes import EMBEDDERS, WORLDS
from benchmarks.worlds.labelled.worlds import load_units, make_all

OPTIONS: dict[str, dict[str, Any]] = {
    "--cache": {"type": Path, "help": "by default a folder in the user's cache"},
    "--worlds": {"nargs": "+", "choices": [spec.name for spec in WORLDS], "help": "only these"},
    "--embedders": {"default": ",".join(EMBEDDERS), "help": "SPECs"},
}


@benchmark(minutes=60, quoted=("docs/labelling.md",), options=OPTIONS)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Make all units."""
    chosen = [spec for spec in WORLDS if not options.worlds or spec.name in options.worlds]
    chosen = chosen[: 1 if options.quick else None]
    cache = options.cache or default_cache().with_name("labels")
    embedders = options.embedders.split(",")
    make_all(chosen, embedders, cache, work)
    return {
        "units": {
            f"{spec.name}, {embedder}": sum(
                len(units.right) for units in load_units(spec, embedder, cache, work)
            )
            for spec in chosen
            for embedder in embedders
        }
    }
