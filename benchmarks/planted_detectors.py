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
IN_PLACE = 0.5
"""Share of a mark's opacity that must lie in the accused region."""
EXCITED = 6
"""Components that are accused because the surroundings of a class excite them."""
PASTED = 64
"""Images that surroundings are pasted onto, to find these components."""


@dataclass(frozen=True)
class Finding:
    """What a detector says about one class.

    Parameters
    ----------
    p_value
        Of the class, whatever the detector says about it.
    concept, category
        The spurious concept that is named, and its category.
    border
        Width of the border that the class relies on, as a share of the sides.
    """

    p_value: float
    concept: str | None = None
    category: str | None = None
    border: float | None = None

    @property
    def words(self) -> str | None:
        """What is named or localised, for a table."""
        return self.concept if self.border is None else f"border of {100 * self.border:.0f} %"


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
        spurious = one.summary.query("kind == 'spurious' and components > 0")
        first = spurious.iloc[0] if len(spurious) else {"concept": None, "category": None}
        findings[name] = Finding(one.p_value, first["concept"], first["category"])
    return Evidence(findings, lambda name: sweep.audits[name].of("spurious", "both"))


def border_swap(database: sl.ConceptDatabase) -> Evidence:
    """Paste the borders of every class's images; of the two widths, the smaller p is doubled."""
    frame = sl.border_swap(database).frame
    findings: dict[str, Finding] = {}
    for name, rows in frame.groupby("class"):
        first = rows.sort_values("p_value").iloc[0]
        p_value = min(1.0, len(rows) * float(first["p_value"]))
        findings[str(name)] = Finding(p_value, border=float(first["width"]))
    return Evidence(
        findings, lambda name: excited_by_border(database, name, findings[name].border or 0.25)
    )


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

    Named: the concept's category is the mark's kind. Localised: the accused region contains at
    least half of the mark, by opacity.
    """
    if finding.border is not None:
        return inside_border(world, finding.border) >= IN_PLACE
    return finding.category is not None and finding.category == CATEGORY.get(world.kind)


def inside_border(world: MarkedWorld, width: float) -> float:
    """Return the mean share of the marks' opacity that lies in the border."""
    shares: list[float] = []
    for mark in world.marks.values():
        opacity = np.asarray(mark)[..., 3].astype(float)
        x, y = round(width * mark.width), round(width * mark.height)
        middle = opacity[y : mark.height - y, x : mark.width - x].sum()
        shares.append(1 - middle / max(opacity.sum(), 1e-12))
    return float(np.mean(shares))


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


def cut_borders(
    database: sl.ConceptDatabase, samples: Sequence[int], width: float, folder: Path
) -> None:
    """Write the borders of images as cut-outs, which can be pasted in the same place."""
    folder.mkdir(parents=True, exist_ok=True)
    for sample in samples:
        piece = database.images.read(sample).convert("RGBA")
        x, y = round(width * piece.width), round(width * piece.height)
        hole = Image.new("RGBA", (piece.width - 2 * x, piece.height - 2 * y))
        piece.paste(hole, (x, y))
        piece.save(folder / f"{sample:06d}.png")
