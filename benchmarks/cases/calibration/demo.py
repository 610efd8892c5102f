"""The audit's tests on the demo's database, with concepts or components that mean nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.cases.calibration.rates import LEVEL, Rate, Simulation
from benchmarks.cases.calibration.tests import (
    AUDIT,
    LIST,
    PERMUTATION,
    RANDOM_LISTS,
    SUSPECTS,
    THRESHOLDS,
    chance_p_value,
    first_suspect,
    permutation_p_value,
)
from semlens.api import ConceptDatabase
from semlens.lenses.audit.class_contrast import (
    LayerExcess,
    class_excess,
    compare_classes,
    contrast_scores,
    positive_shares,
    reference_classes,
    standardised,
)
from semlens.lenses.audit.random_concepts import Theta
from semlens.lenses.audit.relevance_shares import component_weights
from semlens.lenses.audit.suspects import Candidates, best_matches
from semlens.lenses.centring import layer_crops, layer_means
from semlens.lenses.class_relevance import relevant_rows
from semlens.lenses.classes import class_name
from semlens.lenses.concepts import ConceptSet, as_concepts, load_sets
from semlens.lenses.noise import label_thresholds, simulate
from semlens.lenses.query_embedding import (
    QueryEmbedding,
    alignment,
    directions,
    embed_concepts,
    unit,
)
from semlens.lenses.resolve_concepts import concepts_by_class
from semlens.lenses.search.noise import search_thresholds

NEAREST = 30
"""Words nearest to a class's name, of which random ones are taken as spurious."""
CROPS = 30
"""Crops of a component without a meaning."""


@dataclass(frozen=True, eq=False)
class Demo:
    """A database of the demo, the class with the planted artefact, and what is computed of it."""

    database: ConceptDatabase
    target: str

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """The classes, all of which are compared with one another."""
        return reference_classes(self.database)

    @cached_property
    def names(self) -> list[str]:
        """Names of the classes."""
        return [class_name(self.database, index) for index in self.classes]

    @cached_property
    def planted(self) -> int:
        """Position of the class with the artefact."""
        return self.names.index(self.target)

    @cached_property
    def excess(self) -> list[list[LayerExcess]]:
        """By class, the excess relevance of it (first) and of all others in their order."""
        sets = [*load_sets("demo-world"), *load_sets("artefacts")]
        resolved, _ = concepts_by_class(self.database, sets)
        valid = {i: one.concepts.of_kind("valid") for i, one in resolved.items()}
        return [class_excess(self.database, index, valid.get(index)) for index in self.classes]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(self.database.layers)

    @cached_property
    def vocabulary(self) -> QueryEmbedding:
        """The background of audits."""
        return embed_concepts(self.database, as_concepts("paper-vocabulary"))

    @cached_property
    def artefacts(self) -> QueryEmbedding:
        """The bundled list of spurious concepts."""
        return embed_concepts(self.database, as_concepts("artefacts"))

    @cached_property
    def theta(self) -> list[np.ndarray]:
        """Unit vectors of the components of each layer."""
        return [unit(self.database.theta[one.rows]) for one in self.excess[0]]


def rotated(rng: np.random.Generator, vectors: np.ndarray) -> np.ndarray:
    """Rotate vectors by one random orthogonal matrix: lengths and angles stay, meanings go.

    Only the span of the vectors has to be rotated: into a random frame of as many dimensions.
    """
    coordinates, _, basis = np.linalg.svd(vectors, full_matrices=False)
    scale = vectors @ basis.T if len(basis) else coordinates
    frame, triangle = np.linalg.qr(rng.normal(size=(vectors.shape[1], len(basis))))
    frame *= np.sign(np.diag(triangle))  # so that all frames are equally likely
    return scale @ frame.T


