"""Correct a model: prune or retrain it, and measure the effect."""
