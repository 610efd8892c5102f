"""What models share and what only one of them has."""
