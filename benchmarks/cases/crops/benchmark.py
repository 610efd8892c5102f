"""Quality of crops on planted artefacts: search, labels, pointing game, overlap of boxes.

    python -m benchmarks crops [--json] [--quick] [--work DIR] [--crops none activation ...]

Without ``--work`` the bundled world and CNN are measured. With the work folder of ``demo_world``
(``demo_world/README.md``), also a ViT on the same world, and a CNN and a ViT on a second one. For
every subject a database is built with each crop method:

``none``
    whole images
``activation``
    the component's upsampled activation map
``crp``
    conditional relevance, with the rules epsilon, z+ and flat for a CNN, CP-LRP for a ViT
``attnlrp``
    conditional relevance with the rules of AttnLRP

Embedder (``semlens/demo``), examples and layers (the late stages of a CNN, the last three blocks of
a ViT) are the same for all. The readout is the mean over space, the class token for ViTs, and the
maximum for the second CNN. Layers with negative activations are read in both signs.

The ground truth comes from the images, never from a search. A component is **planted** if its
readout separates the test images with the mark from the same images without it (AUROC >= 0.9). A
unit has **known content** if it is not planted and its readout separates the clean test images of
one class from all others (AUROC >= 0.95). The measures:

``found_at_1``, ``found_at_3``
    Share of the planted components for which a concept that names the artefact is the best label,
    or one of the three best. Labels come from the bundled general vocabulary and the artefact's
    concepts, and must exceed the default threshold.
``planted_rank``
    Rank of the best planted component among all components of these layers in a search for the
    artefact (one query per world).
``planted_among_first``
    Share of the n planted components among the first n hits of that search.
``label_correct``
    Share of the units with known content whose label is their class, selected from the twelve class
    names and the artefact's concepts. No label counts as wrong.
``pointing``
    Over pairs of a planted component and one of its examples with the mark: share of the heatmaps
    whose maximum lies on a pixel that the mark changes. The heatmap is the one that defines the
    crop, upsampled and blurred; whole images have none. A random point reaches the share of the
    image that the mark covers (``pointing_chance``).
``iou``
    Over the same pairs, the mean intersection over union of the crop's box and the bounding box of
    the pixels that the mark changes. ``crop_area`` is the median share of the image in the crop.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import semlens as sl
from benchmarks.cases.crops.cases import Case, bundled, cases, variants
from benchmarks.cases.crops.measures import Truth, box_measures, label_measures, pointing_measures
from benchmarks.harness import benchmark, peak_mib

OPTIONS: dict[str, dict[str, Any]] = {"--crops": {"nargs": "+", "help": "only these crop methods"}}


def measure_case(
    case: Case, folder: Path, quick: bool, only: Sequence[str] | None = None
) -> dict[str, Any]:
    """Build the databases of a case and measure them, for all or some crop methods."""
    embedder = sl.load_embedder("semlens/demo")
    folder = folder / f"{case.name}-{case.subject}"
    if quick:
        case.world.pictures = [p for p in case.world.pictures if p.split == "test"]
    case.world.unpack(folder / "images")
    settings_by_variant = variants(case.kind)

    def build(variant: str) -> sl.ConceptDatabase:
        return sl.build(
            folder / f"{variant}.semlens",
            case.model,
            folder / "images",
            embedder,
            case.layers[-1:] if quick else case.layers,
            thumbnails=False,
            examples=5 if quick else 30,
            readout=case.readout,
            **settings_by_variant[variant],
        )

    truth = Truth(case, build("none"))
    results: dict[str, dict[str, float | None]] = {}
    for variant, settings in settings_by_variant.items():
        if only is not None and variant not in only:
            continue
        db = build(variant)
        results[variant] = {
            **label_measures(db, truth),
            **pointing_measures(db, truth, settings),
            **box_measures(db, truth),
        }
    return {
        "world": case.name,
        "artefact": case.world.artefact,
        "query": case.artefact.query,
        "subject": case.subject,
        "kind": case.kind,
        "readout": case.readout,
        "accuracy": {
            version: sl.evaluate_model(case.model, case.world.images("test", version)).accuracy
            for version in ("clean", "marked")
        },
        **truth.counts(),
        "variants": results,
    }


@benchmark(minutes=240, quoted=("docs/crops.md",), options=OPTIONS)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure the bundled case and those in a work folder of ``demo_world``."""
    selected = [bundled()] if options.quick else cases(options.work)
    folder = work / ("quick" if options.quick else "crops")
    return {
        "torch": torch.__version__,
        "cases": [measure_case(case, folder, options.quick, options.crops) for case in selected],
        "peak_rss_mib": peak_mib(),
    }
