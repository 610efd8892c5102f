"""Entry point of the ``semlens`` command; imports nothing heavy."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line.

    OpenMP reads its settings when torch is loaded. By default its idle threads spin, which takes
    CPU time from the threads that decode images: on two busy cores embedding was four to nine
    times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        from semlens.cli.app import app

        app()
    except KeyboardInterrupt:  # while the libraries are loaded, before there is a command
        sys.exit(130)
