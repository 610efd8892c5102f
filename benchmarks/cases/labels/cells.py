"""What every method finds of the units of a world, in every regime."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from benchmarks.cases.labels.hits import Hits, best_words, find_hits, judged, truths
from benchmarks.cases.labels.measures import (
    Phi,
    Scored,
    of_extents,
    of_similarities,
    prefers_right,
    sanity,
)
from benchmarks.cases.labels.methods import REFERENCES, ceiling
from benchmarks.cases.labels.scores import Cached, Labels, cpu_timed
from benchmarks.harness import log
from benchmarks.worlds.labelled.units import Units
from benchmarks.worlds.labelled.worlds import GAPS, with_gap
from semlens.errors import ConceptError
from semlens.lenses.labelling.labeller import Labeller
from semlens.lenses.labelling.registry import BUILT_IN

FEWEST = 5
"""Fewest unseen images of a word of the vocabulary; the paper generates 40 for each."""
TRAINED = ("logit", "channel", "unknown")
"""Kinds of units of trained networks, of which the paper's are."""
PAPER = {
    "random": 0.159,
    "invert-annotations": 0.514,
    "clip-dissect": 0.576,
    "semantic-lens": 0.542,
}
"""Means of the paper's networks with MobileCLIP-S2 and mean pooling."""


def faithfulness(
    units: Units, methods: Mapping[str, Labeller]
) -> dict[str, Float64[np.ndarray, " n"]]:
    """Return phi of each method's label of each unit, whatever its kind.

    Words without enough unseen images are left out of the vocabulary before units are labelled.
    """
    marks = units.unseen.annotations
    words = np.flatnonzero(marks.sum(0) >= FEWEST)
    if len(words) < 2:
        raise ConceptError(
            f"{len(words)} words of {units.world} have {FEWEST} unseen images.",
            "Expected two at least.",
            "Take more unseen images.",
        )
    marks, all_marks = marks[:, words], units.evidence.annotations
    evidence = replace(
        units.evidence,
        words=units.evidence.words[words],
        annotations=None if all_marks is None else all_marks[:, words],
    )
    phi, concepts = Phi(marks), marks.astype(np.float64)
    readouts = units.unseen.readouts.T.astype(np.float64)
    found = {}
    for name, method in methods.items():
        labels = cpu_timed(method, evidence)[0].argmax(1)
        pairs = zip(readouts, labels, strict=True)
        found[name] = np.array([phi(a, concepts[:, [word]])[0] for a, word in pairs])
    return found


CEILING = "semantic-lens-centred"
"""Method that labels the truth's own images, besides the default."""
FAITHFUL = ("random", "invert-annotations", "invert", "clip-dissect", "semantic-lens")
"""Methods of which the paper's faithfulness is measured, besides the default."""


@dataclass(frozen=True)
class Source:
    """A world, and how its units are loaded."""

    world: str
    opened_once: bool
    load: Callable[[str], list[Units]]
    """From the specification of an embedder to units; the same ones for every embedder."""


@dataclass(frozen=True)
class Job:
    """What is measured."""

    embedders: tuple[str, ...]
    methods: Mapping[str, Labeller]
    default: str
    folder: Path
    """Where labels are remembered."""
    secondary: bool = True
    """Whether more than hits is measured."""


@dataclass(frozen=True, order=True)
class Regime:
    """Conditions that labels are compared in."""

    data: str
    embedder: str
    gap: str


@dataclass(frozen=True, eq=False)
class Cell:
    """Units of one world in one regime, and what each method found of those that are judged."""

    world: str
    opened_once: bool
    regime: Regime
    subject: str
    units: int
    kinds: tuple[str, ...]
    truths: tuple[str, ...]
    hits: dict[str, Hits]
    seconds: dict[str, float]
    ceiling: dict[str, Hits]
    secondary: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    """By measure and method, the value of each unit's label."""
    sanity: dict[str, np.ndarray] = field(default_factory=dict)
    """By measure, whether missing and extra labels score less."""
    prefers: dict[str, np.ndarray] = field(default_factory=dict)
    """By measure, whether the right word scores more than wrong ones."""
    faithfulness: dict[str, np.ndarray] = field(default_factory=dict)
    """By method, phi of every unit."""
    trained: np.ndarray | None = None
    """bool[units], which units are of a trained network."""


