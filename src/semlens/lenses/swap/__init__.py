"""Swaps: parts of a class's images, pasted onto images of other classes."""
