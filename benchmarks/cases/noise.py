"""How often labels and search hits are above noise, where they should be and where not.

    semlens demo --no-serve
    python -m benchmarks noise semlens-demo/demo.semlens

By alignment, and labels also by the default methods. Meaningless components are mixtures of random
crops, from another seed than those that calibrate the thresholds. From the vocabulary of each
labelled component its label and the words nearest to it, or the whole category, are removed: what
still gets a label then has a wrong one.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import semlens as sl
from benchmarks.harness import benchmark
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.labelling.chosen_method import (
    DEFAULT_METHOD,
    DEFAULT_WITHOUT_REFERENCE,
    choose_method,
)
from semlens.lenses.labelling.database_evidence import layer_evidence
from semlens.lenses.labelling.label import VOCABULARY
from semlens.lenses.labelling.meaningless import meaningless
from semlens.lenses.labelling.scored_blocks import MEANINGLESS, rows_with_examples, thresholds
from semlens.lenses.noise import LEVEL, label_thresholds, mixtures, simulate
from semlens.lenses.query_embedding import (
    QueryEmbedding,
    alignment,
    directions,
    embed_concepts,
    null_vector,
    unit,
)
from semlens.lenses.search.made_up import made_up_words
from semlens.lenses.search.noise import search_thresholds
from semlens.lenses.search.query import Query, make_query
from semlens.lenses.search.search import rank

PAPER_THRESHOLD = 0.025
"""Minimum alignment of a label in the paper (D.3)."""
NEAREST = 0.05
"""Share of the vocabulary that is removed as nearest to a label."""
PICTURES = 8
"""Images of a class that make a concept."""


def largest_without(
    values: np.ndarray, noise: np.ndarray, removed: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the largest alignments with the other concepts, and their threshold."""
    threshold = np.quantile(noise[:, ~removed].max(1), 1 - LEVEL, method="higher")
    return values[:, ~removed].max(1), float(threshold)


def still_labelled(
    database: sl.ConceptDatabase, embedding: QueryEmbedding, removed: np.ndarray
) -> dict[str, float]:
    """Return shares of components with a label, and of these without their right concepts.

    Parameters
    ----------
    removed
        bool[q q], the concepts that are removed for components with each label.
    """
    rows = np.flatnonzero(database.has_examples)
    values = alignment(database.theta[rows], embedding)
    labelled = values.max(1) > label_thresholds(database, rows, embedding)
    passed: list[bool] = []
    for layer in database.layers:
        examples = database.manifest.recipe.examples
        noise = alignment(mixtures(database, layer, examples).astype(np.float32), embedding)
        inside = labelled & np.isin(rows, database.rows(layer))
        for concept in np.unique(values[inside].argmax(1)):
            mine = values[inside][values[inside].argmax(1) == concept]
            largest, threshold = largest_without(mine, noise, removed[concept])
            passed += (largest > threshold).tolist()
    return {"labelled": float(labelled.mean()), "without": float(np.mean(passed))}


def by_method(
    database: sl.ConceptDatabase, embedding: QueryEmbedding, near: np.ndarray, draws: int
) -> list[dict[str, Any]]:
    """Return the shares of labels of the default methods, of meaningless components and others.

    Parameters
    ----------
    near
        bool[q q], the words that are removed for components with each label.
    draws
        Meaningless components per layer, from another seed than those of the thresholds.
    """
    results: list[dict[str, Any]] = []
    for name in (DEFAULT_METHOD, DEFAULT_WITHOUT_REFERENCE):
        method = choose_method([database], name, len(embedding.names))
        noise, above, passed = [], [], []
        for layer in database.layers:
            evidence = layer_evidence(database, layer, embedding)
            rows = rows_with_examples(database, layer)
            least = thresholds(database, rows, embedding, method)
            random = method.labeller.scores(meaningless(evidence, draws, seed=1)).max(1)
            noise += (random > least[0]).tolist()
            scores = method.labeller.scores(evidence)
            labelled = scores.max(1) > least
            above += labelled.tolist()
            best = np.where(labelled, scores.argmax(1), -1)
            for concept in np.unique(best[labelled]):
                fewer = replace(evidence, words=evidence.words[~near[concept]])
                values = method.labeller.scores(fewer).max(1)[best == concept]
                bound = method.labeller.scores(meaningless(fewer, MEANINGLESS)).max(1)
                passed += (values > np.quantile(bound, 1 - LEVEL, method="higher")).tolist()
        shares = [float(np.mean(values)) for values in (noise, above, passed)]
        keys = "name", "meaningless", "labelled", "without"
        results.append(dict(zip(keys, [name, *shares], strict=True)))
    return results


