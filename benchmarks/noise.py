"""How often labels and search hits are above noise, where they should be and where not.

    semlens demo --no-serve
    python benchmarks/noise.py semlens-demo/demo.semlens

Meaningless components are mixtures of random crops, from another seed than those that calibrate the
thresholds. From the vocabulary of each labelled component its label and the words nearest to it, or
the whole category, are removed: what still gets a label then has a wrong one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from harness import command, table

import semlens as sl
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.label import PAPER_THRESHOLD, VOCABULARY
from semlens.analysis.noise import LEVEL, label_thresholds, mixtures, search_thresholds, simulate
from semlens.analysis.query_embedding import (
    QueryEmbedding,
    alignment,
    directions,
    embed_concepts,
    null_vector,
    unit,
)
from semlens.analysis.search import make_query

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
    queries = [concept.name for concept in concepts.concepts[:: 20 if options.quick else 1]]
    letters = ["".join(rng.choice(list("bdfgklmnprstaeiou"), 8)) for _ in range(len(queries) // 4)]
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
        "images": still_labelled(database, pictures, np.eye(len(pictures.names), dtype=bool)),
        "search": {
            "meaningless": share_with_hits(database, queries, rows, random),
            "vocabulary": share_with_hits(database, queries, rows, None),
            "random letters": share_with_hits(database, letters, rows, None),
        },
    }


def share_with_hits(
    database: sl.ConceptDatabase,
    queries: list[str],
    rows: np.ndarray,
    random: dict[str, np.ndarray] | None,
) -> float:
    """Return the share of queries with a hit above noise, of components or of mixtures."""
    found = 0
    for number, text in enumerate(queries):
        query = make_query(database, text)
        thresholds = search_thresholds(database, rows, directions(query.positive)[0])
        vectors = database.theta[rows]
        for name, mixed in (random or {}).items():
            inside = np.isin(rows, database.rows(name))
            drawn = np.random.default_rng(number).choice(len(mixed), int(inside.sum()))
            vectors[inside] = mixed[drawn]
        found += bool((alignment(vectors, query.positive)[:, 0] > thresholds).any())
    return found / len(queries)


def show(result: dict[str, Any]) -> None:
    """Print the rates."""
    meaningless, words, search = result["meaningless"], result["words"], result["search"]
    rows = [
        ("meaningless components with a label", meaningless["calibrated"]),
        (f"the same at the paper's {PAPER_THRESHOLD}", meaningless["paper"]),
        ("components with a label", words["nearest"]["labelled"]),
        ("labelled: still so without the label and its nearest words", words["nearest"]["without"]),
        ("labelled: still so without the label's category", words["category"]["without"]),
        ("components with a class as label, by images", result["images"]["labelled"]),
        ("labelled: still so without images of that class", result["images"]["without"]),
        ("queries with a hit among meaningless components", search["meaningless"]),
        ("queries with a hit: words of the vocabulary", search["vocabulary"]),
        ("queries with a hit: random letters", search["random letters"]),
    ]
    print(table(("above noise", "share"), rows, digits=3))


if __name__ == "__main__":
    command(
        __doc__,
        measure,
        show,
        {
            "database": {"help": "database, such as that of semlens demo"},
            "--images": {"help": "its images, if they have moved"},
        },
    )
