"""How long a build takes, beside the bare work it needs and beside semanticlens 0.2.1.

    python benchmarks/build.py [--json] [--quick] [--rounds 3] [--images FOLDER] ...

All parts take turns in each round, every one in a process of its own; ratios are taken within a
round, and their median is reported.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import build_parts
from build_inputs import CLIP, Inputs, make_embedder, make_images, make_subject
from build_parts import BARE, OURS, crops_of, ours
from harness import (
    Measured,
    Round,
    Worker,
    command,
    in_turns,
    largest,
    median,
    ratio,
    reference_python,
    table,
)

import semlens as sl

HERE = Path(__file__).parent
REFERENCE = "semanticlens==0.2.1"
QUICK_PARTS = (*BARE, "none", "activation")
CROPS = ("none", "activation")

OPTIONS: dict[str, dict[str, Any]] = {
    "--images": {"type": Path, "help": "folder of images (default: made here)"},
    "--count": {"type": int, "default": 800, "help": "how many images to make"},
    "--model": {"help": "SPEC of the subject (default: a random ResNet-18)"},
    "--embedder": {"help": "SPEC of the embedder (default: a random open_clip)"},
    "--layers": {"default": "layer3,layer4"},
    "--examples": {"type": int, "default": 3},
    "--batch-size": {"type": int, "default": 32},
    "--threads": {"type": int, "default": min(8, os.cpu_count() or 1)},
    "--no-reference": {"action": "store_true", "help": "leave semanticlens out"},
}


def run_apart(part: str, inputs: Inputs, python: Path | None) -> Measured:
    """Run a part in a process of its own."""
    script = "build_reference.py" if part == "reference" else "build_parts.py"
    runner = python if part == "reference" else None
    with Worker(HERE / script, inputs.write(), python=runner) as worker:
        return worker.ask("run", part=part)


def ratios(rounds: Sequence[Round], key: str = "seconds") -> dict[str, dict[str, float | None]]:
    """Return the medians over rounds of ours over the bare work, and over the reference."""
    variants = [name for name in OURS if name in rounds[0]]
    bare = {name: ("bare-subject", f"bare-{name.partition('+')[0]}") for name in variants}
    return {
        "ours_over_bare": {name: ratio(rounds, [name], bare[name], key) for name in variants},
        "ours_over_reference": {
            name: ratio(rounds, [name], ["reference"], key)
            for name in variants
            if "reference" in rounds[0]
        },
    }


def summary(rounds: Sequence[Round]) -> dict[str, dict[str, Any]]:
    """Return each part's median seconds, all of them, and its largest peak memory."""
    return {
        part: {
            "seconds": median(rounds, part),
            "cpu_seconds": median(rounds, part, "cpu_seconds"),
            "all_seconds": [round(one[part]["seconds"], 2) for one in rounds],
            **{key: largest(rounds, part, key) for key in first if not key.endswith("seconds")},
        }
        for part, first in rounds[0].items()
    }


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Prepare the inputs, run everything and put the result together."""
    count, longest = (16, 160) if options.quick else (options.count, 500)
    default = "semlens/demo" if options.quick else None
    inputs = Inputs(
        model=options.model or default or make_subject(work),
        images=str(options.images or make_images(work, count, longest)),
        embedder=options.embedder or default or make_embedder(work),
        layers=("layer1",) if options.quick else tuple(options.layers.split(",")),
        examples=1 if options.quick else options.examples,
        batch_size=8 if options.quick else options.batch_size,
        threads=options.threads,
        work=str(work),
    )
    for crop in CROPS:
        ours(inputs, crop, work / f"known-{crop}.semlens")
    if options.quick:
        runs = {part: partial(build_parts.run, part, inputs) for part in QUICK_PARTS}
        return _result(inputs, list(in_turns(runs, 1)))
    parts, python = [*BARE, *OURS], None
    if not options.no_reference:
        parts.append("reference")
        python = reference_python(work / "reference-env", REFERENCE)
    runs = {part: partial(run_apart, part, inputs, python) for part in parts}
    return _result(inputs, list(in_turns(runs, options.rounds)))


def _result(inputs: Inputs, rounds: Sequence[Round]) -> dict[str, Any]:
    images = sl.ImageFolder(inputs.images)
    known = {crop: crops_of(Path(inputs.work) / f"known-{crop}.semlens") for crop in CROPS}
    result: dict[str, Any] = {
        "benchmark": "build",
        "images": len(images),
        "referenced_images": len(known["none"]),
        "referenced_share": len(known["none"]) / len(images),
        "unique_crops": {crop: sum(map(len, boxes.values())) for crop, boxes in known.items()},
        "settings": {
            "model": _named(inputs.model, inputs, "torchvision/resnet18"),
            "embedder": _named(inputs.embedder, inputs, f"open_clip/{CLIP}"),
            "layers": inputs.layers,
            "examples": inputs.examples,
            "batch_size": inputs.batch_size,
            "threads": inputs.threads,
            "rounds": len(rounds),
        },
        **ratios(rounds),
        "by_cpu_time": ratios(rounds, "cpu_seconds"),
        "parts": summary(rounds),
    }
    if "reference" in rounds[0]:
        from build_compare import agreement

        result["agreement"] = agreement(inputs)
    return result


def _named(spec: str, inputs: Inputs, made: str) -> str:
    """Return a SPEC without the folder in which the benchmark put weights of its own."""
    return f"{made}, random weights" if inputs.work in spec else spec


def show(result: dict[str, Any]) -> None:
    """Print the result as tables for people."""
    share = f"{result['referenced_images']} referenced ({result['referenced_share']:.0%})"
    print(f"{result['images']} images, {share}; unique crops {result['unique_crops']}\n")
    keys = ("seconds", "cpu_seconds", "peak_rss_mib")
    rows = [(part, *(of[key] for key in keys)) for part, of in result["parts"].items()]
    print(table(("part", "seconds", "CPU s", "peak MiB"), rows, digits=1), end="\n\n")
    kinds = [
        found[kind]
        for kind in ("ours_over_bare", "ours_over_reference")
        for found in (result, result["by_cpu_time"])
    ]
    rows = [(name, *(kind.get(name) for kind in kinds)) for name in result["ours_over_bare"]]
    print(table(("ours", "over bare", "(by CPU)", "over reference", "(by CPU)"), rows))
    for name, value in result.get("agreement", {}).items():
        print(f"{name.replace('_', ' ')}: {value}")


if __name__ == "__main__":
    command(__doc__, measure, show, OPTIONS, rounds=3)
