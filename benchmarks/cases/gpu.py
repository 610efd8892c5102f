"""Builds of two large models on one accelerator: seconds by stage, beside bare forward passes.

    python -m benchmarks gpu                    # 50,000 generated JPEGs; goal: 3 minutes per model
    python -m benchmarks gpu --device cpu --count 400 --models resnet50

ResNet-50 and ViT-B/16 with random weights, four blocks each, 30 examples per component with crops
by relevance, embedded by a random CLIP.  The bound is the same number of forward passes on a batch
that is already on the device: what is above it is decoding, copies, relevance, crops and embedding.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import semlens as sl
from benchmarks.harness import Clock, StageClock, benchmark, peak_mib
from benchmarks.worlds.build_inputs import make_embedder, make_images
from semlens.models.subject import SubjectModel
from semlens.progress import progress_listener
from semlens.run.plan import Execution

GOAL = 180.0
"""Seconds for a build on an H100."""
MODELS = {
    "resnet50": ("layer1", "layer2", "layer3", "layer4"),
    "vit_b_16": tuple(f"encoder.layers.encoder_layer_{block}" for block in (2, 5, 8, 11)),
}
QUICK = {"resnet18": ("layer1",)}
STAGES = {
    "hash": "hash", "collect": "forward", "crop": "relevance and crops", "embed": "embed",
}  # fmt: skip
BEST_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OPTIONS: dict[str, dict[str, Any]] = {
    "--device": {"default": BEST_DEVICE, "help": f"cpu, cuda or mps (default: {BEST_DEVICE})"},
    "--count": {"type": int, "default": 50_000, "help": "number of images to generate"},
    "--models": {"nargs": "+", "choices": [*MODELS], "default": [*MODELS]},
    "--batch-size": {"type": int, "default": 256},
    "--examples": {"type": int, "default": 30},
    "--threads": {"type": int, "default": os.cpu_count() or 1},
}


@benchmark(minutes=6, quoted=("benchmarks/README.md",), options=OPTIONS)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Build a database of each model."""
    if options.quick:
        options.count, options.batch_size, options.examples = 8, 4, 1
        options.models = [*QUICK]
    images = sl.ImageFolder(make_images(work, options.count, 500))
    name = "semlens/demo" if options.quick else make_embedder(work)
    embedder = sl.load_embedder(name, device=options.device)
    return {
        "device": device_name(options.device),
        "images": len(images),
        "batch_size": options.batch_size,
        "examples": options.examples,
        "goal_seconds": GOAL,
        "models": {
            model: measure_model(model, images, embedder, options, work) for model in options.models
        },
    }


def measure_model(
    name: str,
    images: sl.ImageFolder,
    embedder: sl.Embedder,
    options: argparse.Namespace,
    work: Path,
) -> dict[str, Any]:
    """Return the seconds of the stages of one build, and of the bare forward passes."""
    model = sl.load_model(f"torchvision/{name}", random_weights=0, device=options.device)
    bound = forward_seconds(model, len(images), options.batch_size)
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    stages = StageClock()
    with Clock() as clock, progress_listener(stages):
        sl.build(
            work / f"{name}.semlens", model, images, embedder, {**MODELS, **QUICK}[name],
            examples=options.examples, crop="crp",
            execution=Execution(options.batch_size, options.threads),
        )  # fmt: skip
    seconds, by_stage = clock.read()["seconds"], Counter[str]()
    for name, spent in stages.read().items():
        stage, _, unit = name.partition("/")
        if unit == "seconds" and stage != "finish":
            by_stage[STAGES.get(stage, stage)] += spent
    by_stage["write"] = seconds - by_stage.total()
    on_cuda = model.device.type == "cuda"
    return {
        "seconds": seconds,
        "forward_alone_seconds": bound,
        "over_forward_alone": seconds / bound,
        "images_per_second": len(images) / seconds,
        "stages": dict(by_stage),
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if on_cuda else peak_mib(),
    }


@torch.inference_mode()
def forward_seconds(model: SubjectModel, count: int, batch_size: int) -> float:
    """Return the seconds of as many forward passes, on a batch that is on the device."""
    side = model.example.shape[-1]
    batch = torch.randn(min(batch_size, count), 3, side, side, device=model.device)
    passes = -(-count // len(batch))
    measured = min(passes, 20)
    model.module.eval()
    for _ in range(2):
        model.module(batch)
    wait_for(model.device)
    start = time.perf_counter()
    for _ in range(measured):
        model.module(batch)
    wait_for(model.device)
    return (time.perf_counter() - start) * passes / measured


def wait_for(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def device_name(device: str) -> str:
    """Return the device in words."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
