"""``python -m semlens.cli``."""

from semlens.cli.app import main

main()
