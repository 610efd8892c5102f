"""Measures of the crop benchmark on one database, as defined in ``crops``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

import semlens as sl
from benchmarks.cases.crops.cases import Case
from semlens.demo.walkthrough import find_planted
from semlens.lenses.statistics.intervals import auroc
from semlens.models.activations import measure_layout, spatial_map
from semlens.models.forward import readouts
from semlens.models.hooks import run_layers
from semlens.relevance.heatmap_boxes import upsample_and_blur

KNOWN_AUROC = 0.95
DEPTHS = (1, 3)
BATCH = 32


@dataclass(frozen=True)
class Pair:
    """A planted component and one of its examples with the mark."""

    component: sl.Component
    example: int  # rank among the component's examples
    sample: int
    path: str


class Truth:
    """Ground truth of a case, independent of searches and crops.

    Parameters
    ----------
    case
        World and subject.
    db
        A database of the case; its examples do not depend on the crop method.
    """

    def __init__(self, case: Case, db: sl.ConceptDatabase) -> None:
        self.case = case
        self._layers, self._rows = db.layers, db.manifest.rows
        self.planted = find_planted(case.model, case.world, db)
        self.known_units = known_units(case, db, set(self.planted.components))
        self.pairs = list(self._pairs(db))

    @cached_property
    def _pictures(self) -> dict[str, Any]:
        return {p.path.removeprefix("images/"): p for p in self.case.world.pictures}

    def _pairs(self, db: sl.ConceptDatabase) -> Iterator[Pair]:
        for component in self.planted.components:
            for rank, example in enumerate(db.examples_of(db.row(component))):
                if self._pictures[example.path].marked:
                    yield Pair(component, rank, example.sample, example.path)

    def counts(self) -> dict[str, Any]:
        """Return the numbers of components, units and pairs."""
        layers = [c.layer for c in self.planted.components]
        return {
            "planted": {layer: layers.count(layer) for layer in self._layers},
            "components": self._rows,
            "known_units": len(self.known_units),
            "pairs": len(self.pairs),
            "pointing_chance": float(self.masks.mean()) if self.pairs else None,
        }

    def mask(self, path: str) -> np.ndarray:
        """Return bool[96 96]: the pixels that the mark changes."""
        picture, world = self._pictures[path], self.case.world
        with_mark, clean = (np.asarray(world.image(picture, v)) for v in ("marked", "clean"))
        return (with_mark != clean).any(axis=2)

    @cached_property
    def masks(self) -> np.ndarray:
        """The mask of each pair, bool[P 96 96]."""
        masks = {path: self.mask(path) for path in {pair.path for pair in self.pairs}}
        return np.array([masks[pair.path] for pair in self.pairs])


def known_units(
    case: Case, db: sl.ConceptDatabase, planted: set[sl.Component]
) -> dict[sl.Component, str]:
    """Return components that separate one class's clean test images from all others."""
    clean = case.world.images("test", "clean")
    samples, readout = range(len(clean)), db.manifest.recipe.readout
    values = readouts(case.model, clean.read, samples, db.layers, readout)
    targets = np.array(clean.targets)
    aucs = {
        layer: np.stack([auroc(v[targets == c], v[targets != c]) for c in case.world.classes])
        for layer, v in values.items()
    }
    class_of: dict[sl.Component, str] = {}
    for row in range(db.manifest.rows):
        component = db.component(row)
        auc = aucs[component.layer][:, component.index]
        auc = auc if component.sign > 0 else 1 - auc
        if component not in planted and auc.max() >= KNOWN_AUROC:
            class_of[component] = case.world.classes[int(auc.argmax())]
    return class_of


def label_measures(db: sl.ConceptDatabase, truth: Truth) -> dict[str, Any]:
    """Measure search and labels: ``found_at_k``, ``planted_rank``, ``label_correct`` and so on."""
    artefact = truth.case.artefact
    general = [c.name for c in sl.ConceptSet.load("paper-vocabulary").concepts]
    wide_set = sl.ConceptSet.of(list(dict.fromkeys([*artefact.added_concepts, *general])), "wide")
    names = {*artefact.added_concepts, *artefact.general_concepts}
    labels = db.label(wide_set, candidates=max(DEPTHS))
    position = {int(row): i for i, row in enumerate(labels.rows)}
    first_match: list[int] = []  # rank of the first candidate that names the artefact
    for component in truth.planted.components:
        i = position[db.row(component)]
        candidates = zip(labels.concept[i], labels.score[i], strict=True)
        bound = labels.thresholds[i]
        hits = [wide_set.concepts[c].name in names and s > bound for c, s in candidates]
        first_match.append(hits.index(True) if any(hits) else max(DEPTHS))
    hits = db.search(artefact.query, top=db.manifest.rows)
    count = len(truth.planted.components)
    top_hits = set(hits.components[:count])
    class_labels = db.label(
        sl.ConceptSet.of([*truth.case.world.classes, *artefact.added_concepts], "narrow")
    )
    correct = [class_labels.of(component) == name for component, name in truth.known_units.items()]
    return {
        **{f"found_at_{k}": share([f < k for f in first_match]) for k in DEPTHS},
        "planted_rank": truth.planted.rank(hits),
        "planted_among_first": share([c in top_hits for c in truth.planted.components]),
        "label_correct": share(correct),
    }


