"""The command line interface: tables for people, JSON for programs."""
