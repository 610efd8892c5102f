"""Which labels are right: every labelling method on units of known content.

    python -m benchmarks labels --work FOLDER       # at most an hour; goes on where it was killed
    python -m benchmarks labels --work FOLDER --json > labels.json
    python -m benchmarks labels --work FOLDER --worlds development --plot labels.png
    python -m benchmarks labels --work FOLDER --study

Every method labels the units of every world (``label_worlds``), seen through each embedder,
without and with an injected modality gap. A regime is one kind of data (broad or narrow), one
embedder and one gap. The figures of a method are those of the worlds that were opened once, after
everything was frozen; if none of them is in the run, of the development worlds (``judged_on`` says
which). Within a regime all judged units count the same, and ``primary`` is the mean over regimes.

``methods``
    Methods without annotations, the best first: ``primary`` (share of units whose best word is
    right) with a 95 % interval ``low``, ``high``; ``lenient`` (right or nearly right); ``top5``;
    ``seconds`` of CPU for 1,000 units.
``paired``
    The default less each method: ``difference``, ``low``, ``high``; the same in each regime, and
    of lenient hits.
``references``
    Methods that are given annotations of the reference sample.
``ceiling``
    Hits on units that are active on exactly the images of the right words: where the embedder,
    not the method, is the limit.
``secondary``
    ``methods``: means of measures that do without the right word, on unseen images. ``measures``:
    for each, the share of units whose score drops if the right word misses half of its images
    (``missing``), or has as many wrong ones (``extra``), and how often it prefers the right word
    to a method's best wrong word.
``faithfulness``
    Mean and standard error of the paper's phi (D.4).
``regimes``, ``worlds``
    The same by regime, and everything by world, subject and kind of unit.

``--study`` compares variants of the default and mixtures of methods, on development worlds only.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.cases.labels.cells import Cell, Job, Source, measure_world
from benchmarks.cases.labels.hits import DRAWS
from benchmarks.cases.labels.methods import REFERENCES, STUDY
from benchmarks.cases.labels.plot import draw_methods
from benchmarks.cases.labels.tables import (
    Comparison,
    faithfulness_records,
    secondary_records,
    world_records,
)
from benchmarks.harness import benchmark, log
from benchmarks.worlds.cache import default_cache
from benchmarks.worlds.labelled import synthetic
from benchmarks.worlds.labelled.scenes import EMBEDDERS, WORLDS, LabelWorld
from benchmarks.worlds.labelled.units import Units
from benchmarks.worlds.labelled.worlds import load_units, make_all
from semlens.lenses.labelling.chosen_method import DEFAULT_METHOD
from semlens.lenses.labelling.labeller import Labeller
from semlens.lenses.labelling.registry import labeller_names, make_labeller

HALVES = {"development": False, "opened-once": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "--worlds": {"nargs": "+", "default": [], "help": "worlds, or development or opened-once"},
    "--embedder": {"help": "embedders, separated by commas", "default": ",".join(EMBEDDERS)},
    "--cache": {"type": Path, "help": "folder of the units; by default in the user's cache"},
    "--methods": {"nargs": "+", "default": [], "help": "only these methods and the default"},
    "--study": {"action": "store_true", "help": "variants of methods, on development worlds"},
    "--plot": {"type": Path, "help": "write a picture of the hits to this file"},
    "--processes": {"type": int, "default": 2, "help": "worlds that are measured at once"},
}


def synthetic_sources() -> list[Source]:
    """Return two development worlds, and one that stands for those opened once."""
    named = [("plain-broad", False, "broad"), ("plain-narrow", False, "narrow")]
    named += [("once-broad", True, "broad"), ("once-narrow", True, "narrow")]
    return [
        Source(name, once, partial(synthetic.synthetic_units, name, data, seed))
        for seed, (name, once, data) in enumerate(named)
    ]


def world_sources(cache: Path, work: Path) -> list[Source]:
    """Return all worlds."""
    return [
        Source(spec.name, spec.opened_once, partial(_load, spec, cache, work)) for spec in WORLDS
    ]


def _load(spec: LabelWorld, cache: Path, work: Path, embedder: str) -> list[Units]:
    return load_units(spec, embedder, cache, work)


def chosen_worlds(
    sources: Sequence[Source], names: Sequence[str], *, study: bool = False
) -> list[Source]:
    """Return the worlds of some names or halves, by default all.

    Raises
    ------
    SystemExit
        If there is no world of a name, or a study asks for one that is opened once.
    """
    known = {source.world for source in sources} | set(HALVES)
    for name in names:
        if name not in known:
            raise SystemExit(f"There is no world '{name}'. Expected {', '.join(sorted(known))}.")
    wanted = names or (["development"] if study else list(HALVES))
    halves = {HALVES[name] for name in wanted if name in HALVES}
    found = [one for one in sources if one.world in wanted or one.opened_once in halves]
    once = [one.world for one in found if one.opened_once]
    if study and once:
        raise SystemExit(f"A study may not open {', '.join(once)}. Choose development worlds.")
    return found


def chosen_methods(names: Sequence[str], *, study: bool = False) -> dict[str, Labeller]:
    """Return the methods without annotations of some names and the default, by default all."""
    if study:
        return {name: one for name, one in STUDY.items() if not names or name in names}
    every = [name for name in labeller_names() if name not in REFERENCES]
    wanted = names or every
    return {name: make_labeller(name) for name in dict.fromkeys([DEFAULT_METHOD, *wanted])
            if name not in REFERENCES}  # fmt: skip


@benchmark(minutes=60, quoted=("docs/labelling.md",), options=OPTIONS)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure all worlds, and compare the methods."""
    cache = options.cache or default_cache().with_name("labels")
    sources = synthetic_sources() if options.quick else world_sources(cache, work)
    sources = chosen_worlds(sources, options.worlds, study=options.study)
    methods = chosen_methods(options.methods, study=options.study)
    embedders = synthetic.EMBEDDERS if options.quick else tuple(options.embedder.split(","))
    if not options.quick:
        chosen = {source.world for source in sources}
        make_all([spec for spec in WORLDS if spec.name in chosen], embedders, cache, work)
    job = Job(embedders, methods, DEFAULT_METHOD, work / "labels", secondary=not options.study)
    cells = _measure_all(sources, job, 1 if options.quick else options.processes)
    result = compare(cells, methods, 400 if options.quick else DRAWS)
    if options.plot is not None:
        draw_methods(result, options.plot)
    return result