def share(flags: list[bool]) -> float | None:
    """Return the share of true entries, or None if there are no entries."""
    return float(np.mean(flags)) if flags else None


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of a mask, the last two exclusive."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Return the intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return intersection / (sum(areas) - intersection)


def box_measures(db: sl.ConceptDatabase, truth: Truth) -> dict[str, Any]:
    """Compare the boxes of crops and masks: ``iou``, and the median crop area."""
    overlaps: list[float] = []
    areas: list[float] = []
    for pair, mask in zip(truth.pairs, truth.masks, strict=True):
        box = db.examples_of(db.row(pair.component))[pair.example].box.as_tuple()
        overlaps.append(iou(box, box_of(mask)))
        areas.append((box[2] - box[0]) * (box[3] - box[1]) / mask.size)
    return {
        "iou": float(np.mean(overlaps)) if overlaps else None,
        "crop_area": float(np.median(areas)) if areas else None,
    }


def pointing_measures(
    db: sl.ConceptDatabase, truth: Truth, settings: dict[str, Any]
) -> dict[str, Any]:
    """Play the pointing game with the heatmaps that define the crops."""
    if settings["crop"] == "none" or not truth.pairs:
        return {"pointing": None}
    images = truth.case.world
    by_path = {p.path.removeprefix("images/"): p for p in images.pictures}
    hits: list[bool] = []
    for layer in db.layers:
        of_layer = [i for i, pair in enumerate(truth.pairs) if pair.component.layer == layer]
        paths = sorted({truth.pairs[i].path for i in of_layer})
        heatmaps_of = LayerHeatmaps(db, truth.case, layer, settings)
        for start in range(0, len(paths), BATCH):
            batch_paths = paths[start : start + BATCH]
            of_batch = [i for i in of_layer if truth.pairs[i].path in batch_paths]
            tensors = [truth.case.model.preprocess(images.image(by_path[p])) for p in batch_paths]
            pairs = [truth.pairs[i] for i in of_batch]
            image = torch.tensor([batch_paths.index(pair.path) for pair in pairs])
            heat = heatmaps_of(truth.case.model.batch(tensors), image, [p.component for p in pairs])
            peak = heat.flatten(1).argmax(1).numpy()
            hits += [bool(truth.masks[i].flat[p]) for i, p in zip(of_batch, peak, strict=True)]
    return {"pointing": share(hits)}


class LayerHeatmaps:
    """Heatmaps of one layer's components, upsampled and blurred as for the crops."""

    def __init__(
        self, db: sl.ConceptDatabase, case: Case, layer: str, settings: dict[str, Any]
    ) -> None:
        self._case, self._layer, self._settings = case, layer, settings
        self._blur = db.manifest.recipe.crop_blur
        self._engine: Any = None

    def __call__(self, inputs: Tensor, image: Tensor, components: list[sl.Component]) -> Tensor:
        """Return heatmaps float32 [P h w] of P pairs of an input's index and a component."""
        channel = torch.tensor([c.index for c in components])
        sign = torch.tensor([c.sign for c in components], dtype=torch.int8)
        if self._settings["crop"] == "activation":
            maps = self._activation(inputs)[image, channel] * sign[:, None, None]
        else:
            maps = self._relevance(inputs, image, channel, sign)
        return upsample_and_blur(maps, inputs.shape[2], inputs.shape[3], self._blur)

    def _activation(self, inputs: Tensor) -> Tensor:
        def activation_map(name: str, output: Any) -> Tensor | None:
            return spatial_map(measure_layout(name, output), output)

        return run_layers(self._case.model.module, inputs, [self._layer], activation_map)[
            self._layer
        ]

    def _relevance(self, inputs: Tensor, image: Tensor, channel: Tensor, sign: Tensor) -> Tensor:
        from semlens.relevance.conditional_heatmaps import conditional_heatmaps
        from semlens.relevance.lrp_engine import LRPEngine

        if self._engine is None:
            module, rules = self._case.model.module, self._settings["rules"]
            self._engine = LRPEngine(module, inputs[:1], layers=[self._layer], rules=rules)
        class_token = torch.zeros_like(image) if self._case.readout == "cls" else None
        return conditional_heatmaps(
            self._engine, inputs, self._layer, image, channel, sign, position=class_token
        )
