"""Tests and intervals that lenses share, each with its source."""
