"""semanticlens 0.2.1 on the same inputs, run in its own environment.

    reference-env/bin/python -m benchmarks.cases.build.reference SETTINGS.json

is a worker of ``harness`` that writes its examples and vectors to ``reference.safetensors``. It is
used as documented: two parallel datasets, one per model, and as many loader processes as we use
threads.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from semanticlens import Lens
from semanticlens.component_visualization import ActivationComponentVisualizer
from semanticlens.foundation_models import OpenClip
from torchvision.models import get_model, get_model_weights

from benchmarks.harness import Clock, Measurement, peak_mib, serve

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class Pictures(torch.utils.data.Dataset[Any]):
    """Images of a folder in sorted order, with or without the subject's transform."""

    def __init__(self, folder: Path, name: str, transform: Any = None) -> None:
        self.paths = sorted(
            (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES),
            key=lambda p: p.relative_to(folder).as_posix(),
        )
        self.name = name
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        with Image.open(self.paths[index]) as image:
            picture = image.convert("RGB")
        return (self.transform(picture) if self.transform else picture), 0


def run(settings: dict[str, Any]) -> Measurement:
    """Compute a concept database as the reference does."""
    work = Path(settings["work"])
    name, _, weights = settings["model"].removeprefix("torchvision/").partition(":")
    architecture, _, checkpoint = settings["embedder"].removeprefix("open_clip/").partition("/")
    state = load_file(weights)
    model = get_model(name, weights=None, num_classes=state["fc.weight"].shape[0]).eval()
    model.load_state_dict(state)
    model.name = name
    embedder = OpenClip(architecture, pretrained=checkpoint)
    transform = get_model_weights(name).DEFAULT.transforms()
    folder = Path(settings["images"])
    with Clock() as clock:
        visualizer = ActivationComponentVisualizer(
            model,
            Pictures(folder, "subject", transform),
            Pictures(folder, "embedder"),
            layer_names=list(settings["layers"]),
            num_samples=settings["examples"],
        )
        concept_db = Lens(embedder).compute_concept_db(
            visualizer, batch_size=settings["batch_size"], num_workers=settings["threads"]
        )
    tensors = {f"{key}/vectors": value.contiguous() for key, value in concept_db.items()}
    for layer in settings["layers"]:
        tensors[f"{layer}/samples"] = visualizer.get_max_reference(layer).contiguous()
    save_file(tensors, work / "reference.safetensors")
    loaders = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if settings["threads"] else 0
    return {
        **clock.read(),
        "peak_rss_mib": peak_mib(),
        "peak_rss_of_a_loader_mib": loaders / 1024,
    }


if __name__ == "__main__":
    inputs = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    serve({"run": lambda part: run(inputs)})
