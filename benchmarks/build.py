"""How long a build takes, beside the bare work it needs and beside semanticlens 0.2.1.

    python benchmarks/build.py [--json] [--quick] [--rounds 3] [--images FOLDER] ...

All parts run one after another in each round, every one in a process of its own, in an order
that turns from round to round; ratios are taken within a round, and their median is reported.
CPU seconds, which other work on the machine disturbs less, are reported beside the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import build_parts
from build_inputs import CLIP, Settings, make_embedder, make_images, make_subject
from build_parts import BARE, OURS, crops_of, ours
from surroundings import machine, reference_python

import semlens as sl

HERE = Path(__file__).parent
REFERENCE = "semanticlens==0.2.1"
QUICK_PARTS = (*BARE, "none", "activation")


def run_part(part: str, settings: Settings, python: Path | None) -> dict[str, float]:
    """Run a part in a process of its own, or (in a smoke run) here."""
    if python is None and part == "reference":
        raise ValueError("The reference needs an environment of its own.")
    if python is None:
        return build_parts.run(part, settings)
    path = Path(settings.work) / "settings.json"
    path.write_text(json.dumps(settings.to_json()), "utf-8")
    ours_or_bare = [HERE / "build_parts.py", part]
    script = [HERE / "build_reference.py"] if part == "reference" else ours_or_bare
    done = subprocess.run([python, *script, path], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"Part '{part}' failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(settings: Settings, parts: list[str], rounds: int, python: Path | None,
            apart: bool) -> list[dict[str, dict[str, float]]]:  # fmt: skip
    """Run all parts ``rounds`` times."""
    found: list[dict[str, dict[str, float]]] = []
    for number in range(rounds):
        turn = number % len(parts)
        one: dict[str, dict[str, float]] = {}
        for part in parts[turn:] + parts[:turn]:
            runner = python if part == "reference" else (Path(sys.executable) if apart else None)
            one[part] = run_part(part, settings, runner)
            print(f"round {number + 1}: {part} {one[part]['seconds']:.1f} s", file=sys.stderr)
        found.append(one)
    return found


def ratios(
    rounds: list[dict[str, dict[str, float]]], measure: str = "seconds"
) -> dict[str, dict[str, float]]:
    """Return the medians over rounds of ours over the bare work, and over the reference."""
    over_bare: dict[str, float] = {}
    over_reference: dict[str, float] = {}
    for variant in (name for name in OURS if name in rounds[0]):
        crops = f"bare-{variant.partition('+')[0]}"
        over_bare[variant] = statistics.median(
            one[variant][measure] / (one["bare-subject"][measure] + one[crops][measure])
            for one in rounds
        )
        if "reference" in rounds[0]:
            over_reference[variant] = statistics.median(
                one[variant][measure] / one["reference"][measure] for one in rounds
            )
    return {"ours_over_bare": over_bare, "ours_over_reference": over_reference}


def summary(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Return each part's median seconds, all of them, and its largest peak memory."""
    return {
        part: {
            "seconds": statistics.median(one[part]["seconds"] for one in rounds),
            "cpu_seconds": statistics.median(one[part]["cpu_seconds"] for one in rounds),
            "all_seconds": [round(one[part]["seconds"], 2) for one in rounds],
            **{
                key: max(one[part][key] for one in rounds)
                for key in rounds[0][part]
                if not key.endswith("seconds")
            },
        }
        for part in rounds[0]
    }