def rotations(demo: Demo, rng: np.random.Generator, draws: int) -> Iterator[Simulation]:
    """Yield p-values of the real classes with the list of artefacts, rotated at random."""
    listed = directions(demo.artefacts)
    classes = len(demo.classes)
    both = np.zeros((draws, classes))
    without = np.zeros((draws, classes - 1))
    permuted = np.zeros((draws, 1))
    for draw in range(draws):
        turned = rotated(rng, listed).T
        aligned = [standardised(theta @ turned) for theta in demo.theta]
        scores = [contrast_scores(excess, aligned) for excess in demo.excess]
        both[draw] = [compare_classes(one, 0).p_value.min() for one in scores]
        without[draw] = [
            # the class itself is first, and the others keep their order
            compare_classes(np.delete(one, demo.planted + (demo.planted < c), 0), 0).p_value.min()
            for c, one in enumerate(scores)
            if c != demo.planted
        ]
        excess = demo.excess[int(rng.integers(classes))]
        permuted[draw] = permutation_p_value(rng, excess, aligned, 0)
    of = f"demo: {len(listed)} rotated"
    clean = np.delete(both, demo.planted, axis=1)
    planted = both[:, demo.planted, None]
    yield Simulation(
        AUDIT, f"{of}, no '{demo.target}'", without, family="sweep",
        drawn=True, members=tuple(name for name in demo.names if name != demo.target),
    )  # fmt: skip
    yield Simulation(AUDIT, f"{of}, beside '{demo.target}'", clean, drawn=True)
    yield Simulation(AUDIT, f"{of}, '{demo.target}' itself", planted, "no null", drawn=True)
    yield Simulation(AUDIT, f"{of}, all classes", both, "no null", family="sweep")
    yield Simulation(PERMUTATION, f"{of}, all classes", permuted, "unused", drawn=True)


def real_words(demo: Demo, rng: np.random.Generator, draws: int) -> Iterator[Simulation]:
    """Yield p-values of lists of real words, which may describe what a class relies on."""
    aligned = [standardised(theta @ directions(demo.vocabulary).T) for theta in demo.theta]
    scores = [contrast_scores(excess, aligned) for excess in demo.excess]
    words, classes = scores[0].shape[1], len(scores)
    random = np.zeros((draws, classes))
    near = np.zeros((draws, classes))
    names = embed_concepts(demo.database, ConceptSet.of(demo.names))
    other = np.array([name not in demo.names for name in demo.vocabulary.names])
    similar = unit(names.vectors) @ unit(demo.vocabulary.vectors).T
    nearest = np.argsort(-np.where(other, similar, -np.inf), axis=1)[:, :NEAREST]
    for draw in range(draws):
        listed = rng.choice(words, LIST, replace=False)
        for c in range(classes):
            random[draw, c] = compare_classes(scores[c][:, listed], 0).p_value.min()
            close = rng.choice(nearest[c], 8, replace=False)
            near[draw, c] = compare_classes(scores[c][:, close], 0).p_value.min()
    null = f"demo: {LIST} random words"
    yield Simulation(AUDIT, null, random, "no null", family="sweep", drawn=True)
    null = "demo: 8 words near the class's name"
    yield Simulation(AUDIT, null, near, "no null", drawn=True)


def lists(demo: Demo, rng: np.random.Generator, draws: int) -> Iterator[Simulation]:
    """Yield p-values of the comparison with random lists, with the classes' real relevance."""
    prepared: list[tuple[np.ndarray, np.ndarray]] = []
    for index in demo.classes:
        relevant = relevant_rows(demo.database, index)
        theta = Theta.load(demo.database, relevant["component"].to_numpy(np.int64))
        weight = component_weights(relevant).relevance[:, -1]
        prepared.append((theta.align(demo.vocabulary)[1], weight))
    words = len(demo.vocabulary.names)
    similar = unit(demo.vocabulary.vectors)
    similar = similar @ similar.T
    random, topic = np.zeros((draws, 1)), np.zeros((draws, 1))
    for draw in range(draws):
        values, weight = prepared[draw % len(prepared)]
        for p_values, listed in (
            (random, rng.choice(words, LIST, replace=False)),
            (topic, np.argsort(-similar[rng.integers(words)])[:LIST]),
        ):
            background = np.delete(values, listed, axis=1)
            p_values[draw] = chance_p_value(background, values[:, listed], weight, draw)
    yield Simulation(RANDOM_LISTS, f"demo: {LIST} random words", random, drawn=True)
    null = f"demo: {LIST} words of one topic"
    yield Simulation(RANDOM_LISTS, null, topic, "violated", drawn=True)


