"""The report on a class: one self-contained HTML file."""
