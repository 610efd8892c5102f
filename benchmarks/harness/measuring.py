"""Turns and ratios, clocks, and memory: how benchmarks measure."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks.harness.printing import log

Measurement = dict[str, float]
"""Measurement of one part in one round: seconds, cpu_seconds, memory."""
Round = dict[str, Measurement]
"""Measurements of all parts in one round."""


def in_turns(parts: Mapping[str, Callable[[], Measurement]], rounds: int) -> Iterator[Round]:
    """Run all parts once per round; each round starts with the next part."""
    names = list(parts)
    for number in range(rounds):
        first = number % len(names)
        times = {name: parts[name]() for name in names[first:] + names[:first]}
        text = ", ".join(f"{name} {part['seconds']:.4g}" for name, part in times.items())
        log(f"round {number + 1}, seconds: {text}")
        yield times


def ratio(
    rounds: Sequence[Round],
    numerator: Sequence[str],
    denominator: Sequence[str],
    key: str = "seconds",
) -> float | None:
    """Return the median over rounds of the ratio of sums; None if a part was not run."""
    if not rounds or not {*numerator, *denominator} <= set(rounds[0]):
        return None
    return statistics.median(
        sum(times[part][key] for part in numerator) / sum(times[part][key] for part in denominator)
        for times in rounds
    )


def median(rounds: Sequence[Round], part: str, key: str = "seconds") -> float:
    """Return the median over rounds of a part's measurement."""
    return statistics.median(times[part][key] for times in rounds)


def largest(rounds: Sequence[Round], part: str, key: str) -> float:
    """Return the maximum over rounds of a part's measurement."""
    return max(times[part][key] for times in rounds)


class Clock:
    """Total wall-clock and CPU seconds of all ``with clock`` blocks.

    CPU seconds include child processes that have ended.

    Parameters
    ----------
    synchronize
        Called before the clock is read, to wait for asynchronous work.
    """

    def __init__(self, synchronize: Callable[[], object] = lambda: None) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self._synchronize = synchronize

    def __enter__(self) -> Self:
        self._synchronize()
        self._started = time.perf_counter(), self._cpu()
        return self

    def __exit__(self, *_: object) -> None:
        self._synchronize()
        self.seconds += time.perf_counter() - self._started[0]
        self.cpu_seconds += self._cpu() - self._started[1]

    @staticmethod
    def _cpu() -> float:
        used = os.times()
        return time.process_time() + used.children_user + used.children_system

    def read(self, count: int = 1) -> Measurement:
        """Return the seconds per result."""
        return {"seconds": self.seconds / count, "cpu_seconds": self.cpu_seconds / count}


class StageClock:
    """Wall-clock and CPU seconds of each stage of a build, told apart by its progress reports.

    What lies between two reports counts for the second one's stage, and what comes after the last
    as ``finish``. Crops are found and embedded in turns.
    """

    def __init__(self) -> None:
        self._stages: dict[str, Clock] = {}
        self._since = Clock()
        self._since.__enter__()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take a progress report."""
        self._since.__exit__()
        of_stage = self._stages.setdefault(stage, Clock())
        of_stage.seconds += self._since.seconds
        of_stage.cpu_seconds += self._since.cpu_seconds
        self._since = Clock()
        self._since.__enter__()

    def read(self) -> Measurement:
        """Return ``STAGE/seconds`` and ``STAGE/cpu_seconds``."""
        self("finish", 1, 1)
        return {
            f"{stage}/{key}": value
            for stage, clock in self._stages.items()
            for key, value in clock.read().items()
        }


class Meter:
    """A clock, and the peak memory since its creation: resident, or of the GPU's allocator."""

    def __init__(self, device: str) -> None:
        self._gpu: Any = None
        gc.collect()
        if device != "cpu":
            import torch

            self._gpu = torch.cuda
            self._gpu.reset_peak_memory_stats()
            self._before = self._gpu.memory_allocated() / 2**20
        else:
            reset_peak()
            self._before = memory_mib("VmRSS")
        self.clock = Clock(self._gpu.synchronize) if self._gpu else Clock()

    def read(self, count: int) -> Measurement:
        """Return the seconds per result and the peak memory.

        ``extra_mib`` is the peak minus the memory in use before.
        """
        peak = self._gpu.max_memory_allocated() / 2**20 if self._gpu else peak_mib()
        times = self.clock.read(count)
        return {"count": count, **times, "peak_mib": peak, "extra_mib": peak - self._before}


def memory_mib(name: str, process: int | str = "self") -> float:
    """Read a memory counter of a Linux process; 0 on other systems."""
    status = Path(f"/proc/{process}/status")
    if not status.is_file():
        return 0.0
    lines = status.read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / 1024


def peak_mib() -> float:
    """Return the peak resident memory of this process.

    Linux's counter is preferred: ``ru_maxrss`` includes the parent process before ``exec``.
    """
    return memory_mib("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reset_peak() -> None:
    """Release freed memory, and reset Linux's peak counter if permitted."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", "utf-8")
    except (AttributeError, OSError):
        pass
