"""Planted worlds with known meanings, and measures of labels on them."""
