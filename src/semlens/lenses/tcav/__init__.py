"""TCAV: how sensitive a class is to concepts that are given by example images."""
