"""Build time, compared with a bare loop over the same work and with semanticlens 0.2.1.

    python -m benchmarks build [--json] [--quick] [--rounds 3] [--images FOLDER] ...

Parts take turns in each round, each in its own process. Ratios are computed within a round, and
their median is reported.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

import semlens as sl
from benchmarks.cases.build import parts as build_parts
from benchmarks.cases.build.parts import BARE, OURS, batches, crop_boxes, decode, ours, prefetch
from benchmarks.harness import (
    Measurement,
    Round,
    Worker,
    benchmark,
    in_turns,
    largest,
    median,
    ratio,
    reference_python,
)
from benchmarks.worlds.build_inputs import CLIP, Inputs, make_embedder, make_images, make_subject

REFERENCE = "semanticlens==0.2.1"
QUICK_PARTS = (*BARE, "none", "none+random-images", "activation")
CROPS = ("none", "activation")

OPTIONS: dict[str, dict[str, Any]] = {
    "--images": {"type": Path, "help": "folder of images (default: generated)"},
    "--count": {"type": int, "default": 800, "help": "number of images to generate"},
    "--model": {"help": "subject model (default: a random ResNet-18)"},
    "--embedder": {"help": "embedder (default: a random open_clip model)"},
    "--layers": {"default": "layer3,layer4"},
    "--examples": {"type": int, "default": 3},
    "--batch-size": {"type": int, "default": 32},
    "--threads": {"type": int, "default": min(8, os.cpu_count() or 1)},
    "--no-reference": {"action": "store_true", "help": "do not run semanticlens"},
}


def run_in_process(part: str, inputs: Inputs, python: Path | None) -> Measurement:
    """Run a part in its own process."""
    side = "reference" if part == "reference" else "parts"
    runner = python if part == "reference" else None
    with Worker(f"benchmarks.cases.build.{side}", inputs.write(), python=runner) as worker:
        return worker.ask("run", part=part)


def ratios(rounds: Sequence[Round], key: str = "seconds") -> dict[str, dict[str, float | None]]:
    """Return median ratios of our times to the bare loop's and to the reference's."""
    variants = [name for name in OURS if name in rounds[0]]
    bare = {name: ("bare-subject", f"bare-{name.partition('+')[0]}") for name in variants}
    return {
        "ours_over_bare": {name: ratio(rounds, [name], bare[name], key) for name in variants},
        "ours_over_reference": {
            name: ratio(rounds, [name], ["reference"], key)
            for name in variants
            if "reference" in rounds[0]
        },
        "random_images_over_without": {
            name: ratio(rounds, [name], [name.partition("+")[0]], key)
            for name in variants
            if name.endswith("+random-images")
        },
    }


def stages(rounds: Sequence[Round], threads: int) -> dict[str, list[dict[str, Any]]]:
    """Return for each of our builds its groups of stages, which add up to the whole.

    ``share`` is that of the build's time, ``over_bare`` the ratio to the loop that does the same
    work, and ``busy`` the share of the compute threads' time in which a core works.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for part in OURS:
        if part not in rounds[0]:
            continue
        bare_crops = f"bare-{part.partition('+')[0]}"
        found[part] = [
            {
                "stages": group,
                "seconds": median_of(rounds, part, group, "seconds"),
                "share": statistics.median(
                    stage_sum(times, part, group, "seconds") / times[part]["seconds"]
                    for times in rounds
                ),
                "busy": median_of(rounds, part, group, "cpu_seconds")
                / (median_of(rounds, part, group, "seconds") * threads),
                "over_bare": bare
                and statistics.median(
                    stage_sum(times, part, group, "seconds") / times[bare]["seconds"]
                    for times in rounds
                ),
            }
            for group, bare in (
                ("hash", None),
                ("collect", "bare-subject"),
                ("crop, embed", bare_crops),
                ("finish", None),
            )
        ]
    return found


