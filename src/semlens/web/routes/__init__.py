"""The questions that a page asks, one file per page."""
