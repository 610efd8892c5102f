"""How fast heatmaps of single components are, beside zennit-crp 0.6 and beside plain gradients.

    python benchmarks/relevance.py [--json] [--quick] [--rounds 3] [--work FOLDER] ...

All sides stay up in processes of their own and take turns in every round; ratios are taken within
a round, and their median is reported.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
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
    tell,
)
from relevance_inputs import LAYERS, Inputs, load_pairs, prepare
from safetensors.torch import load_file

HERE = Path(__file__).parent
REFERENCE = "zennit-crp==0.6.0"
SIDES = ("ours", "ideal", "reference")
STAGES = {"last": ("layer4",), "middle": ("layer3",), "first": ("layer1", "layer2")}
GPU_PRECISIONS = ("tf32", "bf16")
RATIOS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "reference_over_ours": (("reference",), ("ours",)),
    "reference_at_32_over_ours": (("reference, 32",), ("ours",)),
    "reference_over_ours_with_boxes": (("reference", "reference, boxes"), ("ours", "ours, boxes")),
    "boxes_reference_over_ours": (("reference, boxes",), ("ours, boxes",)),
    "ours_over_ideal": (("ours",), ("ideal",)),
    "reference_over_ideal": (("reference",), ("ideal",)),
    "reference_at_32_over_ideal": (("reference, 32",), ("ideal",)),
}
"""What is divided by what."""

OPTIONS: dict[str, dict[str, Any]] = {
    "--count": {"type": int, "default": 100, "help": "how many images to choose from"},
    "--components": {"type": int, "default": 16},
    "--examples": {"type": int, "default": 8, "help": "images for each component"},
    "--layers": {"default": ",".join(reversed(LAYERS))},
    "--threads": {"type": int, "default": 1},
    "--sides": {"default": ",".join(SIDES), "help": "which sides to run"},
    "--no-cpu": {"action": "store_true", "help": "only the GPU's tables"},
}


def start(inputs: Inputs, side: str, python: Path | None) -> Worker:
    """Start a side."""
    path = inputs.write()
    if side != "reference":
        return Worker(HERE / "relevance_parts.py", side, path, threads=inputs.threads)
    script = HERE / "relevance_reference.py"
    return Worker(script, path, python=python, threads=inputs.threads)


def measure_layer(workers: dict[str, Worker], layer: str, rounds: int) -> list[Round]:
    """Run all sides ``rounds`` times on the pairs of a layer, each with its boxes right after."""

    def with_boxes(side: str) -> Measured:
        heat = workers[side].ask("run", layer=layer)
        boxes[side] = workers[side].ask("bound")
        return heat

    boxes: Round = {}
    parts: dict[str, Callable[[], Measured]] = {}
    for side, worker in workers.items():
        worker.ask("load", layer=layer)
        if side == "reference":
            parts["reference, 32"] = partial(worker.ask, "run", layer=layer, mixed=True)
        plain = partial(worker.ask, "run", layer=layer)
        parts[side] = plain if side == "ideal" else partial(with_boxes, side)
    return [
        {**one, **{f"{side}, boxes": found for side, found in boxes.items()}}
        for one in in_turns(parts, rounds)
    ]


def measure_classes(workers: dict[str, Worker], rounds: int) -> list[Round]:
    """Run class relevance ``rounds`` times, after a run that is not kept."""
    targets = workers["ideal"].ask("targets")["targets"]
    parts = {side: partial(one.ask, "classes", targets=targets) for side, one in workers.items()}
    return list(in_turns(parts, rounds + 1))[1:]


def layer_table(rounds: Sequence[Round]) -> dict[str, Any]:
    """Summarise a layer."""

    def ratios(key: str) -> dict[str, float]:
        values = {kind: ratio(rounds, *parts, key) for kind, parts in RATIOS.items()}
        return {kind: value for kind, value in values.items() if value is not None}

    parts = {
        part: {
            "ms_per_pair": 1000 * median(rounds, part),
            "cpu_ms_per_pair": 1000 * median(rounds, part, "cpu_seconds"),
            "pairs_per_second": 1 / median(rounds, part),
            "pairs": first["count"],
            "peak_mib": largest(rounds, part, "peak_mib"),
            "extra_mib": largest(rounds, part, "extra_mib"),
        }
        for part, first in rounds[0].items()
    }
    return {"parts": parts, **ratios("seconds"), "by_cpu_time": ratios("cpu_seconds")}


def agreement(workers: dict[str, Worker], work: Path) -> dict[str, float]:
    """Compare the heatmaps and boxes that the last round left with the reference's."""
    found = {}
    for side in ("ours", "reference"):
        path = work / f"{side}.safetensors"
        workers[side].ask("save", path=str(path))
        found[side] = load_file(path)
    ours, theirs = found["ours"], found["reference"]
    most = theirs["heat"].abs().amax((1, 2))
    apart = (ours["heat"] - theirs["heat"]).abs().amax((1, 2)) / most
    pixels = (ours["boxes"] - theirs["boxes"]).abs().amax(1)
    return {
        "largest_difference": float(apart.max()),
        "median_difference": float(apart.median()),
        "identical_boxes": float((pixels == 0).double().mean()),
        "largest_box_difference_pixels": int(pixels.max()),
    }


