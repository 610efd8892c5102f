"""Net2Vec: concepts segmented by combinations of components (Fong and Vedaldi 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Float64
from rich.console import Group, RenderableType
from torch import Tensor
from torch.nn import functional

from semlens.draw.text_table import titled_table
from semlens.errors import DataError, RecipeError
from semlens.figures import FigureSpec, Point, Scatter, Series, Values
from semlens.lens import lens
from semlens.lenses.netdissect.concept_probe import fit_probe
from semlens.lenses.netdissect.input_masks import InputMasks
from semlens.lenses.netdissect.labelled_images import LabelledImages, labelled_images
from semlens.lenses.netdissect.layer_maps import layers_with_maps, stream_maps
from semlens.lenses.netdissect.netdissect import (
    QUANTILE,
    RESOLUTION,
    MaskPath,
    Quantile,
    Resolution,
)
from semlens.lenses.netdissect.overlap import Overlap
from semlens.lenses.netdissect.score_thresholds import ScoreRange, UpperQuantile
from semlens.lenses.result import Result, Section
from semlens.progress import report_progress
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Layers

MEMORY = 2**32
"""Bytes of activations that may be kept."""
LEAST_IMAGES = 5
"""Images with a concept that each half needs."""
ENOUGH = 0.95
"""Share of the full combination's IoU that is reached with enough components."""
SHOWN = 8
"""Concepts in a plot."""


