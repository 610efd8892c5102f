"""Calibration: p-values of every test, simulated where there is nothing to find.

    python -m benchmarks calibration [--json] [--draws 2000] [--figure FILE] [--only TEST ...]

Every test is run as it is shipped, on values that mean nothing, ``--draws`` times. ``tests`` is a
list with a record per test and null:

``name``, ``null``, ``kind``
    What was tested, on what. ``kind`` is "null"; "violated" if there is nothing to find, but the
    test's assumptions do not hold; "no null" if there may be something to find; "unused" for what
    semlens does not do, for comparison.
``below_05``, ``below_01``
    Share of the p-values below .05 and .01, with 95 % intervals ``_low`` and ``_high``; of single
    classes ``below_05_by_class``.
``family_wise_05``
    Share of the draws in which some class is an alarm, tested together as the question does.

``rates`` are verdicts: ``rate`` should be ``nominal``. ``alarms`` has a record per question, family
of distributions and number of classes:

``rate``, ``power``
    Share of the draws in which any class raises the alarm without an artefact, where one class lies
    at the margin; and in which the class with an artefact does.
``used``
    Whether semlens does that; otherwise it is there for comparison.
``above``
    Whether the rate is above .05 by one limit over all records (Bonferroni).

``intervals`` has a record per interval that is printed: ``name``, ``case``, ``coverage``, and
whether it is ``below`` the ``nominal`` one, likewise; ranges have none.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

import semlens as sl
from benchmarks.cases.calibration import alarms, labels
from benchmarks.cases.calibration import demo as on_demo
from benchmarks.cases.calibration import tests as simulated
from benchmarks.cases.calibration.alarms import Alarm
from benchmarks.cases.calibration.intervals import Coverage, intervals
from benchmarks.cases.calibration.rates import Rate, Simulation
from benchmarks.harness import Clock, benchmark, log, table
from semlens.demo.bundled_images import DemoWorld
from semlens.demo.walkthrough import build_demo
from semlens.draw.figure import INK, SERIES, SOFT, new_figure, styled, write_picture

Part = Callable[[np.random.Generator, int], Iterator[Simulation | Rate | Alarm | Coverage]]
COLUMNS = 4
"""Panels in a row of the figure."""
BINS = 20
OPTIONS: dict[str, dict[str, Any]] = {
    "--draws": {"type": int, "default": 2000, "help": "simulations of each test"},
    "--figure": {"type": Path, "help": "write histograms of the p-values to this file"},
    "--database": {"type": Path, "help": "database of the demo's classes, instead of building one"},
    "--target": {"help": "class with an artefact in this database"},
    "--only": {"nargs": "+", "default": [], "help": "only these parts (functions)"},
}


def open_demo(options: argparse.Namespace, work: Path) -> on_demo.Demo:
    """Open the demo's database, or build it in the work folder."""
    world = DemoWorld()
    path = options.database or work / "demo.semlens"
    if not path.is_dir():
        log("building the demo's database")
        build_demo(work, world)
    if not (work / "images").is_dir():
        world.unpack(work / "images")
    return on_demo.Demo(sl.open(path), options.target or world.target)


def parts(options: argparse.Namespace, work: Path) -> dict[str, Part]:
    """Return what is simulated, in the order of the tables."""
    without = (
        alarms.swap_alarms, alarms.audit_alarms, alarms.contrast_alarms, intervals,
    )  # fmt: skip
    if options.only and {*options.only} <= {part.__name__ for part in without}:
        return {part.__name__: part for part in without if part.__name__ in options.only}
    demo = open_demo(options, work)
    found: tuple[Part, ...] = (
        simulated.class_contrasts,
        simulated.permutations,
        partial(on_demo.rotations, demo),
        partial(on_demo.real_words, demo),
        simulated.masking,
        simulated.random_lists,
        partial(on_demo.lists, demo),
        partial(on_demo.random_components, demo),
        simulated.verdicts,
        partial(on_demo.thresholds, demo),
        partial(labels.untrained, demo, work),
        partial(labels.structured, demo, work),
        partial(labels.planted, demo),
        simulated.suspects,
        partial(on_demo.rotated_vocabulary, demo),
        simulated.group_contrasts,
        *without,
    )
    named = {getattr(part, "func", part).__name__: part for part in found}
    return {name: part for name, part in named.items() if not options.only or name in options.only}


