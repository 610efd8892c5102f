"""How long semlens takes to start: each command beside a bare import of what it cannot do without.

    python -m benchmarks start --work FOLDER --json   # keeps the demo's database for the next run

A search is from the command to its end: imports, opening the demo's database, reading its index,
embedding the text, and comparing the alignments with noise. The first search of a database, which
computes more, is not measured.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Clock, Measurement, benchmark, in_turns, median, ratio
from benchmarks.worlds.demo import demo_database

BARE = ("-c", "import torch, pandas")


@benchmark(minutes=3, quoted=("docs/installation.md", "benchmarks/README.md"), rounds=5)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Build the demo's database if it is missing, and run each command in turn."""
    path = demo_database(work).path
    command = str(shutil.which("semlens", path=str(Path(sys.executable).parent)))
    commands = {
        "python": (sys.executable, "-c", ""),
        "import torch and pandas": (sys.executable, *BARE),
        "import semlens": (sys.executable, "-c", "import semlens"),
        "semlens --help": (command, "--help"),
        "semlens search": (command, "search", str(path), "letters"),
    }
    for one in commands.values():  # the first run writes bytecode and fills caches
        subprocess.run(one, capture_output=True, check=True)
    rounds = list(
        in_turns(
            {name: partial(run, one) for name, one in commands.items()},
            1 if options.quick else options.rounds,
        )
    )
    return {
        "parts": {
            name: {key: median(rounds, name, key) for key in ("seconds", "cpu_seconds")}
            for name in commands
        },
        "search_over_bare": ratio(rounds, ["semlens search"], ["import torch and pandas"]),
    }


def run(arguments: tuple[str, ...]) -> Measurement:
    """Measure a command from its start to its end."""
    with Clock() as clock:
        subprocess.run(arguments, capture_output=True, check=True)
    return clock.read()