def benchmark(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Prepare the inputs, run everything and put the result together."""
    count, longest = (16, 160) if options.quick else (options.count, 500)
    images = options.images or make_images(work, count, longest)
    default = "semlens/demo" if options.quick else None
    model = options.model or default or make_subject(work)
    embedder = options.embedder or default or make_embedder(work)
    settings = Settings(
        model=model,
        images=str(images),
        embedder=embedder,
        layers=("layer1",) if options.quick else tuple(options.layers.split(",")),
        examples=1 if options.quick else options.examples,
        batch_size=8 if options.quick else options.batch_size,
        threads=options.threads,
        work=str(work),
    )
    described = machine()
    for crop in ("none", "activation"):
        ours(settings, crop, work / f"known-{crop}.semlens")
    python = (
        None
        if options.quick or options.no_reference
        else reference_python(work / "reference-env", REFERENCE)
    )
    parts = list(QUICK_PARTS) if options.quick else [*BARE, *OURS]
    if python is not None:
        parts.append("reference")
    found = measure(settings, parts, 1 if options.quick else options.rounds, python,
                    apart=not options.quick)  # fmt: skip
    return _result(settings, options, described, found)


def _result(
    settings: Settings,
    options: argparse.Namespace,
    described: dict[str, Any],
    rounds: list[dict[str, dict[str, float]]],
) -> dict[str, Any]:
    images = sl.ImageFolder(settings.images)
    known = {
        crop: crops_of(Path(settings.work) / f"known-{crop}.semlens")
        for crop in ("none", "activation")
    }
    result: dict[str, Any] = {
        "benchmark": "build",
        "quick": options.quick,
        "machine": described,
        "images": len(images),
        "referenced_images": len(known["none"]),
        "referenced_share": len(known["none"]) / len(images),
        "unique_crops": {crop: sum(map(len, boxes.values())) for crop, boxes in known.items()},
        "settings": {
            "model": _named(settings.model, settings, "torchvision/resnet18"),
            "embedder": _named(settings.embedder, settings, f"open_clip/{CLIP}"),
            "layers": settings.layers,
            "examples": settings.examples,
            "batch_size": settings.batch_size,
            "threads": settings.threads,
            "rounds": len(rounds),
        },
        **ratios(rounds),
        "by_cpu_time": ratios(rounds, "cpu_seconds"),
        "parts": summary(rounds),
    }
    if "reference" in rounds[0]:
        from build_compare import agreement

        result["agreement"] = agreement(settings)
    return result


def _named(spec: str, settings: Settings, made: str) -> str:
    """Return a SPEC without the folder in which the benchmark put weights of its own."""
    return f"{made}, random weights" if settings.work in spec else spec


def show(result: dict[str, Any]) -> None:
    """Print the result as tables for people."""
    print(f"{result['images']} images, {result['referenced_images']} referenced "
          f"({result['referenced_share']:.0%}); unique crops {result['unique_crops']}")  # fmt: skip
    print(f"{'part':24}{'seconds':>9}{'CPU s':>9}{'peak MiB':>10}")
    for part, values in result["parts"].items():
        seconds, cpu = values["seconds"], values["cpu_seconds"]
        print(f"{part:24}{seconds:9.1f}{cpu:9.1f}{values['peak_rss_mib']:10.0f}")
    print(f"\n{'ours':24}{'over bare':>11}{'(by CPU)':>10}{'over reference':>16}{'(by CPU)':>10}")
    for variant in result["ours_over_bare"]:
        cells = [
            found[variant]
            for kind in ("ours_over_bare", "ours_over_reference")
            for found in (result[kind], result["by_cpu_time"][kind])
            if found
        ]
        widths = (11, 10, 16, 10)
        row = "".join(f"{x:{w}.2f}" for x, w in zip(cells, widths, strict=False))
        print(f"{variant:24}{row}")
    for name, value in result.get("agreement", {}).items():
        print(f"{name.replace('_', ' ')}: {value}")


def main() -> None:
    """Read the options, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="tiny run, no reference")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=Path, help="folder of images (default: made here)")
    parser.add_argument("--count", type=int, default=800, help="how many images to make")
    parser.add_argument("--model", help="SPEC of the subject (default: a random ResNet-18)")
    parser.add_argument("--embedder", help="SPEC of the embedder (default: a random open_clip)")
    parser.add_argument("--layers", default="layer3,layer4")
    parser.add_argument("--examples", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--no-reference", action="store_true", help="leave semanticlens out")
    parser.add_argument("--work", type=Path, help="keep inputs, weights and databases here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        result = benchmark(options, work)
    if options.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
