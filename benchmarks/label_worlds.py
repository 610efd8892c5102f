"""Make the planted worlds of labels, and the units of known content that are judged on them.

    python benchmarks/label_worlds.py --work W [--cache DIR] [--worlds NAME ...]

draws the worlds, trains the subjects, builds a database of each with each embedder, and writes the
units. What a killed run has made is kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from labelling.specs import EMBEDDERS, WORLDS
from labelling.worlds import make_all
from planted_cache import default_cache


def main() -> None:
    """Make all units."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of the source pictures")
    parser.add_argument("--cache", type=Path, help="by default a folder in the user's cache")
    parser.add_argument("--worlds", nargs="+", choices=[spec.name for spec in WORLDS])
    parser.add_argument("--embedders", default=",".join(EMBEDDERS), help="SPECs")
    options = parser.parse_args()
    chosen = [spec for spec in WORLDS if not options.worlds or spec.name in options.worlds]
    cache = options.cache or default_cache().with_name("labels")
    make_all(chosen, options.embedders.split(","), cache, options.work)


if __name__ == "__main__":
    main()
