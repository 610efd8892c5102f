"""Hostile inputs of every reader; a reader that is not fuzzed is a fault of its own."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cases.faults.trials import REFUSED, RIGHT, WRONG, Bench, Trial

INPUTS, FEW = 20, 3
"""Inputs that are drawn for each reader, besides those that are always tried."""


def hostile_inputs(bench: Bench) -> Iterator[Trial]:
    """Give each reader its inputs: each must be read or refused, in bounded time and memory."""
    from benchmarks.cases.fuzz import benchmark as fuzz

    known = fuzz.readers(bench.target())
    for name in fuzz.without_fuzzing(known):
        yield Trial("a reader without fuzzing", WRONG, f"{name}: {fuzz.NOT_FUZZED}")
    outcomes = {fuzz.READ: RIGHT, fuzz.REFUSED: REFUSED}
    for name, reader in known.items():
        attempts: list[fuzz.Attempt] = []
        fuzz.fuzz(reader, FEW if bench.extent.sampled else INPUTS, attempts.append)
        for one in attempts:
            outcome = outcomes.get(one.outcome, WRONG)
            yield Trial(f"hostile input: {name}", outcome, f"{name}: {one.detail}")
    fuzz.finish_jobs()
