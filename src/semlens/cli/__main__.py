"""Run the command line as ``python -m semlens.cli``."""

from semlens.cli.main import main

main()
