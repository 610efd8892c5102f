"""The tests of semlens on simulated values: p-values where there is nothing to find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.cases.calibration.rates import LEVEL, Rate, Simulation
from benchmarks.worlds.meaningless import VALUES, meaningless_world
from semlens.lenses.audit.class_contrast import (
    LayerExcess,
    compare_classes,
    contrast_scores,
    standardised,
)
from semlens.lenses.audit.random_concepts import compare_with_random, pool_concepts
from semlens.lenses.audit.suspects import Candidates, best_matches
from semlens.lenses.statistics.separation import separate

AUDIT = "Audit: alarm"
PERMUTATION = "Permuted components (unused)"
RANDOM_LISTS = "Audit: random lists"
SUSPECTS = "Suspects"
CONTRAST = "Contrast of two groups"
THRESHOLDS = "Labels and search hits"
VERDICTS = "Verdicts"
MASKING = "Several classes with one artefact"

DRAWS = 200
"""Permutations, or random lists, of one test: a p-value of just below .05 and of .01 is possible,
so that a coarse p-value does not look like a conservative test."""
LIST = 22
"""Concepts of a list: as many as the bundled list of artefacts has."""


# -- audit ------------------------------------------------------------------------------------


def class_contrasts(rng: np.random.Generator, draws: int) -> Iterator[Simulation]:
    """Yield p-values of the audit's alarm: lists of meaningless concepts."""
    lengths = (1, 10, LIST, 100)
    for classes in (6, 12, 30):
        drawn = _contrasts(rng, draws, classes, lengths)
        for n, p_values in drawn.items():
            null = f"{classes} classes, list of {n}"
            family = "sweep" if n == LIST else None
            yield Simulation(AUDIT, null, p_values, family=family, drawn=n == LIST)
    for null, world in (
        (f"list of {LIST}, one topic", {"topic": 0.8}),
        ("few relevant components", {"tail": "pareto"}),
    ):
        p_values = _contrasts(rng, draws, 12, (LIST,), **world)[LIST]
        null = f"12 classes, {null}"
        yield Simulation(AUDIT, null, p_values, family="sweep", drawn=True)


def _contrasts(
    rng: np.random.Generator, draws: int, classes: int, lengths: tuple[int, ...], **world: Any
) -> dict[int, np.ndarray]:
    """Return the p-values by list length: of all classes for the usual one, else of one class."""
    members = {n: range(classes if n == LIST else 1) for n in lengths}
    p_values = {n: np.zeros((draws, len(members[n]))) for n in lengths}
    for draw in range(draws):
        made = meaningless_world(rng, classes, max(lengths), **world)
        scores = contrast_scores(made.layers, made.alignments)
        for n in lengths:
            for c in members[n]:
                p_values[n][draw, c] = compare_classes(scores[:, :n], c).p_value.min()
    return p_values


def permutations(rng: np.random.Generator, draws: int) -> Iterator[Simulation]:
    """Yield p-values of the test that the audit does not use, in the same worlds."""
    p_values = np.zeros((draws, 1))
    for draw in range(draws):
        made = meaningless_world(rng, 12, LIST)
        p_values[draw] = permutation_p_value(rng, made.layers, made.alignments, 0)
    null = f"12 classes, list of {LIST}"
    yield Simulation(PERMUTATION, null, p_values, "unused", drawn=True)


def permutation_p_value(
    rng: np.random.Generator, layers: list[LayerExcess], alignments: list[np.ndarray], position: int
) -> float:
    """Return the p-value of a class's largest contrast if components are permuted in each layer."""
    permuted: list[LayerExcess] = []
    for one in layers:
        order = np.argsort(rng.random((len(one.rows), DRAWS)), axis=0)
        excess = np.hstack([one.excess[:, position, None], one.excess[order, position]])
        own = np.repeat(one.own[:, position, None], 1 + DRAWS, axis=1)
        permuted.append(LayerExcess(one.rows, excess, own))
    largest = contrast_scores(permuted, alignments).max(1)
    return float((largest >= largest[0] - 1e-9).mean())


def random_lists(rng: np.random.Generator, draws: int) -> Iterator[Simulation]:
    """Yield p-values of an audit with few classes: lists and background from one distribution."""
    components, words = 20, 500
    topic = np.sqrt(0.5) * np.ones((1, LIST))
    for null, spread, kind, shift in (
        ("list like the background", 1.0, "null", None),
        ("one relevant component", 0.02, "null", None),
        ("list of one topic", 1.0, "violated", topic),
    ):
        p_values = np.zeros((draws, 1))
        for draw in range(draws):
            values = rng.normal(size=(components, words))
            if shift is not None:
                common = rng.normal(size=(components, 1))
                values[:, :LIST] = np.sqrt(0.5) * values[:, :LIST] + common * shift
            p_values[draw] = chance_p_value(
                values[:, LIST:], values[:, :LIST], rng.dirichlet(np.full(components, spread)), draw
            )
        yield Simulation(RANDOM_LISTS, f"simulated: {null}", p_values, kind, drawn=True)


