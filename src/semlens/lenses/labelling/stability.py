"""How stable labels are under other images of the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float32, Int64

from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller
from semlens.progress import report_progress

DRAWS = 20
"""Bootstrap samples; the share of them that agree has a standard error of at most 0.11."""


def stability(
    evidence: Evidence,
    labeller: Labeller,
    scores: Float32[np.ndarray, "n q"] | None = None,
    *,
    names: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Float32[np.ndarray, " n"]:
    """Return the share of bootstrap samples of the images in which a component's label is the same.

    A stable label may be wrong; one that other images of the same kind would change says little.
    All components are labelled again with each sample, also by methods that compare them.

    Parameters
    ----------
    scores
        Those of the method on the evidence, if they are known.
    names
        Names of the words; words of the same name, as in two categories, are the same label.
    draws
        Bootstrap samples, see :func:`resampled`.
    """
    if not draws:
        return np.full(len(evidence), np.nan, np.float32)
    scores = labeller.scores(evidence) if scores is None else scores
    words = np.arange(evidence.shape[1])
    same = words if names is None else np.unique(names, return_inverse=True)[1]
    best, agree = same[scores.argmax(1)], np.zeros(len(evidence))
    rng = np.random.default_rng(seed)
    for draw in range(draws):
        found = labeller.scores(resampled(evidence, rng))
        agree += same[found.argmax(1)] == best
        report_progress("labelling samples of the images", draw + 1, draws)
    return (agree / draws).astype(np.float32)


def resampled(evidence: Evidence, rng: np.random.Generator) -> Evidence:
    """Return the evidence that a bootstrap sample of the data would give.

    Images of the reference sample are drawn with replacement, as many as there are; each other
    image is in the sample once on average, a Poisson number of times (Chamandy et al. 2012).
    Copies of an image are examples of a component, and rows of the reference sample, as often. So
    an example remains linked to its row, and the strongest images of the sample are the examples;
    if there are more copies than examples, the weakest are left out, and if there are fewer, a
    component has fewer examples, since the images that follow are not known. Other images that
    examples are compared with (crops) stay as they are.
    """
    reference, places = evidence.reference, evidence.in_reference
    copies = rng.poisson(1, len(evidence.images))[evidence.examples]
    size = 0 if reference is None else len(reference)
    rows = rng.multinomial(size, np.full(size, 1 / size)) if size else np.zeros(0, np.int64)
    if size and places is not None:
        copies = np.where(places >= 0, rows[places], copies)
    used = evidence.used()
    copies[~used] = 0
    copies[copies.sum(1) == 0, 0] = 1  # a component keeps an example
    component, rank, copy, place = _copied(copies)
    shape = evidence.examples.shape
    examples, strength = np.full(shape, -1), np.zeros(shape, np.float32)
    examples[component, place] = evidence.examples[component, rank]
    strength[component, place] = evidence.readouts[component, rank]
    counts = np.minimum(copies.sum(1), shape[1])
    changed = replace(evidence, examples=examples, readouts=strength, counts=counts)
    if reference is None:
        return changed
    linked = None
    if places is not None:
        first = np.cumsum(rows) - rows
        linked = np.full(shape, -1)
        row = places[component, rank]
        # the one example that is kept may have no row in the sample
        linked[component, place] = np.where((row >= 0) & (rows[row] > copy), first[row] + copy, -1)
    sample = np.repeat(reference, rows, axis=0)
    readouts, annotations = evidence.reference_readouts, evidence.annotations
    return replace(
        changed,
        reference=sample,
        reference_readouts=None if readouts is None else np.repeat(readouts, rows, axis=0),
        annotations=None if annotations is None else np.repeat(annotations, rows, axis=0),
        in_reference=linked,
        background=sample if evidence.background is reference else evidence.background,
    )


def _copied(
    copies: Int64[np.ndarray, "n m"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return component, old rank, number and new rank of each copy that is kept."""
    n, m = copies.shape
    source = np.repeat(np.arange(n * m), copies.ravel())
    component, rank = source // m, source % m
    total = copies.sum(1)
    place = np.arange(len(source)) - np.repeat(np.cumsum(total) - total, total)
    first = np.cumsum(copies.ravel()) - copies.ravel()
    copy = np.arange(len(source)) - first[source]
    kept = place < m
    return component[kept], rank[kept], copy[kept], place[kept]