def random_components(demo: Demo, rng: np.random.Generator, draws: int) -> Iterator[Simulation]:
    """Yield p-values of the list of artefacts, for components that are means of random crops."""
    database, count = demo.database, 60
    p_values = {"as they are": np.zeros((draws, 1)), "centred": np.zeros((draws, 1))}
    layers = [(layer_crops(database, name), mean) for name, mean in layer_means(database).items()]
    for draw in range(draws):
        crops, mean = layers[draw % len(layers)]
        picked = rng.choice(crops, (count, CROPS))
        theta = database.crop_vectors[picked].astype(np.float32).mean(1)
        weight = rng.dirichlet(np.ones(count))
        for null, vectors in (("as they are", theta), ("centred", theta - mean)):
            background, listed = (alignment(vectors, q) for q in (demo.vocabulary, demo.artefacts))
            p_values[null][draw] = chance_p_value(background, listed, weight, draw)
    about = "demo: random components,"
    yield Simulation(RANDOM_LISTS, f"{about} centred", p_values["centred"], "violated", drawn=True)
    yield Simulation(RANDOM_LISTS, f"{about} not centred", p_values["as they are"], "unused")


def rotated_vocabulary(demo: Demo, rng: np.random.Generator, draws: int) -> Iterator[Simulation]:
    """Yield p-values of the first suspect of a class, with the whole vocabulary rotated."""
    classes = [c for c in range(len(demo.classes)) if c != demo.planted]
    rows = [one.rows for one in demo.excess[0]]
    shares = np.concatenate(
        [
            np.stack([positive_shares(demo.database, c, one) for c in demo.classes], axis=1)
            for one in rows
        ]
    ) / len(rows)
    words = directions(demo.vocabulary).T
    bounds = np.cumsum([len(one) for one in demo.theta])[:-1]
    joined = np.concatenate(demo.theta)
    p_values = np.zeros((draws, 1))
    for draw in range(draws):
        # to rotate the components is to rotate the words, and there are fewer of them
        values = np.split(rotated(rng, joined) @ words, bounds)
        matches = np.concatenate([best_matches(one) for one in values])
        names = demo.vocabulary.names
        candidates = Candidates(names, len(names), np.concatenate(rows), matches)
        position = classes[int(rng.integers(len(classes)))]
        scores = contrast_scores(demo.excess[position], [standardised(one) for one in values])
        scores = np.delete(scores, demo.planted + (demo.planted < position), axis=0)
        order = [position, *(c for c in classes if c != position)]
        p_values[draw] = first_suspect(candidates, scores, shares[:, order])
    null = f"demo: {len(demo.vocabulary.names)} rotated, no '{demo.target}'"
    yield Simulation(SUSPECTS, null, p_values, drawn=True)


def thresholds(demo: Demo, rng: np.random.Generator, draws: int) -> Iterator[Rate]:
    """Yield how often components of random crops get a label, and searches of them have hits."""
    database, count = demo.database, demo.database.manifest.recipe.examples
    rows = [one.rows for one in demo.excess[0]]
    # another seed than that of the crops that the thresholds come from
    crops = [simulate(database, name, count, draws, 1).astype(np.float32) for name in demo.layers]
    for name, vectors, layer_rows in zip(demo.layers, crops, rows, strict=True):
        least = label_thresholds(database, layer_rows[:1], demo.vocabulary)
        labelled = alignment(vectors, demo.vocabulary).max(1) > least
        null = f"label of a component of {count} random crops, {name}"
        yield Rate(THRESHOLDS, null, LEVEL, labelled[:, None])
    queries = directions(demo.vocabulary)[rng.permutation(len(demo.vocabulary.names))[:draws]]
    units = [unit(vectors) for vectors in crops]
    found = np.zeros((draws, 1), bool)
    for draw in range(draws):
        query = queries[draw % len(queries)]
        picked = [
            vectors[rng.integers(0, len(vectors), len(one))]
            for vectors, one in zip(units, rows, strict=True)
        ]
        values = np.concatenate(picked) @ query
        least = search_thresholds(database, np.concatenate(rows), query, values)
        found[draw] = (values > least).any()
    null = f"a word has a hit among {sum(map(len, rows))} components of random crops"
    yield Rate(THRESHOLDS, null, LEVEL, found)
