"""Speed of conditional heatmaps: their bound, plain gradients, zennit-crp 0.6 and lxt 2.1.

    python -m benchmarks relevance [--json] [--quick] [--rounds 3] [--work FOLDER] ...

Every side runs in its own process, and all take turns in each round. Ratios are computed within a
round, and their median is reported.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.cases.relevance.inputs import LAYERS, VIT_LAYER, Inputs, load_pairs, prepare
from benchmarks.harness import (
    Measurement,
    Round,
    Worker,
    benchmark,
    in_turns,
    largest,
    log,
    median,
    ratio,
    reference_python,
)

REFERENCE = "zennit-crp==0.6.0"
LXT = ("lxt==2.1", "zennit==0.5.1", "transformers>=4.51,<5")
SIDES = ("ours", "bound", "gradient", "reference", "lxt")
STAGES = {"last": ("layer4",), "middle": ("layer3",), "first": ("layer1", "layer2")}
GPU_PRECISIONS = ("tf32", "bf16")
RATIOS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ours_over_bound": (("ours",), ("bound",)),
    "ours_over_gradient": (("ours",), ("gradient",)),
    "reference_over_ours": (("reference",), ("ours",)),
    "reference_at_32_over_ours": (("reference, 32",), ("ours",)),
    "reference_over_ours_with_boxes": (("reference", "reference, boxes"), ("ours", "ours, boxes")),
    "boxes_reference_over_ours": (("reference, boxes",), ("ours, boxes",)),
    "lxt_over_ours": (("lxt",), ("ours, cp-lrp",)),
}
"""Numerators and denominators of the reported ratios."""

OPTIONS: dict[str, dict[str, Any]] = {
    "--count": {"type": int, "default": 100, "help": "number of images to generate"},
    "--components": {"type": int, "default": 16},
    "--examples": {"type": int, "default": 8, "help": "images per component"},
    "--layers": {"default": ",".join(reversed(LAYERS))},
    "--threads": {"type": int, "default": 1},
    "--sides": {"default": ",".join(SIDES), "help": "sides to run"},
    "--no-cpu": {"action": "store_true", "help": "measure on the GPU only"},
}


def start(inputs: Inputs, side: str, python: Path | None) -> Worker:
    """Start the worker of a side, one of a peer with its Python."""
    path = inputs.write()
    if python is None:
        return Worker("benchmarks.cases.relevance.parts", side, path, threads=inputs.threads)
    return Worker(f"benchmarks.cases.relevance.{side}", path, python=python, threads=inputs.threads)


def measure_layer(workers: dict[str, Worker], layer: str, rounds: int) -> list[Round]:
    """Run all sides ``rounds`` times on the pairs of a layer, each followed by its boxes."""

    def with_boxes(side: str) -> Measurement:
        times = workers[side].ask("run", layer=layer)
        boxes[side] = workers[side].ask("boxes")
        return times

    boxes: Round = {}
    parts: dict[str, Callable[[], Measurement]] = {}
    for side, worker in workers.items():
        worker.ask("load", layer=layer)
        if side == "reference":
            parts["reference, 32"] = partial(worker.ask, "run", layer=layer, mixed=True)
        if side == "lxt":
            parts["ours, cp-lrp"] = partial(workers["ours"].ask, "run", layer=layer, rules="cp-lrp")
        plain = partial(worker.ask, "run", layer=layer)
        parts[side] = partial(with_boxes, side) if side in ("ours", "reference") else plain
    return [
        {**times, **{f"{side}, boxes": box_times for side, box_times in boxes.items()}}
        for times in in_turns(parts, rounds)
    ]


def measure_classes(workers: dict[str, Worker], rounds: int) -> list[Round]:
    """Run class relevance ``rounds`` times, after a warm-up round."""
    targets = workers["gradient"].ask("targets")["targets"]
    parts = {
        side: partial(worker.ask, "classes", targets=targets)
        for side, worker in workers.items()
        if side in ("ours", "gradient", "reference")
    }
    return list(in_turns(parts, rounds + 1))[1:]


def layer_table(rounds: Sequence[Round]) -> dict[str, Any]:
    """Summarize the rounds of a layer."""

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
    """Compare the heatmaps and boxes of the last round with the reference's."""
    outputs = {}
    for side in ("ours", "reference"):
        path = work / f"{side}.safetensors"
        workers[side].ask("save", path=str(path))
        outputs[side] = load_file(path)
    ours, reference = outputs["ours"], outputs["reference"]
    maxima = reference["heat"].abs().amax((1, 2))
    differences = (ours["heat"] - reference["heat"]).abs().amax((1, 2)) / maxima
    pixels = (ours["boxes"] - reference["boxes"]).abs().amax(1)
    return {
        "largest_difference": float(differences.max()),
        "median_difference": float(differences.median()),
        "identical_boxes": float((pixels == 0).double().mean()),
        "largest_box_difference_pixels": int(pixels.max()),
    }