@dataclass(frozen=True, eq=False, repr=False)
class ConceptCombinations(Result):
    """How well concepts are segmented by single components, and by combinations of them.

    Parameters
    ----------
    frame
        The concepts, largest IoU of the combination first: ``layer``, ``concept``, ``images`` (with
        the concept, of the held-out ones), ``component`` (of largest IoU on the other images),
        ``at_quantile`` (its IoU at the threshold of Network Dissection), ``single`` (at the best
        threshold), ``combined`` (of the combination), and ``needed`` (components of largest weight
        that reach 95 % of it). All IoU are those of held-out images.
    curves
        ``layer``, ``concept``, ``components`` (of largest weight) and ``iou``.
    weights
        ``layer``, ``concept``, ``component`` and ``weight``, largest magnitude first.
    images, held_out
        Numbers of images: those that weights and thresholds were fitted on, and the others.
    skipped
        Concepts that too few images have.
    """

    labelled: LabelledImages
    frame: pd.DataFrame
    curves: pd.DataFrame
    weights: pd.DataFrame
    images: int
    held_out: int
    skipped: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The mean IoU of single components and of combinations, in a sentence."""
        single, combined = self.frame["single"].mean(), self.frame["combined"].mean()
        return (
            f"mean IoU on {self.held_out} held-out images: {single:.3f} with the best component, "
            f"{combined:.3f} with all"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "images": self.images,
            "held_out": self.held_out,
            "masks": str(self.labelled.masks.root),
            "concepts": self.frame.to_dict("records"),
            "curves": self.curves.to_dict("records"),
            "weights": self.weights.to_dict("records"),
            "skipped": list(self.skipped),
        }

    def figure(self) -> FigureSpec:
        """Return both IoU of each concept, and the IoU by number of components."""
        shown = self.frame.head(SHOWN)
        names = [f"{row['concept']} ({row['component']})" for row in shown.to_dict("records")]
        series = [
            Series(shown[name].tolist(), text)
            for name, text in (("single", "best component"), ("combined", "all components"))
        ]
        keys = ["layer", "concept"]
        points = [
            Point(
                float(np.log2(row["components"])), row["iou"],
                f"{row['components']} components", f"{row['layer']} {row['concept']}",
            )
            for row in self.curves.merge(shown[keys], on=keys).to_dict("records")
        ]  # fmt: skip
        curves = Scatter(
            "IoU of the components of largest weight", points, "components, log2", "IoU",
            joined=True,
        )  # fmt: skip
        panels = [Values("", names, series, "IoU on held-out images", limits=(0, 1)), curves]
        return FigureSpec(self.summary, panels, columns=2)

    def section(self, target: str | None = None) -> Section:
        """Return what combinations add to single components, in sentences."""
        sentences = [f"{self.summary[0].upper()}{self.summary[1:]}."]
        if len(self.frame):
            best = self.frame.iloc[0]
            sentences.append(
                f"The best combination segments {best['concept']} with an IoU of "
                f"{best['combined']:.3f}, {best['component']} alone with {best['single']:.3f}; "
                f"{best['needed']} components reach {ENOUGH:.0%} of it."
            )
        limits = f"On too few images: {', '.join(self.skipped)}." if self.skipped else ""
        return Section(sentences, self.figure(), self.to_pandas(), limits)

    def __rich__(self) -> RenderableType:
        """Return the concepts, and the IoU by number of components."""
        wide = self.curves.pivot_table("iou", ["layer", "concept"], "components", sort=False)
        curves = wide.reset_index().rename(columns=str)
        tables = titled_table(self.summary, self.frame)
        tables += titled_table("IoU by number of components of largest weight", curves)
        if self.skipped:
            tables.append(f"On too few images: {', '.join(self.skipped)}.")
        return Group(*tables)


@lens(
    "model", "images", group="Describe", command="concepts net2vec",
    example="concepts net2vec r18.semlens --masks masks/ --layer layer4 --save net2vec.png",
)  # fmt: skip
def net2vec(
    database: Database,
    masks: MaskPath,
    layers: Layers = None,
    *,
    penalty: Annotated[float, setting("Penalty of large weights.", gt=0)] = 1e-3,
    quantile: Quantile = QUANTILE,
    resolution: Resolution = RESOLUTION,
    samples: Annotated[
        int, setting("Images at most, drawn at random; half of them are held out.", ge=16)
    ] = 1000,
    seed: Annotated[int, setting("Which images are drawn, and which are held out.", ge=0)] = 0,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
) -> ConceptCombinations:
    """Segment concepts by linear combinations of all components of a layer (Net2Vec).

    For each concept, a balanced logistic regression of positions gives each component a weight.
    The IoU of the combination on held-out images is compared with that of the best single
    component, and with those of the 1, 2, 4, ... components of largest weight. Thresholds of
    scores are those of largest IoU on the other images.

    Parameters
    ----------
    masks
        Folder of masks in pixels of the upright original images; see
        :func:`semlens.lenses.netdissect.mask_folder.load_masks`.

    Raises
    ------
    LayerError
        If a layer has no map, or activations that are not finite.
    DataError
        If the masks cannot be read, or too few images have a concept.
    ModelError
        If the preprocessing does more than resize, crop, pad or mirror.
    RecipeError
        If the activations do not fit into memory.
    """
    names = layers_with_maps(database, layers)
    labelled = labelled_images(database, masks, resolution, samples, seed)
    count = len(labelled.samples)
    order = np.random.default_rng(seed).permutation(count)
    first, second = np.sort(order[: count // 2]), np.sort(order[count // 2 :])
    frames: list[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]] = []
    pictures: list[InputMasks] = []
    tested: list[int] = []
    for name in names:
        maps = _all_maps(labelled, name, batch_size)
        if not pictures:  # after a pass, which has read the images
            pictures = labelled.masks_of(labelled.samples)
            tested = _frequent(labelled, pictures, (first, second))
        train, test = (
            _Half(maps[part], [pictures[i] for i in part], labelled) for part in (first, second)
        )
        frames.append(_segment(database, name, train, test, tested, quantile, penalty))
    frame, curves, weights = (
        pd.concat(tables, ignore_index=True) for tables in zip(*frames, strict=True)
    )
    frame = frame.sort_values("combined", ascending=False, kind="stable", ignore_index=True)
    concepts = labelled.masks.names
    skipped = tuple(concepts[i] for i in range(len(concepts)) if i not in tested)
    return ConceptCombinations(labelled, frame, curves, weights, len(first), len(second), skipped)


@dataclass(frozen=True, eq=False)
class _Half:
    """Maps and masks of one half of the images."""

    maps: Float32[Tensor, "n rows h w"]
    masks: list[InputMasks]
    labelled: LabelledImages

    def overlap(self, thresholds: Float32[np.ndarray, " rows"]) -> Overlap:
        """Return the overlap of all components with all concepts."""
        overlap = Overlap(thresholds, len(self.labelled.masks.names), self.labelled.grid)
        for start in range(0, len(self.masks), 32):
            part = self.masks[start : start + 32]
            overlap.add(self.maps[start : start + 32], 0, part)
            overlap.add_masks(part)
        return overlap

    def thresholds(self, quantile: float) -> Float32[np.ndarray, " rows"]:
        """Return the value that each component exceeds at a share of the positions."""
        values = self.maps.transpose(0, 1).flatten(1)
        largest = UpperQuantile(len(values), values.shape[1], quantile)
        largest.update(values)
        return largest.result().numpy()

    def shares(self, concept: int) -> tuple[Float64[np.ndarray, " p"], Float64[np.ndarray, " p"]]:
        """Return the shares of each position of the maps that are the concept, and labelled."""
        height, width = self.maps.shape[2:]
        inside = np.stack([mask.of(concept) for mask in self.masks])
        valid = np.stack([mask.valid for mask in self.masks])
        pooled = (
            functional.adaptive_avg_pool2d(torch.from_numpy(pixels).double(), (height, width))
            .numpy()
            .ravel()
            for pixels in (inside, valid)
        )
        return next(pooled), next(pooled)

    def activations(self, channels: int) -> Float64[np.ndarray, "p channels"]:
        """Return the activations of each position."""
        return self.maps[:, :channels].permute(0, 2, 3, 1).flatten(0, 2).double().numpy()


def _all_maps(
    labelled: LabelledImages, layer: str, batch_size: int
) -> Float32[Tensor, "n rows h w"]:
    """Return the maps of a layer for all images.

    Raises
    ------
    RecipeError
        If they do not fit into memory.
    """
    entry, count = labelled.database.layer(layer), len(labelled.samples)
    # float32 for all images, and float64 for half of them
    needed = 2 * 4 * count * entry.rows * entry.height * entry.width
    if needed > MEMORY:
        raise RecipeError(
            f"The maps of layer '{layer}' for {count} images take {needed / 2**30:.1f} GiB.",
            f"Expected at most {MEMORY / 2**30:.0f} GiB, since they are kept in memory.",
            f"Use {int(count * MEMORY / needed)} images, or a layer with smaller maps.",
        )
    stream = stream_maps(
        labelled.database, labelled.image, labelled.samples, [layer], batch_size, f"reading {layer}"
    )
    return torch.cat([maps[layer].cpu() for _, maps in stream])


def _frequent(
    labelled: LabelledImages, masks: Sequence[InputMasks], halves: Sequence[np.ndarray]
) -> list[int]:
    """Return the concepts that enough images of each half have.

    Raises
    ------
    DataError
        If there is none.
    """
    shape = len(labelled.masks.names)
    counts = [
        np.bincount(np.concatenate([masks[i].concepts for i in half]), minlength=shape)
        for half in halves
    ]
    frequent = np.flatnonzero(np.min(counts, axis=0) >= LEAST_IMAGES).tolist()
    if not frequent:
        raise DataError(
            f"No concept of '{labelled.masks.root}' is on {LEAST_IMAGES} images of each half.",
            "Expected masks of the same relative names as the images, with the ending .png.",
            "Check the names, or use more images.",
        )
    return frequent


def _segment(
    database: Database, layer: str, train: _Half, test: _Half, concepts: list[int],
    quantile: float, penalty: float,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Return the frame, the curves and the weights of one layer."""
    entry = database.layer(layer)
    thresholds = train.thresholds(quantile)
    fitted, held_out = (half.overlap(thresholds).iou for half in (train, test))
    activations = train.activations(entry.channels)
    components = [str(database.component(entry.first + i)) for i in range(entry.rows)]
    sizes = list(_powers_of_two(entry.channels))
    rows: list[dict[str, Any]] = []
    curves: list[pd.DataFrame] = []
    weights: list[pd.DataFrame] = []
    for number, concept in enumerate(concepts, start=1):
        name = test.labelled.masks.names[concept]
        key = {"layer": layer, "concept": name}
        best = int(fitted[:, concept].argmax())
        probe = fit_probe(activations, *train.shares(concept), penalty)
        directions = np.zeros((1 + len(sizes), entry.rows))
        directions[0, best] = 1
        directions[1:, : entry.channels] = [probe.largest(size) for size in sizes]
        single, *by_size = _held_out_iou(directions, train, test, concept)
        rows.append(
            {
                **key,
                "images": sum(concept in mask.concepts for mask in test.masks),
                "component": components[best],
                "at_quantile": held_out[best, concept],
                "single": single,
                "combined": by_size[-1],
                "needed": sizes[int(np.argmax(np.array(by_size) >= ENOUGH * by_size[-1]))],
            }
        )
        curves.append(pd.DataFrame({**key, "components": sizes, "iou": by_size}))
        order = np.argsort(-np.abs(probe.weights), kind="stable")
        named = {"component": [components[i] for i in order], "weight": probe.weights[order]}
        weights.append(pd.DataFrame({**key, **named}))
        report_progress(f"combining {layer}", number, len(concepts))
    return pd.DataFrame(rows), pd.concat(curves), pd.concat(weights)


def _held_out_iou(
    directions: Float64[np.ndarray, "s rows"], train: _Half, test: _Half, concept: int
) -> list[float]:
    """Return the IoU of scores on one half, at the thresholds that are best on the other."""
    weights = torch.from_numpy(directions).float()
    fitted, held_out = (torch.einsum("sc,nchw->nshw", weights, h.maps) for h in (train, test))
    scale = ScoreRange.of(fitted)
    best = scale.ious(fitted, train.masks, concept).argmax(1)
    return scale.ious(held_out, test.masks, concept)[np.arange(len(best)), best].tolist()


def _powers_of_two(limit: int) -> Iterator[int]:
    """Yield 1, 2, 4, ... and the limit."""
    size = 1
    while size < limit:
        yield size
        size *= 2
    yield limit