def measure_network(
    inputs: Inputs, sides: Sequence[str], rounds: int, python: Path | None
) -> dict[str, Any]:
    """Measure one network on one device, at one precision."""
    prepare(inputs)
    layers: dict[str, Any] = {}
    agreements: dict[str, Any] = {}
    with ExitStack() as stack:
        workers = {side: stack.enter_context(start(inputs, side, python)) for side in sides}
        for layer in inputs.layers:
            tell(f"{inputs.architecture} {layer}, per pair")
            images = len(load_pairs(inputs, layer).image.unique())
            found = measure_layer(workers, layer, rounds)
            layers[layer] = {"images": images, **layer_table(found)}
            if {"ours", "reference"} <= set(workers):
                agreements[layer] = agreement(workers, Path(inputs.work))
        by_class = measure_classes(workers, rounds) if "ideal" in workers else []
    result: dict[str, Any] = {"pairs": inputs.components * inputs.examples, **stages(layers)}
    names = {"ours": "class_relevance_over_plain", "reference": "reference_classes_over_plain"}
    for side, name in names.items():
        value = ratio(by_class, [side], ["ideal"])
        if value is not None:
            result[name] = value
            result["by_cpu_time"][name] = ratio(by_class, [side], ["ideal"], "cpu_seconds")
    return {**result, "layers": layers, "agreement": agreements}


def stages(layers: dict[str, Any]) -> dict[str, Any]:
    """Return the ratios by stage; of several layers, the one that is worst for us."""

    def worst(kind: str, choose: Callable[[list[float]], float], where: Any) -> dict[str, float]:
        values = {
            stage: [where(layers[name])[kind] for name in names
                    if name in layers and kind in where(layers[name])]
            for stage, names in STAGES.items()
        }  # fmt: skip
        return {stage: choose(found) for stage, found in values.items() if found}

    def both(where: Any) -> dict[str, Any]:
        return {
            "ratios": worst("reference_over_ours", min, where),
            "ratios_at_32": worst("reference_at_32_over_ours", min, where),
            "ideal": worst("ours_over_ideal", max, where),
        }

    return {
        **both(lambda found: found),
        "by_cpu_time": both(lambda found: found["by_cpu_time"]),
    }


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure on the CPU, and on a GPU when one is at hand."""
    inputs = Inputs(
        architecture="resnet18",
        size=64 if options.quick else 224,
        count=8 if options.quick else options.count,
        components=4 if options.quick else options.components,
        examples=2 if options.quick else options.examples,
        layers=("layer4",) if options.quick else tuple(options.layers.split(",")),
        threads=1 if options.quick else options.threads,
        device="cpu",
        precision="float32",
        work=str(work),
    )
    sides = ["ours", "ideal"] if options.quick else options.sides.split(",")
    rounds = 1 if options.quick else options.rounds
    python = reference_python(work / "crp-env", REFERENCE) if "reference" in sides else None
    result: dict[str, Any] = {
        "benchmark": "relevance",
        "settings": {
            "model": f"torchvision/{inputs.architecture}, random weights",
            "size": inputs.size,
            "components": inputs.components,
            "examples": inputs.examples,
            "threads": inputs.threads,
            "rounds": rounds,
        },
    }
    if not options.no_cpu:
        result |= measure_network(inputs, sides, rounds, python)
    if torch.cuda.is_available() and not options.quick:
        result["gpu"] = {"device": torch.cuda.get_device_name()}
        for precision in GPU_PRECISIONS:
            # zennit-crp has no bf16 of its own: it is measured in tf32 alone
            used = [side for side in sides if side != "reference" or precision == "tf32"]
            gpu = replace(
                inputs, architecture="resnet50", device="cuda", precision=precision,
                count=400, components=32, examples=16,
            )  # fmt: skip
            result["gpu"][precision] = measure_network(gpu, used, rounds, python)
    return result


def show(result: dict[str, Any]) -> None:
    """Print the tables of the CPU and of the GPU."""
    if "layers" in result:
        show_network(result, "CPU")
    gpu = result.get("gpu", {})
    for precision in GPU_PRECISIONS:
        if precision in gpu:
            show_network(gpu[precision], f"\n{gpu['device']}, {precision}")


def show_network(found: dict[str, Any], title: str) -> None:
    """Print what was measured on one device, at one precision."""
    images = ", ".join(f"{name} on {of['images']}" for name, of in found["layers"].items())
    print(f"{title}: {found['pairs']} pairs; {images} images\n")
    keys = ("ms_per_pair", "cpu_ms_per_pair", "pairs_per_second", "peak_mib", "extra_mib")
    rows = [
        (layer, part, *(of[key] for key in keys))
        for layer, values in found["layers"].items()
        for part, of in values["parts"].items()
    ]
    print(table(("layer", "part", *(key.replace("_", " ") for key in keys)), rows), end="\n\n")
    rows = [
        (layer, kind.replace("_", " "), values[kind], values["by_cpu_time"][kind])
        for layer, values in found["layers"].items()
        for kind in RATIOS
        if kind in values
    ]
    print(table(("layer", "ratio", "by time", "by CPU time"), rows), end="\n\n")
    for kind in ("ratios", "ratios_at_32", "ideal"):
        cells = ", ".join(f"{stage} {value:.2f}" for stage, value in found[kind].items())
        print(f"{kind.replace('_', ' ')}: {cells or 'not measured'}")
    for kind in ("class_relevance_over_plain", "reference_classes_over_plain"):
        if kind in found:
            print(f"{kind.replace('_', ' ')}: {found[kind]:.2f}")
    for layer, values in found["agreement"].items():
        cells = ", ".join(f"{name.replace('_', ' ')} {value:.2g}" for name, value in values.items())
        print(f"{layer} agreement: {cells}")


if __name__ == "__main__":
    command(__doc__, measure, show, OPTIONS, rounds=3)
