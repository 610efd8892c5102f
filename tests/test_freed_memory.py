"""Memory that batches free is kept during a build, and returned after it."""

from __future__ import annotations

import multiprocessing
import platform
import resource
from pathlib import Path

import pytest
import torch

from semlens.run.executors.executor import Inputs, ThisProcess, freed_memory_kept

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
SIZE = 64 * 2**20
REUSED = 16  # page faults; 32 with the largest pages, 16,384 with the smallest


def faults_of_a_batch() -> int:
    """Return the page faults of an array of 64 MiB that is written and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(SIZE, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def least_faults() -> int:
    """Return the fewest page faults of several batches: small arrays may take a part of a place."""
    return min(faults_of_a_batch() for _ in range(8))


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize()


def _block_by_block() -> None:
    assert least_faults() > REUSED
    with freed_memory_kept():
        assert least_faults() < REUSED
        kept = resident()
    assert kept - resident() > SIZE / 2
    assert faults_of_a_batch() > REUSED  # later ones may find the place in the heap


def _build_that_fails() -> None:
    inputs = object.__new__(Inputs)  # no task reads them
    with pytest.raises(RuntimeError, match="stop"), ThisProcess(1).start(inputs):
        assert least_faults() < REUSED
        kept = resident()
        raise RuntimeError("stop")
    assert kept - resident() > SIZE / 2
    assert faults_of_a_batch() > REUSED


@pytest.mark.parametrize("scenario", [_block_by_block, _build_that_fails])
def test_memory_is_kept_within_the_block_and_returned_after_it(scenario):
    """In a process of its own: tests of workers keep memory for good."""
    process = multiprocessing.get_context("spawn").Process(target=scenario)
    process.start()
    process.join()
    assert process.exitcode == 0
