"""Time of questions on a loaded database of 10^5 components.

The database is synthetic, in the real file format: 20 layers of 5,000 components with 30 examples
each among shared crops, 512 dimensions, and sparse relevance for 1,000 classes. Its vectors are
random with the spectrum of real ones, so only the times have a meaning. Beside the questions, the
product of all vectors with the vocabulary, which no exact labelling by vectors can do without.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import semlens as sl
from benchmarks.harness import Clock, Measurement, benchmark, median
from benchmarks.worlds.many_components import QUICK, RandomWords, Size, write
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.query_embedding import LABEL_TEMPLATES, directions, embed_concepts, embed_texts
from semlens.lenses.scores import redundancy

GOAL = 1.0
"""Target time in seconds on a loaded database."""


def seconds(question: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Return the time of the first answer, and median time and CPU time of later answers."""

    def timed() -> Measurement:
        with Clock() as clock:
            question()
        return clock.read()

    first = timed()
    later = [{"later": timed()} for _ in range(rounds)]
    return {
        "first": first["seconds"],
        "loaded": median(later, "later"),
        "cpu": median(later, "later", "cpu_seconds"),
    }


def time_questions(path: Path, size: Size, rounds: int) -> dict[str, dict[str, float]]:
    """Return for each question its first time, which includes reading, and its time once loaded."""
    embedder = RandomWords(size.dim)
    vocabulary = ConceptSet.load("paper-vocabulary")
    names = [concept.name for concept in vocabulary.concepts]
    with Clock() as embedding:
        for texts in (list(dict.fromkeys(names)), names, [""]):
            embed_texts(embedder, texts, LABEL_TEMPLATES)
    with Clock() as loading:
        db = sl.open(path, embedder=embedder)
        _ = db.theta, db.components
    concepts = replace(ConceptSet.load("paper-ox"), target=None)
    words = np.ascontiguousarray(directions(embed_concepts(db, vocabulary)).T)
    questions: dict[str, Callable[[], Any]] = {
        "bare product": lambda: db.theta @ words,
        "search": lambda: db.search("watermark"),
        "label": lambda: db.label(vocabulary),
        "audit": lambda: db.audit(0, concepts),
        "unexpected": lambda: db.unexpected(0, vocabulary),
        "dissect": lambda: db.dissect(concepts=vocabulary),
        "compare two layers": lambda: db.compare(
            layers=["layer0", "layer1"], by_layer=True, concepts=None, scores=False
        ),
        "redundancy of a layer": lambda: redundancy(torch.from_numpy(db.theta[: size.rows])),
        "verify": lambda: sl.verify(path),
    }
    measured = {name: seconds(question, rounds) for name, question in questions.items()}
    for times in measured.values():
        times["cpu_over_product"] = times["cpu"] / measured["bare product"]["cpu"]
    return {
        "embed the vocabulary": {"first": embedding.seconds},
        "load": {"first": loading.seconds},
        **measured,
    }


@benchmark(minutes=5, quoted=("docs/scale.md",), rounds=3)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Write the database unless it exists, and time the questions."""
    size = QUICK if options.quick else Size()
    path = work / f"scale-{size.layers * size.rows}.semlens"
    if not (path / "manifest.json").is_file():
        write(path, size)
    return {
        "size": vars(size),
        "goal": GOAL,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "seconds": time_questions(path, size, options.rounds),
    }
