"""Confidence of labels: fitted on units of known content, and measured on others.

    python -m benchmarks label_confidence --work W                 # fit on the development worlds
    python -m benchmarks label_confidence --work W --save          # and ship the result
    python -m benchmarks label_confidence --work W --opened-once   # measure on the other worlds

A label is right if its word is right or nearly right (``Units.nearly_right``). Units are labelled
with the whole vocabulary, with one that lacks every such word, and with small random ones; labels
of units without a right word in the vocabulary, and of noise, are wrong. The first kind has half of
the weight. ``figures`` are records of measurements:

``fitted_on``
    "other world": fitted on the other development world, same embedder; "other embedder": on the
    other world and the other embedder; "development": on all development worlds, same embedder.
``ece``, ``brier``, ``brier_base``, ``auroc``
    Expected calibration error in ten bins of equal weight, Brier score, that of the share of right
    labels as the probability of each, and area under the ROC curve.
``families``
    Mean confidence and share of right labels by kind of vocabulary.
``above_half``
    Share of units with a confidence above .5: those with a right word in the vocabulary
    (``before``), those whose label is right, the same units as in ``before`` when these words were
    removed (``after``), noise, and components without a meaning.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import semlens as sl
from benchmarks.cases.labels.confidence import Labelled, Measured, fit, labelled, measured
from benchmarks.harness import benchmark, log
from benchmarks.worlds.cache import default_cache
from benchmarks.worlds.labelled.scenes import EMBEDDERS, WORLDS
from benchmarks.worlds.labelled.synthetic import planted
from benchmarks.worlds.labelled.units import Units
from benchmarks.worlds.labelled.worlds import GAPS, load_units, with_gap
from semlens.draw.figure import INK, SERIES, SOFT, new_figure, styled, write_picture
from semlens.lenses.labelling import confidence
from semlens.lenses.labelling.confidence import ANY, FEATURES, Calibration
from semlens.lenses.labelling.registry import BUILT_IN

METHODS = ("vote", "vote-examples")
ASSET = Path(confidence.__file__).parents[2] / "assets" / "labels" / "confidence.json"
OPTIONS: dict[str, dict[str, Any]] = {
    "--cache": {"type": Path, "help": "folder of the units; by default in the user's cache"},
    "--units": {"type": Path, "help": "folder of npz files of units, instead of worlds"},
    "--save": {"action": "store_true", "help": "write the fit to the package"},
    "--opened-once": {"action": "store_true", "help": "measure on the worlds opened once"},
    "--figure": {"type": Path, "help": "write the reliability diagram to this file"},
}
Case = tuple[str, Labelled]
"""Method, and labels of units by it."""


def development_units(options: argparse.Namespace, work: Path) -> Iterator[Units]:
    """Yield the units of the development worlds."""
    if options.quick:
        yield from (planted(world, name) for world in (0, 1) for name in ("a", "b"))
    elif options.units:
        from benchmarks.worlds.labelled.units import read_units

        yield from (read_units(path) for path in sorted(options.units.glob("dev-*.npz")))
    else:
        yield from world_units(options, work, opened_once=False)


def world_units(options: argparse.Namespace, work: Path, *, opened_once: bool) -> Iterator[Units]:
    """Yield the units of some worlds."""
    cache = options.cache or default_cache().with_name("labels")
    for spec in WORLDS:
        if spec.opened_once == opened_once:
            for embedder in EMBEDDERS:
                yield from load_units(spec, embedder, cache, work)


def label_all(found: Iterator[Units]) -> list[Case]:
    """Label units by each method, behind each modality gap."""
    cases: list[Case] = []
    for units in found:
        for gap, strength in GAPS.items():
            for method in METHODS:
                seen = with_gap(units, strength)
                cases.append((method, labelled(seen, BUILT_IN[method], gap)))
        what = units.subject or "hand-built"
        log(f"{units.world}, {units.embedder}, {what}: {len(units)} units labelled")
    return cases


def calibrate(cases: Sequence[Case]) -> list[Calibration]:
    """Fit a calibration for each embedder and method, and one on all embedders."""
    embedders = sorted({one.embedder for _, one in cases})
    return [
        _calibration(name, method, _chosen(cases, method, some))
        for method in METHODS
        for name, some in [*((one, [one]) for one in embedders), (ANY, embedders)]
    ]


def _calibration(embedder: str, method: str, chosen: Sequence[Labelled]) -> Calibration:
    known = embedder.startswith("semlens/")
    fingerprint = sl.load_embedder(embedder).fingerprint if known else ""
    about = {
        "worlds": sorted({one.world for one in chosen}),
        "labels": sum(map(len, chosen)),
        "right": round(
            sum(o.weight @ o.right for o in chosen) / sum(o.weight.sum() for o in chosen), 3
        ),
    }
    parameters = BUILT_IN[method].model_dump()
    return Calibration(embedder, fingerprint, method, parameters, **fit(chosen), fitted_on=about)


def _chosen(
    cases: Sequence[Case], method: str, embedders: Sequence[str], *, but: str = ""
) -> list[Labelled]:
    return [
        one
        for name, one in cases
        if name == method and one.embedder in embedders and one.world != but
    ]


def figures(cases: Sequence[Case], tested: Sequence[Case], *, apart: bool) -> list[Measured]:
    """Measure fits on units of other worlds.

    Parameters
    ----------
    apart
        Whether ``tested`` are of other worlds than ``cases``; otherwise each world is left out
        in turn.
    """
    found: list[Measured] = []
    embedders = sorted({one.embedder for _, one in tested})
    worlds = sorted({one.world for _, one in tested})
    own = "development" if apart else "other world"
    for method in METHODS:
        for embedder in embedders:
            others = [other for other in embedders if other != embedder]
            for fitted_on, sources in {own: [embedder], "other embedder": others}.items():
                parts: list[tuple[Labelled, Calibration]] = []
                for world in worlds:
                    train = _chosen(cases, method, sources, but="" if apart else world)
                    if train:
                        made = _calibration("", method, train)
                        rest = _chosen(tested, method, [embedder])
                        parts += [(one, made) for one in rest if one.world == world]
                if parts:
                    found.append(measured(method, embedder, fitted_on, parts))
    return found


@benchmark(minutes=5, quoted=("docs/labelling.md",), options=OPTIONS)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Fit, measure, and write what was asked for."""
    cases = label_all(development_units(options, work))
    found = figures(cases, cases, apart=False)
    if options.opened_once:
        tested = label_all(world_units(options, work, opened_once=True))
        found = figures(cases, tested, apart=True)
    shipped = calibrate(cases)
    if options.save:
        text = {"features": FEATURES, "calibrations": [asdict(one) for one in shipped]}
        ASSET.parent.mkdir(exist_ok=True)
        ASSET.write_text(json.dumps(text, indent=1) + "\n", "utf-8")
    if options.figure is not None:
        draw(found, options.figure)
    return {
        "features": list(FEATURES),
        "calibrations": [asdict(one) for one in shipped],
        "figures": [asdict(one) for one in found],
    }


@styled
def draw(found: Sequence[Measured], path: Path) -> None:
    """Draw the share of right labels by confidence: one panel per method and embedder."""
    panels: dict[tuple[str, str], list[Measured]] = {}
    for one in found:
        panels.setdefault((one.method, one.embedder), []).append(one)
    figure, drawn = new_figure(3.0 * len(panels), 3.2, 1, len(panels), sharex=True, sharey=True)
    for axes, ((method, embedder), some) in zip(drawn, panels.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=INK, lw=0.8, ls="--")
        for colour, one in zip(SERIES, some, strict=False):
            mean, share, low, high = (np.array(values) for values in one.bins.values())
            axes.vlines(mean, low, high, color=colour, lw=1, alpha=0.5)
            axes.plot(mean, share, marker="o", ms=4, color=colour, label=one.fitted_on)
        axes.set_title(f"{method}, {embedder}", fontsize=8)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence")
        axes.legend(loc="upper left", title="fitted on", title_fontsize=8)
    drawn[0].set_ylabel("share of right labels", color=SOFT)
    write_picture(figure, path, path.suffix[1:])