def stage_sum(times: Round, part: str, group: str, key: str) -> float:
    """Return the seconds of a group of stages in one round."""
    return sum(times[part].get(f"{stage}/{key}", 0.0) for stage in group.split(", "))


def median_of(rounds: Sequence[Round], part: str, group: str, key: str) -> float:
    """Return the median seconds of a group of stages."""
    return statistics.median(stage_sum(times, part, group, key) for times in rounds)


def summary(rounds: Sequence[Round]) -> dict[str, dict[str, Any]]:
    """Return for each part the median seconds, all seconds, and the largest peak memory."""
    return {
        part: {
            "seconds": median(rounds, part),
            "cpu_seconds": median(rounds, part, "cpu_seconds"),
            "all_seconds": [round(times[part]["seconds"], 2) for times in rounds],
            **{key: largest(rounds, part, key) for key in first if not key.endswith("seconds")},
        }
        for part, first in rounds[0].items()
    }


@benchmark(
    minutes=30, quoted=("docs/embedders.md", "benchmarks/README.md"), options=OPTIONS, rounds=3
)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Prepare the inputs, run all parts and combine the results."""
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
        ours(inputs, crop, work / f"crops-{crop}.semlens")
    if options.quick:
        runs = {part: partial(build_parts.run, part, inputs) for part in QUICK_PARTS}
        return _result(inputs, list(in_turns(runs, 1)))
    parts, python = [*BARE, *OURS], None
    if not options.no_reference:
        parts.append("reference")
        python = reference_python(work / "reference-env", REFERENCE)
    runs = {part: partial(run_in_process, part, inputs, python) for part in parts}
    return _result(inputs, list(in_turns(runs, options.rounds)))


def _result(inputs: Inputs, rounds: Sequence[Round]) -> dict[str, Any]:
    images = sl.ImageFolder(inputs.images)
    boxes_by_crop = {
        crop: crop_boxes(Path(inputs.work) / f"crops-{crop}.semlens") for crop in CROPS
    }
    result: dict[str, Any] = {
        "benchmark": "build",
        "images": len(images),
        "referenced_images": len(boxes_by_crop["none"]),
        "referenced_share": len(boxes_by_crop["none"]) / len(images),
        "unique_crops": {
            crop: sum(map(len, boxes.values())) for crop, boxes in boxes_by_crop.items()
        },
        "settings": {
            "model": _display_name(inputs.model, inputs, "torchvision/resnet18"),
            "embedder": _display_name(inputs.embedder, inputs, f"open_clip/{CLIP}"),
            "layers": inputs.layers,
            "examples": inputs.examples,
            "batch_size": inputs.batch_size,
            "threads": inputs.threads,
            "rounds": len(rounds),
        },
        **ratios(rounds),
        "by_cpu_time": ratios(rounds, "cpu_seconds"),
        "stages": stages(rounds, inputs.threads),
        "parts": summary(rounds),
    }
    if "reference" in rounds[0]:
        result["agreement"] = agreement(inputs)
    return result


def _display_name(spec: str, inputs: Inputs, name: str) -> str:
    """Return a SPEC, or the name of a model whose random weights the benchmark generated."""
    return f"{name}, random weights" if inputs.work in spec else spec


GAP = 2.0**-7
"""Twice the relative rounding step of bfloat16: rounding cannot close a wider gap."""
TOLERANCE = 2e-3
"""Largest allowed difference between entries of unit vectors, one stored in float16."""


@torch.inference_mode()
def all_readouts(settings: Inputs) -> dict[str, np.ndarray]:
    """Return the mean readout [n c] of every image and component, by a plain loop."""
    model = sl.load_model(settings.model)
    images = sl.ImageFolder(settings.images)
    outputs: dict[str, list[Tensor]] = {name: [] for name in settings.layers}
    layers = dict(model.module.named_modules())
    hooks = [
        layers[name].register_forward_hook(
            lambda _, __, output, name=name: outputs[name].append(output.mean((2, 3)))
        )
        for name in settings.layers
    ]

    def preprocess(name: str) -> Tensor:
        return model.preprocess(decode(images.root / name))

    for batch in batches(prefetch(preprocess, images.ids, settings.threads), settings.batch_size):
        model.module(torch.stack(batch))
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(chunks).numpy() for name, chunks in outputs.items()}


def agreement(settings: Inputs) -> dict[str, Any]:
    """Compare the database with ``crop="none"`` with the output of the reference."""
    work = Path(settings.work)
    db = sl.open(work / "crops-none.semlens", embedder=sl.load_embedder(settings.embedder))
    reference = load_file(work / "reference.safetensors")
    readouts = all_readouts(settings)
    total = clear = same = wrong_examples = 0
    worst_example = worst_theta = worst_rank = 0.0
    for layer in settings.layers:
        truth = readouts[layer]
        frame = db.examples(layer)
        entry = db.layer(layer)
        our_samples = frame.pivot(index="component", columns="rank", values="sample").to_numpy()
        worst_rank = max(worst_rank, _rank_error(truth, our_samples))
        samples, vectors = (
            reference[f"{layer}/samples"].numpy(),
            reference[f"{layer}/vectors"].float(),
        )
        unit = torch.nn.functional.normalize(vectors, dim=-1).numpy()
        crop, used = db.crop_index(layer)
        our_vectors = db.crop_vectors[crop].astype(np.float32)
        for c in range(entry.rows):
            values = truth[:, c]
            order = np.sort(values)[::-1]
            last, following = order[settings.examples - 1], order[settings.examples]
            total += 1
            wrong_examples += int((values[samples[c]] < last * (1 - GAP)).sum())
            rank_of = {s: i for i, s in enumerate(our_samples[c]) if used[c, i]}
            shared = [(rank_of[s], j) for j, s in enumerate(samples[c]) if s in rank_of]
            for i, j in shared:
                worst_example = max(
                    worst_example, float(np.abs(our_vectors[c, i] - unit[c, j]).max())
                )
            if last - following > GAP * abs(last) and used[c].all():
                clear += 1
                if set(samples[c]) == set(our_samples[c]):
                    same += 1
                    theta = unit[c].mean(0)
                    difference = np.abs(db.theta[entry.first + c] - theta).max()
                    worst_theta = max(worst_theta, float(difference))
    overlap = _overlap(db, reference, settings)
    return {
        "components": total,
        "components_with_a_clear_gap": clear,
        "of_these_with_the_same_examples": same,
        "shared_examples": overlap,
        "reference_examples_below_rounding": wrong_examples,
        "largest_difference_of_our_ranking_from_float32": worst_rank,
        "largest_difference_of_an_example_vector": worst_example,
        "largest_difference_of_a_concept_vector": worst_theta,
        "same": same == clear
        and max(worst_example, worst_theta) <= TOLERANCE
        and not wrong_examples,
    }


def _rank_error(truth: np.ndarray, samples: np.ndarray) -> float:
    """Return the largest difference of our k-th readout from the true k-th largest."""
    k = samples.shape[1]
    best = -np.sort(-truth, axis=0)[:k].T
    return float(np.abs(np.take_along_axis(truth.T, samples.astype(int), 1) - best).max())


def _overlap(db: sl.ConceptDatabase, reference: dict[str, Tensor], settings: Inputs) -> float:
    """Return the mean share of common examples over all components."""
    shares: list[float] = []
    for layer in settings.layers:
        frame = db.examples(layer)
        our_samples = frame.pivot(index="component", columns="rank", values="sample").to_numpy()
        samples = reference[f"{layer}/samples"].numpy()
        shares += [len(set(a) & set(b)) / len(a) for a, b in zip(our_samples, samples, strict=True)]
    return float(np.mean(shares))
