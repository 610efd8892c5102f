"""``python -m semlens.cli``."""

from semlens.cli.start import main

main()
