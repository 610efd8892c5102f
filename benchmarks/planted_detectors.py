"""The detectors: what each says about every class of a database, without knowing the mark.

A detector is a function from a database to :class:`Evidence`. Whether what it says is right is
decided afterwards, with :func:`is_right`, from the true mark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

import semlens as sl
from semlens.analysis.border_swap import paste_border
from semlens.analysis.classes import find_class, true_classes
from semlens.analysis.concepts import load_sets
from semlens.demo.bundled_images import MarkedWorld
from semlens.models.forward import readouts
from semlens.types import Component

LEVEL = 0.05
"""Family-wise error rate of a world, over classes and detectors."""
CATEGORY = MappingProxyType(
    {
        "text": "text",
        "patch": "patch",
        "texture": "pattern",
        "background": "background",
        "border": "frame",
        "cast": "colour",
    }
)
"""Category of the concept set ``artefacts`` that names each kind of mark."""
SIZE = 96
"""Pixels of both sides of all images."""
IN_PLACE = 0.5
"""Overlap of an accused region with the mark for which it counts as right."""
EXCITED = 6
"""Components that are accused because the surroundings of a class excite them."""
PASTED = 64
"""Images that surroundings are pasted onto, to find these components."""


@dataclass(frozen=True, eq=False)
class Finding:
    """What a detector says about one class.

    Parameters
    ----------
    p_value
        Of the class, whatever the detector says about it.
    said
        The concept or the region that is accused, in words.
    category
        Category of an accused concept.
    region
        An accused region: the pixels of an image of ``SIZE``.
    """

    p_value: float
    said: str | None = None
    category: str | None = None
    region: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Evidence:
    """What a detector says about every class.

    Parameters
    ----------
    findings
        By class.
    accuse
        Returns the accused components of a class, first the most suspected.
    """

    findings: Mapping[str, Finding]
    accuse: Callable[[str], list[Component]] = field(repr=False)


Detector = Callable[[sl.ConceptDatabase], Evidence]


def audit(database: sl.ConceptDatabase) -> Evidence:
    """Audit every class with the bundled sets."""
    sets = [*load_sets("demo-world"), *load_sets("artefacts")]
    sweep = sl.audit_all(database, sets)
    findings: dict[str, Finding] = {}
    for name, one in sweep.audits.items():
        category = one.summary.set_index("concept")["category"].get(one.suspect)
        findings[name] = Finding(one.p_value, one.suspect, category)
    return Evidence(findings, lambda name: sweep.audits[name].of("spurious", "both"))


def border_swap(database: sl.ConceptDatabase) -> Evidence:
    """Paste the borders of every class's images; of the two widths, the smaller p is doubled."""
    frame = sl.border_swap(database).frame
    findings: dict[str, Finding] = {}
    widths: dict[str, float] = {}
    for key, rows in frame.groupby("class"):
        name, first = str(key), rows.sort_values("p_value").iloc[0]
        width = widths[name] = float(first["width"])
        p_value = min(1.0, len(rows) * float(first["p_value"]))
        said = f"border of {100 * width:.0f} %"
        findings[name] = Finding(p_value, said, region=border_region(width))
    return Evidence(findings, lambda name: excited_by_border(database, name, widths[name]))


def border_region(width: float) -> np.ndarray:
    """Return the pixels of a border, as a share of the sides."""
    region = np.ones((SIZE, SIZE), bool)
    edge = round(width * SIZE)
    region[edge : SIZE - edge, edge : SIZE - edge] = False
    return region


DETECTORS: Mapping[str, Detector] = MappingProxyType({"audit": audit, "border_swap": border_swap})


def excited_by_border(
    database: sl.ConceptDatabase, target: str, width: float, seed: int = 0
) -> list[Component]:
    """Return the components that borders of a class's images excite most, on other images.

    By the mean rise of the readout over that with a border of a third class, in units of the
    rise's standard deviation.
    """
    logit, number = true_classes(database), find_class(database, target)
    random = np.random.default_rng(seed)
    own = np.flatnonzero(logit == number)
    other = np.flatnonzero(~np.isnan(logit) & (logit != number))
    receivers = random.choice(other, PASTED)
    third = [int(random.choice(other[logit[other] != logit[r]])) for r in receivers]
    readings = [
        border_readouts(database, receivers.tolist(), sources, width)
        for sources in (random.choice(own, PASTED).tolist(), third)
    ]
    effects: dict[Component, float] = {}
    for row in range(database.manifest.rows):
        component = database.component(row)
        of_class, of_third = (one[component.layer][:, component.index] for one in readings)
        rise = component.sign * (of_class - of_third)
        effects[component] = float(rise.mean() / max(rise.std(), 1e-12))
    return sorted(effects, key=lambda component: -effects[component])[:EXCITED]


def border_readouts(
    database: sl.ConceptDatabase, receivers: Sequence[int], sources: Sequence[int], width: float
) -> dict[str, np.ndarray]:
    """Return the readouts [n channels] by layer of images with the borders of others."""
    images = database.images

    def read(i: int) -> Image.Image:
        return paste_border(images.read(receivers[i]), images.read(sources[i]), width)

    recipe = database.manifest.recipe
    return readouts(database.model, read, range(len(receivers)), database.layers, recipe.readout)


def is_right(finding: Finding, world: MarkedWorld) -> bool:
    """Return whether what is said about the target names or localises the true mark.

    Named: the concept's category is the mark's kind. Localised: the accused region and the pixels
    that any of the marks changes have at least half of the smaller one in common.
    """
    if finding.region is not None:
        return overlap(finding.region, mark_region(world)) >= IN_PLACE
    return finding.category is not None and finding.category == CATEGORY.get(world.kind)


def mark_region(world: MarkedWorld) -> np.ndarray:
    """Return the pixels that any of the marks changes."""
    return np.any([np.asarray(mark)[..., 3] > 0 for mark in world.marks.values()], axis=0)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the overlap coefficient of two regions: the common part of the smaller one."""
    return float((first & second).sum() / max(1, min(first.sum(), second.sum())))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return Holm's adjusted p-values: those below a level are rejected at that family-wise rate.

    A test without a p-value (NaN) counts as one that was not rejected.
    """
    p = np.nan_to_num(np.asarray(p_values, float), nan=1.0)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def cut_out(
    database: sl.ConceptDatabase, samples: Sequence[int], region: np.ndarray, folder: Path
) -> None:
    """Write a region of some images as cut-outs, which can be pasted in the same place."""
    folder.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.where(region, 255, 0).astype(np.uint8))
    for sample in samples:
        piece = database.images.read(sample).convert("RGBA")
        piece.putalpha(mask.resize(piece.size, Image.Resampling.NEAREST))
        piece.save(folder / f"{sample:06d}.png")
