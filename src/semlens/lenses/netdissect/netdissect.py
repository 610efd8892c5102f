"""Network Dissection: how well the maps of components segment concepts (Bau et al. 2017)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Float64, Int64
from rich.console import Group, RenderableType
from scipy.stats import false_discovery_control

from semlens.draw.text_table import titled_table
from semlens.errors import DataError
from semlens.figures import FigureSpec, PictureRow, Pictures, Series, Values
from semlens.lens import lens
from semlens.lenses.netdissect.detector_pictures import detector_strips
from semlens.lenses.netdissect.labelled_images import LabelledImages, labelled_images
from semlens.lenses.netdissect.layer_maps import layers_with_maps, stream_maps
from semlens.lenses.netdissect.overlap import Overlap, orders_for, shifted_p_values
from semlens.lenses.netdissect.score_thresholds import UpperQuantile
from semlens.lenses.result import Result, Section
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Layers

QUANTILE, LEAST_IOU = 0.005, 0.04
"""Share of positions at which a component is on, and IoU of a detector, of the paper."""
RESOLUTION = 112
"""Rows and columns at which maps and masks are compared (paper: 112 for inputs of 224)."""
SHOWN, EXAMPLES = 6, 6
"""Detectors in a plot, and images of each."""

MaskPath = Annotated[
    str | Path,
    setting("Masks: a folder of PNGs per concept, or indexed PNGs and classes.txt or .json."),
]
Resolution = Annotated[
    int, setting("Rows and columns at which maps and masks are compared, at most.", ge=8)
]
Quantile = Annotated[
    float, setting("Share of all positions at which a component is on.", gt=0, lt=1)
]


@dataclass(frozen=True, eq=False, repr=False)
class NetDissection(Result):
    """What components segment.

    Parameters
    ----------
    frame
        The components, largest IoU first: ``component``, ``concept`` (of largest IoU), ``iou``,
        ``expected`` (IoU of the same maps with the concept's masks of other images), ``p_value``,
        ``q_value`` (adjusted by Benjamini and Hochberg), ``detector``, ``threshold``, ``row`` and
        ``strongest`` (the samples on which the maximum of its map is largest).
    concepts
        The concepts, most detectors first: ``concept``, ``area`` (share of the labelled pixels),
        ``detectors``, ``component`` and ``iou`` (of the best component).
    iou
        float64[components concepts], in the order of the database's rows and of ``names``.
    names
        The concepts.
    least_iou, rate
        What a detector exceeds, and the false-discovery rate.
    """

    labelled: LabelledImages
    frame: pd.DataFrame
    concepts: pd.DataFrame
    iou: Float64[np.ndarray, "components concepts"]
    names: tuple[str, ...]
    least_iou: float
    rate: float

    @property
    def detectors(self) -> pd.DataFrame:
        """The rows of the detectors."""
        return self.frame.loc[self.frame["detector"]]

    @cached_property
    def summary(self) -> str:
        """How many components are detectors, of how many concepts, in a sentence."""
        found = self.detectors
        return (
            f"{len(found)} of {len(self.frame)} components are detectors of "
            f"{found['concept'].nunique()} of {len(self.names)} concepts"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "images": len(self.labelled.samples),
            "masks": str(self.labelled.masks.root),
            "grid": list(self.labelled.grid),
            "least_iou": self.least_iou,
            "rate": self.rate,
            "detectors": len(self.detectors),
            "concepts": self.concepts.to_dict("records"),
            "components": self.frame.drop(columns="row").to_dict("records"),
        }

    def figure(self) -> FigureSpec:
        """Return the best detectors, on the images on which they are strongest."""
        shown = (self.detectors if len(self.detectors) else self.frame).head(SHOWN)
        strips = detector_strips(self.labelled, shown, self.names)
        names = [f"{row['concept']} ({row['component']})" for row in shown.to_dict("records")]
        ious = [
            Series(shown["iou"].tolist(), "its own masks"),
            Series(shown["expected"].tolist(), "those of other images"),
        ]
        pictures = [PictureRow(strip, name) for strip, name in zip(strips, names, strict=True)]
        return FigureSpec(
            self.summary,
            [
                Pictures("Bright: on; outlined: the concept's mask", pictures),
                Values("", names, ious, "IoU", reference=self.least_iou),
            ],
        )

    def section(self, target: str | None = None) -> Section:
        """Return the detectors in sentences."""
        best = [
            f"{row['component']} detects {row['concept']} (IoU {row['iou']:.3f})"
            for row in self.detectors.head(3).to_dict("records")
        ]
        sentences = [f"{self.summary}.", *([f"{', '.join(best)}."] if best else [])]
        table = self.frame.drop(columns=["row", "strongest"])
        limits = (
            f"A detector has an IoU above {self.least_iou:g} and fits its own images' masks better "
            "than those of other images; it may respond to more than the concept."
        )
        return Section(sentences, self.figure(), table, limits)

    def __rich__(self) -> RenderableType:
        """Return the best components and the concepts."""
        shown = self.frame.drop(columns=["row", "threshold", "strongest"]).head(20)
        shown = shown.assign(
            **{name: shown[name].map("{:.4f}".format) for name in ("p_value", "q_value")}
        )
        large = np.count_nonzero(self.frame["iou"] > self.least_iou)
        criteria = (
            f"IoU above {self.least_iou:g} over {len(self.labelled.samples)} images: {large} "
            f"components; of these, better than with the masks of other images, at a "
            f"false-discovery rate of {self.rate:g}: {len(self.detectors)}."
        )
        tables = [
            *titled_table(self.summary, shown), *titled_table("concepts", self.concepts.head(20))
        ]  # fmt: skip
        return Group(*tables, criteria)


@lens(
    "model", "images", group="Describe", command="concepts netdissect",
    example="concepts netdissect r18.semlens --masks masks/ --save netdissect.png",
)  # fmt: skip
def netdissect(
    database: Database,
    masks: MaskPath,
    layers: Layers = None,
    *,
    quantile: Quantile = QUANTILE,
    least_iou: Annotated[float, setting("IoU that a detector exceeds.", ge=0, lt=1)] = LEAST_IOU,
    rate: Annotated[float, setting("False-discovery rate of detectors.", gt=0, lt=1)] = 0.05,
    within_classes: Annotated[
        bool, setting("Compare with the masks of other images of the same class only.")
    ] = False,
    resolution: Resolution = RESOLUTION,
    samples: Annotated[
        int | None, setting("Images at most, drawn at random [all with masks].", ge=8)
    ] = None,
    seed: Annotated[int, setting("Which images are drawn, and how they are shuffled.", ge=0)] = 0,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
) -> NetDissection:
    """Compare the activation maps of components with masks of concepts (Network Dissection).

    A component is on where its map, up-sampled bilinearly, exceeds the value that it exceeds at a
    share (`--quantile`) of all positions of all images. Its IoU with a concept is over all images.
    A detector has an IoU above `--least-iou`, and fits the masks of its own images better than
    those of other images (of the same class, with `--within-classes`).

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
        If the masks cannot be read, are empty, or belong to other images.
    ModelError
        If the preprocessing does more than resize, crop, pad or mirror.
    RecipeError
        If the largest activations do not fit into memory.
    """
    names = layers_with_maps(database, layers)
    labelled = labelled_images(database, masks, resolution, samples, seed)
    thresholds, strongest = find_thresholds(labelled, names, quantile, batch_size)
    overlap = find_overlap(labelled, names, thresholds, batch_size)
    groups = _classes(labelled) if within_classes else np.zeros(len(labelled.samples), np.int64)
    orders = orders_for(len(thresholds), len(groups), rate)
    p = shifted_p_values(overlap.cells, groups, orders, seed)
    frame = _components(labelled, names, overlap, p).assign(strongest=strongest.tolist())
    frame["detector"] = (frame["iou"] > least_iou) & (frame["q_value"] <= rate)
    concepts = _concepts(labelled, overlap, frame)
    frame = frame.sort_values(["iou", "row"], ascending=[False, True], ignore_index=True)
    return NetDissection(
        labelled, frame, concepts, overlap.iou, tuple(labelled.masks.names), least_iou, rate
    )


def find_thresholds(
    labelled: LabelledImages, layers: list[str], quantile: float, batch_size: int
) -> tuple[Float32[np.ndarray, " components"], Int64[np.ndarray, "components images"]]:
    """Return each component's threshold, and the samples on which its map's maximum is largest."""
    database = labelled.database
    entries = [database.layer(name) for name in layers]
    samples = labelled.samples
    quantiles = {
        e.name: UpperQuantile(e.rows, len(samples) * e.height * e.width, quantile) for e in entries
    }
    peaks, where = torch.empty(0), torch.empty(0, dtype=torch.int64)
    stream = stream_maps(
        database, labelled.image, samples, layers, batch_size, "finding thresholds"
    )
    for part, maps in stream:
        for name, values in maps.items():
            quantiles[name].update(values.flatten(2).transpose(0, 1).flatten(1))
        new = torch.cat([maps[name].amax((2, 3)).cpu() for name in layers], 1)
        numbers = torch.from_numpy(samples[part])[:, None].expand(-1, new.shape[1])
        peaks, where = (
            torch.cat(pair) if pair[0].numel() else pair[1]
            for pair in ((peaks, new), (where, numbers))
        )
        peaks, place = peaks.topk(min(EXAMPLES, len(peaks)), dim=0)
        where = where.gather(0, place)
    thresholds = torch.cat([quantiles[name].result().cpu() for name in layers])
    return thresholds.numpy(), where.T.numpy()


def find_overlap(
    labelled: LabelledImages,
    layers: list[str],
    thresholds: Float32[np.ndarray, " components"],
    batch_size: int,
) -> Overlap:
    """Compare thresholded maps with the masks.

    Raises
    ------
    DataError
        If no image has a pixel of any concept.
    """
    overlap = Overlap(thresholds, len(labelled.masks.names), labelled.grid)
    stream = stream_maps(
        labelled.database, labelled.image, labelled.samples, layers, batch_size,
        "comparing with masks",
    )  # fmt: skip
    for part, maps in stream:
        first, masks = 0, labelled.masks_of(labelled.samples[part])
        for name in layers:
            overlap.add(maps[name], first, masks)
            first += maps[name].shape[1]
        overlap.add_masks(masks)
    if not overlap.masked.any():
        raise DataError(
            f"The masks in '{labelled.masks.root}' mark no pixel of the "
            f"{len(labelled.samples)} images.",
            "Expected a mask of the same relative name as its image, with the ending .png.",
            "Check the names, for example with db.samples['path'].",
        )
    return overlap


def _classes(labelled: LabelledImages) -> Int64[np.ndarray, " images"]:
    """Return the number of each image's class in the data.

    Raises
    ------
    DataError
        If the classes are not known.
    """
    numbers, names = pd.factorize(labelled.database.samples["target"][labelled.samples])
    if not len(names):
        raise DataError(
            "The classes of the images are not known.",
            "Expected a database of images with classes.",
            "Compare with the masks of all images.",
        )
    return numbers.astype(np.int64)  # -1 for images without a class


def _components(
    labelled: LabelledImages, layers: list[str], overlap: Overlap, p: np.ndarray
) -> pd.DataFrame:
    """Return the best concept of each component."""
    rows, iou = labelled.database.rows(layers), overlap.iou
    best = iou.argmax(1)
    each = np.arange(len(rows))
    return pd.DataFrame(
        {
            "component": [str(labelled.database.component(int(row))) for row in rows],
            "concept": [labelled.masks.names[i] for i in best],
            "iou": iou[each, best],
            "expected": overlap.expected[each, best],
            "p_value": p,
            "q_value": false_discovery_control(p),
            "detector": False,
            "threshold": overlap.thresholds.astype(np.float64),
            "row": rows,
        }
    )


def _concepts(labelled: LabelledImages, overlap: Overlap, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the best component of each concept, and the number of its detectors."""
    best = overlap.iou.argmax(0)
    detectors = Counter(frame.loc[frame["detector"], "concept"])
    names = labelled.masks.names
    table = pd.DataFrame(
        {
            "concept": names,
            "area": overlap.masked / max(overlap.cells.valid.sum(), 1),
            "detectors": [detectors[name] for name in names],
            "component": frame["component"].to_numpy()[best],
            "iou": overlap.iou.max(0),
        }
    )
    order = ["detectors", "iou"]
    return table.sort_values(order, ascending=False, kind="stable", ignore_index=True)
