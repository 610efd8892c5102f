"""The concept database on disk: the only room that writes files."""