def _measure_all(sources: Sequence[Source], job: Job, processes: int) -> list[Cell]:
    one = partial(measure_world, job=job)
    if processes == 1:
        return list(chain.from_iterable(map(one, sources)))
    start = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=start) as pool:
        return list(chain.from_iterable(pool.map(one, sources)))


def compare(cells: Sequence[Cell], methods: Mapping[str, Labeller], draws: int) -> dict[str, Any]:
    """Compute the figures of all methods.

    Those that are compared are of the worlds that were opened once, if there are any.
    """
    once = [cell for cell in cells if cell.opened_once]
    judged = once or list(cells)
    comparison = Comparison(judged, draws)
    names = [*methods, *REFERENCES]
    log(f"{len(judged)} cells, {sum(len(cell.kinds) for cell in judged)} labels of each method")
    result: dict[str, Any] = {
        "default": DEFAULT_METHOD,
        "judged_on": "opened once" if once else "development",
        "methods": comparison.ranked(methods),
        "paired": comparison.paired(DEFAULT_METHOD, methods),
        "references": comparison.ranked(REFERENCES),
        "ceiling": comparison.ceiling(),
        "regimes": comparison.by_regime(names),
        "worlds": world_records(cells),
    }
    if judged[0].secondary:
        result["secondary"] = secondary_records(judged)
        result["faithfulness"] = faithfulness_records(judged)
    return result
