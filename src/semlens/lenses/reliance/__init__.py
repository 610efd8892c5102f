"""Reliance: whether a target relies on a sign that is inserted into images."""