def pictured_classes(database: sl.ConceptDatabase) -> QueryEmbedding:
    """Return a concept per class: the mean of some of its images."""
    targets = database.samples["target"].to_numpy()
    names = tuple(sorted(set(targets)))
    images = [
        [database.images.read(int(i)) for i in np.flatnonzero(targets == name)[:PICTURES]]
        for name in names
    ]
    vectors = [database.embedder.embed_images(group).numpy().mean(0) for group in images]
    null = null_vector(database.embedder, ["{}"])
    return QueryEmbedding(np.stack(vectors), names, null, database.embedder.fingerprint)


@benchmark(
    minutes=5,
    quoted=("docs/search.md", "docs/labelling.md"),
    options={
        "database": {"help": "database, such as that of semlens demo"},
        "--images": {"help": "its images, if they have moved"},
    },
)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Return the rates, as shares."""
    database = sl.open(options.database, images=options.images)
    concepts = ConceptSet.load(VOCABULARY)
    embedding = embed_concepts(database, concepts)
    rows, rng = np.flatnonzero(database.has_examples), np.random.default_rng(1)
    count, draws = database.manifest.recipe.examples, 500 if options.quick else 5000
    random = {name: simulate(database, name, count, draws, 1) for name in database.layers}
    random = {name: vectors.astype(np.float32) for name, vectors in random.items()}
    largest = {name: alignment(v, embedding).max(1) for name, v in random.items()}
    least = {
        name: label_thresholds(database, database.rows(name)[:1], embedding) for name in random
    }
    units = unit(embedding.vectors)
    near = units @ units.T
    near = near >= np.quantile(near, 1 - NEAREST, axis=1)[:, None]
    categories = np.array([concept.category for concept in concepts.concepts])
    pictures = pictured_classes(database)
    words = [concept.name for concept in concepts.concepts[:: 20 if options.quick else 1]]
    # another seed than that of the thresholds; what the embedder does not know is no query
    syllables, letters = (
        [text for text in texts if database.embedder.understands(text)]
        for texts in made_up_words(len(words) // 2, seed=1)
    )
    samples = rng.choice(len(database.images), len(words) // 4).tolist()
    queries = {
        "words": [make_query(database, word) for word in words],
        "syllables": [make_query(database, text) for text in syllables],
        "letters": [make_query(database, text) for text in letters],
        "images": [make_query(database, images=database.images.read(i)) for i in samples],
    }
    return {
        "meaningless": {
            "calibrated": float(np.mean([(largest[n] > least[n]).mean() for n in random])),
            "paper": float(np.mean([(largest[n] > PAPER_THRESHOLD).mean() for n in random])),
        },
        "words": {
            "nearest": still_labelled(database, embedding, near),
            "category": still_labelled(
                database, embedding, categories[:, None] == categories[None]
            ),
        },
        "methods": by_method(database, embedding, near, draws),
        "images": still_labelled(database, pictures, np.eye(len(pictures.names), dtype=bool)),
        "search": {
            kind: {
                "found": found_by(database, some),
                "half": hits_of(database, some, rows, random, 0.5),
                "meaningless": hits_of(database, some, rows, random, 1.0),
            }
            for kind, some in queries.items()
        },
    }


def found_by(database: sl.ConceptDatabase, queries: list[Query]) -> dict[str, float]:
    """Return how often queries have hits, and how many, as a search counts them."""
    found = [rank(database, query, top=1) for query in queries]
    return {
        "queries": float(np.mean([hits.above_noise > 0 for hits in found])),
        "components": float(np.mean([hits.above_noise / hits.searched for hits in found])),
    }


def hits_of(
    database: sl.ConceptDatabase,
    queries: list[Query],
    rows: np.ndarray,
    random: dict[str, np.ndarray],
    share: float,
) -> dict[str, float]:
    """Return how often queries have hits above mixtures, how many, and the share of false ones.

    Parameters
    ----------
    random
        Mixtures of each layer.
    share
        Share of the components that mixtures take the places of.
    """
    some, hits, false = [], [], []
    for number, query in enumerate(queries):
        rng = np.random.default_rng(number)
        vectors, replaced = database.theta[rows], rng.random(len(rows)) < share
        for name, mixed in random.items():
            inside = replaced & np.isin(rows, database.rows(name))
            vectors[inside] = mixed[rng.choice(len(mixed), int(inside.sum()))]
        values = alignment(vectors, query.positive)[:, 0]
        least = search_thresholds(database, rows, directions(query.positive)[0], values)
        above = values > least
        some.append(above.any())
        hits.append(above.mean())
        false.append((above & replaced).sum() / max(above.sum(), 1))
    return {
        "queries": float(np.mean(some)),
        "components": float(np.mean(hits)),
        "false": float(np.mean(false)),
    }