def chance_p_value(
    background: np.ndarray, listed: np.ndarray, weight: np.ndarray, seed: int
) -> float:
    """Return the p-value of the weight that a list claims, compared with random lists."""
    pool = pool_concepts(background.astype(np.float32), listed.astype(np.float32), LEVEL)
    return float(compare_with_random([pool], weight[:, None], DRAWS, seed).p_value[0])


def verdicts(rng: np.random.Generator, draws: int) -> Iterator[Rate]:
    """Yield how many components a meaningless list is aligned with."""
    background = 657
    aligned = np.zeros((draws, 20), bool)
    for draw in range(draws):
        values = rng.normal(size=(20, background + LIST)).astype(np.float32)
        aligned[draw] = pool_concepts(values[:, LIST:], values[:, :LIST], LEVEL).matched
    null = f"components aligned with {LIST} meaningless words, background of {background}"
    yield Rate(VERDICTS, null, LEVEL, aligned)


def masking(rng: np.random.Generator, draws: int) -> Iterator[Rate]:
    """Yield how often an affected class is found among 12, if others have the same artefact."""
    for affected in (1, 2, 3):
        found = np.zeros((draws, 1), bool)
        for draw in range(draws):
            contrasts = rng.normal(size=(12, LIST))
            contrasts[:affected, 0] += 8
            found[draw] = compare_classes(contrasts, 0).p_value[0] < LEVEL
        null = f"{affected} of 12 classes, 8 standard deviations above the others"
        yield Rate(MASKING, null, None, found)


def suspects(rng: np.random.Generator, draws: int, words: int = 700) -> Iterator[Simulation]:
    """Yield p-values of a class's first suspect: meaningless words, and clusters of components."""
    clusters = 12
    names = tuple(map(str, range(words + clusters)))
    p_values = np.zeros((draws, 1))
    for draw in range(draws):
        made = meaningless_world(rng, 12, words)
        directions = rng.normal(size=(made.theta[0].shape[1], clusters))
        aligned: list[np.ndarray] = []
        matches: list[np.ndarray] = []
        for theta, values in zip(made.theta, made.alignments, strict=True):
            member = (theta @ directions).argmax(1)[:, None] == np.arange(clusters)
            aligned.append(np.hstack([values, standardised(member.astype(np.float32))]))
            matches.append(np.hstack([best_matches(values), member]))
        rows = np.concatenate([one.rows for one in made.layers])
        candidates = Candidates(names, words, rows, np.concatenate(matches))
        scores = contrast_scores(made.layers, aligned)
        shares = np.concatenate(made.shares) / len(made.layers)
        p_values[draw] = first_suspect(candidates, scores, shares)
    null = f"12 classes, {words} words, {clusters} clusters"
    yield Simulation(SUSPECTS, null, p_values, drawn=True)


def first_suspect(candidates: Candidates, scores: np.ndarray, shares: np.ndarray) -> float:
    """Return the smallest p-value of the first class; 1 if it has no suspects."""
    others = (shares[:, 1:].T @ candidates.matches).max(axis=0)
    contrasts = compare_classes(scores, 0)
    first = candidates.table("", contrasts, shares[:, 0], others, set(), 1)["p_value"]
    return 1.0 if first.empty else float(first.iloc[0])


# -- two groups of images ------------------------------------------------


READOUTS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    **VALUES,
    "mostly zero": lambda rng, shape: np.maximum(rng.normal(-1, size=shape), 0),
    "ties (rounded normal)": lambda rng, shape: np.round(rng.normal(size=shape)),
}


def group_contrasts(rng: np.random.Generator, draws: int) -> Iterator[Simulation]:
    """Yield the smallest p-value over all components, of two groups that do not differ."""
    for paired in (False, True):
        for name in READOUTS:
            yield _groups(rng, draws, name, 15, 15, paired)
    for n, m in ((4, 4), (5, 60)):
        yield _groups(rng, draws, "normal", n, m, False)


def _groups(
    rng: np.random.Generator, draws: int, name: str, n: int, m: int, paired: bool
) -> Simulation:
    p_values, columns = np.zeros((draws, 1)), 20
    blocks = np.tile(np.arange(n), 2) if paired else np.zeros(n + m, np.int64)
    for draw in range(draws):
        values = READOUTS[name](rng, (n + m, columns))
        if paired:  # versions of one image are alike
            values += np.tile(2 * rng.normal(size=(n, columns)), (2, 1))
        p_values[draw] = separate(values[:n], values[n:], blocks, DRAWS, draw).p_value.min()
    sizes = f"{n} pairs" if paired else f"{n} and {m} images"
    drawn = name in ("normal", "mostly zero") or n != m
    return Simulation(CONTRAST, f"{name}, {sizes}", p_values, drawn=drawn)
