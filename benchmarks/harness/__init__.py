"""Shared tools of all benchmarks: registry, rounds, clocks, memory, workers and tables.

The compared parts take turns (:func:`in_turns`) in an order that changes each round, and ratios are
computed within a round (:func:`ratio`). CPU seconds are reported too, because other work on the
machine disturbs them less than wall-clock time. This package is also imported in the references'
environments: it needs only Python, and PyTorch to measure a GPU or describe the machine.
"""

from benchmarks.harness.measuring import (
    Clock,
    Measurement,
    Meter,
    Round,
    StageClock,
    in_turns,
    largest,
    median,
    memory_mib,
    peak_mib,
    ratio,
    reset_peak,
)
from benchmarks.harness.printing import log, table
from benchmarks.harness.registry import ROOT, benchmark, machine
from benchmarks.harness.workers import Settings, Worker, reference_python, serve

__all__ = [
    "ROOT",
    "Clock",
    "Measurement",
    "Meter",
    "Round",
    "Settings",
    "StageClock",
    "Worker",
    "benchmark",
    "in_turns",
    "largest",
    "log",
    "machine",
    "median",
    "memory_mib",
    "peak_mib",
    "ratio",
    "reference_python",
    "reset_peak",
    "serve",
    "table",
]