@benchmark(minutes=6, quoted=("docs/calibration.md",), options=OPTIONS)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Simulate all tests in sequence."""
    draws = 20 if options.quick else options.draws
    results: list[Simulation | Rate | Alarm | Coverage] = []
    for name, part in parts(options, work).items():
        clock = Clock()
        with clock:  # a seed of its own, so that a part does not depend on the others
            results += part(np.random.default_rng(zlib.crc32(name.encode())), draws)
        log(f"{name}: {clock.seconds:.0f} s")
    simulations = [one for one in results if isinstance(one, Simulation)]
    if options.figure is not None:
        draw_histograms([one for one in simulations if one.drawn], options.figure)
    raised = [one for one in results if isinstance(one, Alarm)]
    records = [one.record(len(raised)) for one in raised]
    covered = [one for one in results if isinstance(one, Coverage)]
    return {
        "draws": draws,
        "alarms": [one for one in records if one["used"]],
        "comparisons": [one for one in records if not one["used"]],
        "intervals": [one.record(len(covered)) for one in covered],
        "tests": [one.record() for one in simulations],
        "rates": [one.record() for one in results if isinstance(one, Rate)],
    }


def show(result: Mapping[str, Any]) -> None:
    """Print a table per test, in percent; bold where p-values are below a level too often."""
    keys = ("below_05", "below_01", "family_wise_05")
    header = ["simulated", "kind", "p < .05", "p < .01", "any alarm"]
    for name, records in _by_name(result["tests"]):
        rows = [[one["null"], one["kind"], *(shown(one, key) for key in keys)] for one in records]
        print(f"\n{name}\n\n{table(header, rows)}")
    for name, records in _by_name(result["rates"]):
        rows = [
            [one["null"], one["nominal"] and f"{100 * one['nominal']:g}", shown(one, "rate")]
            for one in records
        ]
        print(f"\n{name}\n\n{table(['simulated', 'nominal', 'measured'], rows)}")

    for mark, text in tables(result).items():
        print(f"\n{mark}\n\n{text}")


def tables(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables of alarms and intervals; bold where a limit over all records is crossed."""

    def percent(one: Mapping[str, Any], key: str, bad: bool) -> str:
        share, low, high = (100 * one[key + end] for end in ("", "_low", "_high"))
        text = f"{share:.1f} ({low:.1f}-{high:.1f})"
        return f"**{text}**" if bad else text

    alarmed = [
        [one["question"], one["family"], one["classes"], percent(one, "rate", one["above"]),
         f"{100 * one['power']:.0f}"]
        for one in (*result["alarms"], *result["comparisons"])
    ]  # fmt: skip
    covered = [
        [one["name"], one["case"], percent(one, "coverage", one["below"])]
        for one in result["intervals"]
    ]
    header = ["question", "family", "classes", "any alarm", "power"]
    return {
        "calibration alarms": table(header, alarmed),
        "calibration intervals": table(["interval", "case", "holds the truth"], covered),
        **labels.tables(result["rates"]),
    }


def _by_name(records: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    order = list(dict.fromkeys(one["name"] for one in records))
    ordered = sorted(records, key=lambda one: order.index(one["name"]))
    return [(name, list(group)) for name, group in groupby(ordered, lambda one: one["name"])]


def shown(record: Mapping[str, Any], key: str) -> str | None:
    """Return a rate with its interval in percent; bold if its interval is above the level."""
    if key not in record:
        return None
    share, low, high = (100 * record[key + end] for end in ("", "_low", "_high"))
    text = f"{share:.1f} ({low:.1f}-{high:.1f})"
    level = {"below_05": 5, "below_01": 1, "family_wise_05": 5}.get(key, 100)
    return f"**{text}**" if low > level else text


@styled
def draw_histograms(simulations: Sequence[Simulation], path: Path) -> None:
    """Draw one histogram per simulation; a test whose p-values are right is at most uniform."""
    rows = -(-len(simulations) // COLUMNS)
    figure, panels = new_figure(11.0, 1.7 * rows, rows, COLUMNS, sharex=True, sharey=True)
    tests = list(dict.fromkeys(one.test for one in simulations))
    edges = np.linspace(0, 1, BINS + 1)
    for axes, one in zip(panels, simulations, strict=False):
        values = one.p_values.ravel()
        colour = SERIES[tests.index(one.test) % len(SERIES)]
        weights = np.full(len(values), BINS / len(values))
        faded = 1.0 if one.kind in ("null", "violated") else 0.45
        axes.hist(values, edges, weights=weights, color=colour, alpha=faded)
        axes.axhline(1, color=INK, lw=0.8, ls="--")
        about = wrap(one.null, 44)
        axes.set_title("\n".join(about), fontsize=7, fontweight="normal", color=SOFT)
        axes.annotate(
            one.test, (0, 1), (0, 8 + 9 * len(about)), xycoords="axes fraction",
            textcoords="offset points", fontsize=8, fontweight="bold", color=INK,
        )  # fmt: skip
    panels[0].set(ylim=(0, 3), yticks=[0, 1, 2, 3], xticks=[0, 0.5, 1])
    for axes in panels[len(simulations) :]:
        axes.set_visible(False)
    write_picture(figure, path, path.suffix[1:])