def measure_world(source: Source, job: Job) -> list[Cell]:
    """Load the units of a world once for each embedder, and measure all methods on them."""
    opened = {embedder: source.load(embedder) for embedder in job.embedders}
    cells = []
    for number, views in enumerate(zip(*opened.values(), strict=True)):
        _check_same(views)
        parts = dict(zip(opened, views, strict=True))
        scored = of_extents(views[0], judged(views[0])) if job.secondary else {}
        for embedder, gap in ((one, gap) for one in job.embedders for gap in GAPS):
            started = time.perf_counter()
            other = next((one for one in job.embedders if one != embedder), None)
            cells.append(
                _measure(source, job, number, Regime(views[0].data, embedder, gap), parts[embedder],
                         parts[other] if other else None, scored)
            )  # fmt: skip
            seconds = time.perf_counter() - started
            log(f"{source.world}, part {number}, {embedder}, gap {gap}: {seconds:.0f} s")
    return cells


def _measure(
    source: Source,
    job: Job,
    number: int,
    regime: Regime,
    units: Units,
    other: Units | None,
    scored: dict[str, Scored],
) -> Cell:
    strength = GAPS[regime.gap]
    shown = with_gap(units, strength) if strength else units
    place = f"{number}-{regime.embedder}-{regime.gap}".replace("/", "-").replace(":", "-")
    cached = Cached(shown, job.folder / source.world / place)
    rows, nearly = judged(units), units.nearly_right
    labels = {name: cached.labels(name, one) for name, one in {**job.methods, **REFERENCES}.items()}
    cell = Cell(
        source.world, source.opened_once, regime, units.subject, len(units),
        tuple(units.kind[row] for row in rows), truths(units, rows),
        {name: find_hits(one.best[rows], units.right[rows], nearly[rows])
         for name, one in labels.items()},
        {name: one.seconds for name, one in labels.items()},
        _ceiling(shown, rows, nearly, job),
        trained=np.array([kind in TRAINED for kind in units.kind]),
    )  # fmt: skip
    if job.secondary:
        scored = scored | {"simulation": of_similarities(units, shown, rows)}
        if other is not None:
            scored["simulation, other embedder"] = of_similarities(units, other, rows)
        _add_secondary(cell, units, rows, labels, scored)
        if not strength:
            wanted = dict.fromkeys((*FAITHFUL, job.default))
            known = {**BUILT_IN, **job.methods}
            cell.faithfulness.update(faithfulness(units, {name: known[name] for name in wanted}))
    return cell


def _ceiling(units: Units, rows: np.ndarray, nearly: np.ndarray, job: Job) -> dict[str, Hits]:
    evidence, place = ceiling(units, rows)
    known = {**BUILT_IN, **job.methods}
    found = {}
    for name in dict.fromkeys((job.default, CEILING)):
        best = best_words(cpu_timed(known[name], evidence)[0])
        found[name] = find_hits(best[place], units.right[rows], nearly[rows])
    return found


def _add_secondary(
    cell: Cell,
    units: Units,
    rows: np.ndarray,
    labels: Mapping[str, Labels],
    scored: Mapping[str, Scored],
) -> None:
    own = {name: one for name, one in labels.items() if name not in REFERENCES}
    wrong = {name: one.wrong[rows] for name, one in own.items()}
    asked = [units.right[rows].argmax(1), *wrong.values()]
    asked += [one.best[rows, 0] for one in labels.values()]
    for measure, one in scored.items():
        one.fill(np.stack(asked, 1))
        cell.secondary[measure] = {
            name: one.of(found.best[rows, 0]) for name, found in labels.items()
        }
        if cell.regime.gap == "none":
            cell.sanity[measure] = sanity(one, units, rows)
            cell.prefers[measure] = prefers_right(one, units, rows, wrong)


def _check_same(views: Sequence[Units]) -> None:
    """Check that embedders see the same units on the same images."""
    first = views[0]
    for other in views[1:]:
        if not (
            first.words == other.words
            and first.kind == other.kind
            and np.array_equal(first.right, other.right)
            and np.array_equal(first.unseen.annotations, other.unseen.annotations)
        ):
            raise ValueError(
                f"The units of {first.world} seen through {first.embedder} are not those seen "
                f"through {other.embedder}. Expected the same units and unseen images."
            )