def measure_network(
    inputs: Inputs, sides: Sequence[str], rounds: int, pythons: Mapping[str, Path]
) -> dict[str, Any]:
    """Measure one network on one device, at one precision."""
    prepare(inputs)
    layers: dict[str, Any] = {}
    agreements: dict[str, Any] = {}
    with ExitStack() as stack:
        workers = {
            side: stack.enter_context(start(inputs, side, pythons.get(side))) for side in sides
        }
        for layer in inputs.layers:
            log(f"{inputs.architecture} {layer}, per pair")
            images = len(load_pairs(inputs, layer).image.unique())
            times = measure_layer(workers, layer, rounds)
            layers[layer] = {"images": images, **layer_table(times)}
            if {"ours", "reference"} <= set(workers):
                agreements[layer] = agreement(workers, Path(inputs.work))
        by_class = measure_classes(workers, rounds) if "gradient" in workers else []
    result: dict[str, Any] = {"pairs": inputs.components * inputs.examples, **stages(layers)}
    names = {"ours": "class_relevance_over_plain", "reference": "reference_classes_over_plain"}
    for side, name in names.items():
        value = ratio(by_class, [side], ["gradient"])
        if value is not None:
            result[name] = value
            result["by_cpu_time"][name] = ratio(by_class, [side], ["gradient"], "cpu_seconds")
    return {**result, "layers": layers, "agreement": agreements}


def stages(layers: dict[str, Any]) -> dict[str, Any]:
    """Return the ratios by stage, of the layer that is worst for us."""

    def worst(kind: str, reduce: Callable[[list[float]], float], select: Any) -> dict[str, float]:
        values = {
            stage: [select(layers[name])[kind] for name in names
                    if name in layers and kind in select(layers[name])]
            for stage, names in STAGES.items()
        }  # fmt: skip
        return {stage: reduce(ratios) for stage, ratios in values.items() if ratios}

    def all_kinds(select: Any) -> dict[str, Any]:
        return {
            "ratios": worst("reference_over_ours", min, select),
            "ratios_at_32": worst("reference_at_32_over_ours", min, select),
            "bound": worst("ours_over_bound", max, select),
        }

    return {
        **all_kinds(lambda ratios: ratios),
        "by_cpu_time": all_kinds(lambda ratios: ratios["by_cpu_time"]),
    }


@benchmark(minutes=20, quoted=("benchmarks/README.md",), options=OPTIONS, rounds=3)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure on the CPU, and on a GPU if available."""
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
    sides = ["ours", "bound", "gradient"] if options.quick else options.sides.split(",")
    rounds = 1 if options.quick else options.rounds
    pythons = {
        side: reference_python(work / folder, *requirements)
        for side, folder, requirements in (
            ("reference", "crp-env", (REFERENCE,)), ("lxt", "lxt-env", LXT),
        )
        if side in sides
    }  # fmt: skip
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
    cnn_sides = [side for side in sides if side != "lxt"]
    if not options.no_cpu:
        result |= measure_network(inputs, cnn_sides, rounds, pythons)
        vit = replace(inputs, architecture="vit_tiny", layers=(VIT_LAYER,))
        vit_sides = [side for side in sides if side != "reference"]
        result["vit"] = measure_network(vit, vit_sides, rounds, pythons)
    if torch.cuda.is_available() and not options.quick:
        result["gpu"] = {"device": torch.cuda.get_device_name()}
        for precision in GPU_PRECISIONS:
            # zennit-crp does not support bf16: measured in tf32 only
            gpu_sides = [side for side in cnn_sides if side != "reference" or precision == "tf32"]
            gpu = replace(
                inputs, architecture="resnet50", device="cuda", precision=precision,
                count=400, components=32, examples=16,
            )  # fmt: skip
            result["gpu"][precision] = measure_network(gpu, gpu_sides, rounds, pythons)
    return result
