"""``python -m semlens.cli``."""

from semlens.cli.main import main

main()
