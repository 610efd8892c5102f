"""Small synthetic units, on which the benchmark is tried in seconds."""

from __future__ import annotations

from functools import partial

import numpy as np

from benchmarks.cases.labels.cells import Source
from benchmarks.worlds.labelled.units import Kind, Units, UnseenImages
from semlens.lenses.labelling.evidence import Evidence

EMBEDDERS = ("synthetic/16", "synthetic/24")
"""Embedders: random vectors of so many dimensions."""
WORDS, KNOWN = 40, 30
"""Words, and how many of them a unit may be of."""
IMAGES, REFERENCE, UNSEEN, EXAMPLES = 900, 400, 300, 20
KINDS: tuple[Kind, ...] = (
    *["detector"] * 12, *["channel"] * 6, *["max"] * 4, *["sum"] * 4, *["noise"] * 2, "unknown",
)  # fmt: skip


def sources() -> list[Source]:
    """Return two development worlds, and one that stands for those opened once."""
    named = [("plain-broad", False, "broad"), ("plain-narrow", False, "narrow")]
    named += [("once-broad", True, "broad"), ("once-narrow", True, "narrow")]
    return [
        Source(name, once, partial(synthetic_units, name, data, seed))
        for seed, (name, once, data) in enumerate(named)
    ]


def synthetic_units(world: str, data: str, seed: int, embedder: str) -> list[Units]:
    """Return units of which each is active on images that show its words.

    Every image shows two words. Narrow words have much in common.
    """
    draw, dim = np.random.default_rng(seed), int(embedder.split("/")[1])
    shown = draw.random((IMAGES + UNSEEN, WORDS)).argsort(1)[:, :2]
    marks = np.zeros((len(shown), WORDS), bool)
    np.put_along_axis(marks, shown, values=True, axis=1)
    right = np.zeros((len(KINDS), WORDS), bool)
    readouts = draw.random((len(shown), len(KINDS)), np.float32)
    for unit, kind in enumerate(KINDS):
        words = draw.permutation(KNOWN)[: 2 if kind in ("max", "sum") else 1]
        if kind != "noise":
            strength = marks[:, words].any(1) if kind == "max" else marks[:, words].sum(1)
            readouts[:, unit] = 2 * strength + (2 if kind == "channel" else 1) * readouts[:, unit]
        right[unit, words] = kind not in ("noise", "unknown")

    see = np.random.default_rng((seed, dim))
    text = see.standard_normal((WORDS, dim), np.float32) + (0.8 if data == "narrow" else 0)
    vectors = marks @ text + 2 * see.standard_normal((len(shown), dim), np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    seen = readouts[:IMAGES]
    strongest = np.argsort(-seen, axis=0, kind="stable")[:EXAMPLES].T.copy()
    evidence = Evidence(
        text, vectors[:IMAGES], strongest, np.take_along_axis(seen.T, strongest, 1),
        np.full(len(KINDS), EXAMPLES), reference=vectors[:REFERENCE],
        reference_readouts=seen[:REFERENCE],
        in_reference=np.where(strongest < REFERENCE, strongest, -1), population=IMAGES,
        annotations=marks[:REFERENCE],
    )  # fmt: skip
    unseen = UnseenImages(vectors[IMAGES:], marks[IMAGES:], readouts[IMAGES:])
    words = tuple(f"word {number}" for number in range(WORDS))
    return [
        Units(world, "broad" if data == "broad" else "narrow", embedder, "", words, evidence,
              KINDS, right, unseen)
    ]  # fmt: skip
