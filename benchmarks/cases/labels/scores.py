"""Labels of units by a method, with their cost, remembered in a folder."""

from __future__ import annotations

import hashlib
import inspect
import time
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from threadpoolctl import threadpool_limits

from benchmarks.cases.labels.hits import best_words
from benchmarks.harness import ROOT
from benchmarks.worlds.cache import remembered
from benchmarks.worlds.labelled.units import Units
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller
from semlens.recipe import fingerprint

CODE = (
    "src/semlens/lenses/labelling/*.py",
    "src/semlens/lenses/query_embedding.py",
    "src/semlens/streaming/aggregate.py",
    "benchmarks/cases/labels/scores.py",
    "benchmarks/cases/labels/measures.py",
)
"""What labels depend on, besides the file of the method."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of n units by one method."""

    best: Int64[np.ndarray, "n k"]
    """The best words, the best first."""
    wrong: Int64[np.ndarray, " n"]
    """The best wrong word."""
    seconds: float
    """CPU time of the scores."""


class Cached:
    """Units, and a folder that remembers their labels."""

    def __init__(self, units: Units, folder: Path) -> None:
        self.units, self._folder = units, folder

    @cached_property
    def _digest(self) -> str:
        return units_digest(self.units)

    def labels(self, name: str, method: Labeller) -> Labels:
        """Label the units, or read their labels."""
        own = Path(inspect.getfile(type(method))).read_text("utf-8")
        key = fingerprint(code_digest(), own, self._digest, repr(method))
        found = remembered(self._folder / f"{name}.json", key, lambda: _label(self.units, method))
        return Labels(np.array(found["best"]), np.array(found["wrong"]), found["seconds"])


def cpu_timed(method: Labeller, evidence: Evidence) -> tuple[np.ndarray, float]:
    """Return scores and CPU seconds, with what the evidence keeps computed again, on one thread."""
    fresh = Evidence(**{field.name: getattr(evidence, field.name) for field in fields(evidence)})
    with threadpool_limits(1):
        started = time.process_time()
        scores = method.scores(fresh)
        return scores, time.process_time() - started


def units_digest(units: Units) -> str:
    """Return a digest of everything that labels of units depend on."""
    digest = hashlib.sha256(repr(units.words).encode())
    values = [getattr(units.evidence, field.name) for field in fields(units.evidence)]
    for value in [*values, units.right]:
        array = np.asarray(-1 if value is None else value)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return a digest of the code that labels depend on, at the start."""
    files = [path for pattern in CODE for path in sorted(ROOT.glob(pattern))]
    return fingerprint(*(path.read_text("utf-8") for path in files))


def _label(units: Units, method: Labeller) -> dict[str, Any]:
    scores, seconds = cpu_timed(method, units.evidence)
    wrong = np.where(units.right, -np.inf, scores).argmax(1)
    return {
        "best": best_words(scores).tolist(), "wrong": wrong.tolist(), "seconds": seconds,
    }  # fmt: skip
