"""How well a planted mark has a component of its own: neurons, and directions that are fitted.

The bundled model was trained with a printed mark on one class. Directions of its layer3 are fitted
to the demo's images, without labels and without the pairs of test images with and without the
mark. On half of the pairs the component that separates them best is chosen, and its AUROC is
measured on the other half: more components are more chances, and the choice must not profit.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import semlens as sl
from benchmarks.harness import benchmark
from semlens.demo.bundled_images import DemoWorld
from semlens.demo.walkthrough import PLANTED_AUROC
from semlens.lenses.statistics.intervals import auroc
from semlens.models.forward import readouts

LAYER = "layer3"
CASES = (
    ("nmf:16", 0, {}),
    ("sae:64", 0, {}),
    ("sae:64", 1, {}),
    ("sae:64", 2, {}),
    ("sae:256", 0, {}),
    ("sae:64", 0, {"variant": "vanilla"}),
    ("sae:64", 0, {"resample": False}),
)
"""Components, seed and settings of the training."""
QUICK = {"train_vectors": 2048}


def separation(model: sl.SubjectModel, layer: str, world: DemoWorld) -> dict[str, float]:
    """Return the AUROC of the component that is best on the other half, and how many are good."""
    marked, clean = world.images("test", "marked"), world.images("test", "clean")
    values = [readouts(model, images.read, range(len(images)), [layer], "mean")[layer]
              for images in (marked, clean)]  # fmt: skip
    first, second = (auroc(*(rows[half::2] for rows in values)) for half in (0, 1))
    areas = np.maximum(first, second)
    return {
        "held_out": float(second[int(first.argmax())]),
        "components": int((areas >= PLANTED_AUROC).sum()),
    }


@benchmark(minutes=5, quoted=("docs/sae.md",))
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Fit each case to the demo's images."""
    world = DemoWorld()
    world.unpack(work / "images")
    model = sl.load_model("semlens/demo")
    rows = [{"case": "neurons", "directions": 128, **separation(model, LAYER, world)}]
    for components, seed, settings in CASES[:2] if options.quick else CASES:
        is_sae = components.startswith("sae")
        given = {**settings, **(QUICK if options.quick else {})}
        fit = sl.fit(
            work / "fit.safetensors", model, work / "images", LAYER, components, seed=seed,
            training=sl.SaeTraining(**given) if is_sae else None,
        )  # fmt: skip
        info, name = fit.dictionary.info, fit.dictionary.info.name
        case = ", ".join([components, *(f"{k} {v}" for k, v in settings.items()), f"seed {seed}"])
        rows.append(
            {
                "case": case,
                "directions": fit.dictionary.directions,
                "explained": info.explained,
                "active": info.mean_active,
                "dead": info.dead,
                **separation(model.with_dictionaries([fit.dictionary]), name, world),
            }  # fmt: skip
        )
    return {"rows": rows}
