"""The concept database on disk; the only package that writes database files."""
