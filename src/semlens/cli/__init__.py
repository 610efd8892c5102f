"""The command line: a thin shell with tables for people and JSON for programs."""
