"""Forward passes while the memory of freed arrays is kept, as in a build, and while it is not.

    python -m benchmarks freed_memory [--json] [--quick] [--rounds 3]

Each network runs batches of 32 images in two processes that take turns: with glibc's defaults, and
with memory kept. Ratios are of the second to the first; networks have random weights.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Meter,
    Worker,
    benchmark,
    in_turns,
    largest,
    log,
    median,
    ratio,
    serve,
)

SIDES = ("default", "kept")
NETWORKS = ("resnet18", "tf_efficientnet_lite0", "vit_tiny_patch16_224")
BATCHES = 4
OPTIONS: dict[str, dict[str, Any]] = {"--networks": {"nargs": "+", "default": list(NETWORKS)}}


def run_batches(side: str, network: str, size: int) -> dict[str, Any]:
    """Run a network on some batches, after one that is not timed."""
    import timm
    import torch

    from semlens.run.executors.executor import keep_freed_memory

    if side == "kept":
        keep_freed_memory()
    torch.manual_seed(0)
    module = timm.create_model(network, pretrained=False).eval()
    inputs = torch.randn(32, 3, size, size)
    with torch.inference_mode():
        module(inputs)
        meter = Meter("cpu")
        with meter.clock:
            for _ in range(BATCHES):
                module(inputs)
    return meter.read(BATCHES)


@benchmark(minutes=5, quoted=("benchmarks/README.md",), options=OPTIONS, rounds=3)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run all networks."""
    networks = ["resnet18"] if options.quick else options.networks
    found: dict[str, Any] = {}
    for network in networks:
        log(network)
        with ExitStack() as stack:
            workers = {
                side: stack.enter_context(Worker("benchmarks.cases.freed_memory", side))
                for side in SIDES
            }
            ask = {
                side: partial(worker.ask, "run", network=network, size=64 if options.quick else 224)
                for side, worker in workers.items()
            }
            rounds = list(in_turns(ask, 1 if options.quick else options.rounds))
        found[network] = {
            "kept_over_default": ratio(rounds, ["kept"], ["default"]),
            "by_cpu_time": ratio(rounds, ["kept"], ["default"], "cpu_seconds"),
            **{f"{side}_cpu_seconds": median(rounds, side, "cpu_seconds") for side in SIDES},
            **{f"{side}_peak_mib": largest(rounds, side, "peak_mib") for side in SIDES},
        }
    return {"networks": found}


if __name__ == "__main__":
    serve({"run": partial(run_batches, sys.argv[1])})
