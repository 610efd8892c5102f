"""Where the command starts, before anything heavy is loaded."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line.

    OpenMP reads its settings when torch is loaded. By default its threads wait by spinning,
    which takes the cores from the threads that decode images: with the two at work on two
    busy cores, embedding was four to nine times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from semlens.cli.app import app

    app()
