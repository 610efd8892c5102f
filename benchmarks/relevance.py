"""How fast heatmaps of single components are, beside zennit-crp 0.6 and beside plain gradients.

    python benchmarks/relevance.py [--json] [--quick] [--rounds 3] [--work FOLDER] ...

All sides stay up in processes of their own and take turns in every round, in an order that
changes from round to round; ratios are taken within a round, and their median is reported. CPU
seconds, which other work on the machine disturbs less, are reported beside the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from relevance_inputs import LAYERS, Settings, load_pairs, prepare
from relevance_worker import Worker
from safetensors.torch import load_file
from surroundings import machine, reference_python

HERE = Path(__file__).parent
REFERENCE = "zennit-crp==0.6.0"
SIDES = ("ours", "ideal", "reference")
STAGES = {"last": ("layer4",), "middle": ("layer3",), "first": ("layer1", "layer2")}
GPU_PRECISIONS = ("tf32", "bf16")

Found = dict[str, dict[str, float]]
"""What each part of a round measured."""


def start(settings: Settings, sides: list[str], python: Path | None) -> dict[str, Worker]:
    """Start the sides."""
    path = settings.write()
    workers: dict[str, Worker] = {}
    for side in sides:
        if side == "reference":
            script, arguments, runner = "relevance_reference.py", [path], python
        else:
            script, arguments, runner = "relevance_parts.py", [side, path], Path(sys.executable)
        if runner is None:
            raise ValueError("The reference needs an environment of its own.")
        workers[side] = Worker(runner, HERE / script, *arguments, threads=settings.threads)
    return workers


def steps(workers: dict[str, Worker], layer: str) -> list[Callable[[], Found]]:
    """Return what is run for a layer in each round, a list entry for each turn."""

    def side(name: str) -> Callable[[], Found]:
        def run() -> Found:
            worker = workers[name]
            return {name: worker.ask("run", layer=layer), f"{name}, boxes": worker.ask("bound")}

        return run

    found: list[Callable[[], Found]] = []
    if "ours" in workers:
        found.append(side("ours"))
    if "ideal" in workers:
        found.append(lambda: {"ideal": workers["ideal"].ask("run", layer=layer)})
    if "reference" in workers:
        reference = workers["reference"]
        found.append(lambda: {"reference, 32": reference.ask("run", layer=layer, mixed=True)})
        found.append(side("reference"))
    return found


def measure(settings: Settings, workers: dict[str, Worker], layer: str, rounds: int) -> list[Found]:
    """Run all sides ``rounds`` times on the pairs of a layer."""
    for worker in workers.values():
        worker.ask("load", layer=layer)
    found: list[Found] = []
    turns = steps(workers, layer)
    for number in range(rounds):
        turn = number % len(turns)
        one: Found = {}
        for run in turns[turn:] + turns[:turn]:
            one |= run()
        found.append(one)
        text = ", ".join(f"{part} {1000 * of['seconds']:.1f}" for part, of in one.items())
        print(
            f"{settings.architecture} {layer}, round {number + 1}, ms per pair: {text}",
            file=sys.stderr,
        )
    return found


def classes(workers: dict[str, Worker], rounds: int) -> list[Found]:
    """Run class relevance ``rounds`` times, after a run that is not kept."""
    targets = workers["ideal"].ask("targets")["targets"]
    found: list[Found] = []
    for number in range(rounds + 1):
        turn = number % len(workers)
        order = [*workers][turn:] + [*workers][:turn]
        found.append({side: workers[side].ask("classes", targets=targets) for side in order})
    return found[1:]


def ratio(rounds: list[Found], above: tuple[str, ...], below: tuple[str, ...],
          measure: str = "seconds") -> float | None:  # fmt: skip
    """Return the median over rounds of parts' time over others' (None: one was left out)."""
    if not {*above, *below} <= set(rounds[0]):
        return None
    return statistics.median(
        sum(one[part][measure] for part in above) / sum(one[part][measure] for part in below)
        for one in rounds
    )


def layer_table(rounds: list[Found]) -> dict[str, Any]:
    """Summarise a layer."""
    kinds = {
        "reference_over_ours": (("reference",), ("ours",)),
        "reference_at_32_over_ours": (("reference, 32",), ("ours",)),
        "reference_over_ours_with_boxes": (
            ("reference", "reference, boxes"),
            ("ours", "ours, boxes"),
        ),
        "boxes_reference_over_ours": (("reference, boxes",), ("ours, boxes",)),
        "ours_over_ideal": (("ours",), ("ideal",)),
        "reference_over_ideal": (("reference",), ("ideal",)),
        "reference_at_32_over_ideal": (("reference, 32",), ("ideal",)),
    }

    def ratios(measure: str) -> dict[str, float]:
        values = {kind: ratio(rounds, *parts, measure) for kind, parts in kinds.items()}
        return {kind: value for kind, value in values.items() if value is not None}

    def median(part: str, measure: str) -> float:
        return statistics.median(one[part][measure] for one in rounds)

    parts = {
        part: {
            "ms_per_pair": 1000 * median(part, "seconds"),
            "cpu_ms_per_pair": 1000 * median(part, "cpu_seconds"),
            "pairs_per_second": 1 / median(part, "seconds"),
            "pairs": rounds[0][part]["count"],
            "peak_mib": max(one[part]["peak_mib"] for one in rounds),
            "extra_mib": max(one[part]["extra_mib"] for one in rounds),
        }
        for part in rounds[0]
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
    largest = theirs["heat"].abs().amax((1, 2))
    apart = (ours["heat"] - theirs["heat"]).abs().amax((1, 2)) / largest
    pixels = (ours["boxes"] - theirs["boxes"]).abs().amax(1)
    return {
        "largest_difference": float(apart.max()),
        "median_difference": float(apart.median()),
        "identical_boxes": float((pixels == 0).double().mean()),
        "largest_box_difference_pixels": int(pixels.max()),
    }


def table(settings: Settings, sides: list[str], rounds: int, python: Path | None) -> dict[str, Any]:
    """Measure one network on one device, at one precision."""
    prepare(settings)
    workers = start(settings, sides, python)
    layers: dict[str, Any] = {}
    agreements: dict[str, Any] = {}
    pairs = settings.components * settings.examples
    try:
        for layer in settings.layers:
            images = len(load_pairs(settings, layer).image.unique())
            found = measure(settings, workers, layer, rounds)
            layers[layer] = {"images": images, **layer_table(found)}
            if {"ours", "reference"} <= set(workers):
                agreements[layer] = agreement(workers, Path(settings.work))
        by_class = classes(workers, rounds) if "ideal" in workers else []
    finally:
        for worker in workers.values():
            worker.close()
    result: dict[str, Any] = {"pairs": pairs, **stages(layers)}
    for side in ("ours", "reference"):
        name = "class_relevance_over_plain" if side == "ours" else "reference_classes_over_plain"
        value = ratio(by_class, (side,), ("ideal",)) if by_class else None
        if value is not None:
            result[name] = value
            result["by_cpu_time"][name] = ratio(by_class, (side,), ("ideal",), "cpu_seconds")
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


def benchmark(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure on the CPU, and on a GPU when one is at hand."""
    settings = Settings(
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
    described = machine()
    python = reference_python(work / "crp-env", REFERENCE) if "reference" in sides else None
    result: dict[str, Any] = {
        "benchmark": "relevance",
        "quick": options.quick,
        "machine": {**described, "torch_threads": settings.threads},
        "settings": {
            "model": f"torchvision/{settings.architecture}, random weights",
            "size": settings.size,
            "components": settings.components,
            "examples": settings.examples,
            "rounds": rounds,
        },
    }
    if not options.no_cpu:
        result |= table(settings, sides, rounds, python)
    if torch.cuda.is_available() and not options.quick:
        result["gpu"] = {"device": torch.cuda.get_device_name()}
        for precision in GPU_PRECISIONS:
            # zennit-crp has no bf16 of its own: it is measured in tf32 alone
            used = [side for side in sides if side != "reference" or precision == "tf32"]
            gpu = replace(
                settings, architecture="resnet50", device="cuda", precision=precision,
                count=400, components=32, examples=16,
            )  # fmt: skip
            result["gpu"][precision] = table(gpu, used, rounds, python)
    return result


def show(found: dict[str, Any], title: str) -> None:
    """Print a table for people."""
    images = ", ".join(f"{name} on {of['images']}" for name, of in found["layers"].items())
    print(f"{title}: {found['pairs']} pairs; {images} images")
    head = ("ms/pair", "CPU ms", "pairs/s", "peak MiB", "extra")
    print(f"{'':24}" + "".join(f"{name:>10}" for name in head))
    for layer, values in found["layers"].items():
        for part, of in values["parts"].items():
            cells = (of["ms_per_pair"], of["cpu_ms_per_pair"], of["pairs_per_second"])
            row = "".join(f"{cell:10.2f}" for cell in cells)
            print(f"{layer:7}{part:17}{row}{of['peak_mib']:10.0f}{of['extra_mib']:10.0f}")
        for kind, value in values.items():
            if kind not in ("images", "parts", "by_cpu_time"):
                of_cpu = values["by_cpu_time"][kind]
                print(f"{layer:7}{kind.replace('_', ' ')}: {value:.2f} (by CPU {of_cpu:.2f})")
    for kind in ("ratios", "ratios_at_32", "ideal"):
        cells = ", ".join(f"{stage} {value:.2f}" for stage, value in found[kind].items())
        print(f"{kind.replace('_', ' ')}: {cells or 'not measured'}")
    for kind in ("class_relevance_over_plain", "reference_classes_over_plain"):
        if kind in found:
            print(f"{kind.replace('_', ' ')}: {found[kind]:.2f}")
    for layer, values in found["agreement"].items():
        cells = ", ".join(f"{name.replace('_', ' ')} {value:.2g}" for name, value in values.items())
        print(f"{layer} agreement: {cells}")


def main() -> None:
    """Read the options, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="tiny run, no reference")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=100, help="how many images to choose from")
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--examples", type=int, default=8, help="images for each component")
    parser.add_argument("--layers", default=",".join(reversed(LAYERS)))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sides", default=",".join(SIDES), help="which sides to run")
    parser.add_argument("--no-cpu", action="store_true", help="only the GPU's tables")
    parser.add_argument("--work", type=Path, help="keep inputs, heatmaps and environments here")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        result = benchmark(options, work)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    if "layers" in result:
        show(result, "CPU")
    for precision in GPU_PRECISIONS:
        if precision in result.get("gpu", {}):
            show(result["gpu"][precision], f"\n{result['gpu']['device']}, {precision}")


if __name__ == "__main__":
    main()
