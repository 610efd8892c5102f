"""Hand-built units: detectors of words, mixtures of them, and noise, as readouts of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import semlens as sl
from benchmarks.worlds.labelled.scenes import Split, WorldImages
from benchmarks.worlds.labelled.units import Kind, Units, UnseenImages
from benchmarks.worlds.labelled.vectors import Vectors
from semlens.lenses.labelling.evidence import Evidence

COUNTS: dict[Kind, int] = {"detector": 94, "max": 18, "sum": 16, "noise": 22}
"""Units of each kind."""
SHARES = {"specific": 0.55, "general": 0.25, "attribute": 0.2}
"""Shares of detectors by what their word is about."""
FEWEST = 8, 3
"""Fewest probe and unseen images of a detector's word."""
ALIKE = 0.15
"""Largest Jaccard index of the images of two parts of a mixture."""
REFERENCE = sl.Recipe().reference
"""Images of the reference sample."""
LONGER = 0.2
"""Share of the units with 60 examples; others have 30."""


@dataclass(frozen=True)
class Detector:
    """How a unit responds to one word.

    Parameters
    ----------
    word
        Position in the vocabulary.
    spread
        Standard deviation of the logarithm of an image's strength.
    by_size
        Power of the shown size in the strength.
    missed
        Share of the images of the word that do not activate it.
    similar
        Response to other concepts of the same kind, relative to the word.
    """

    word: int
    spread: float
    by_size: float
    missed: float
    similar: float

    @classmethod
    def draw(cls, word: int, rng: np.random.Generator) -> Detector:
        """Draw a detector's properties."""
        return cls(
            word,
            rng.uniform(0.15, 0.6),
            float(rng.choice([0.0, 0.5, 1.0])),
            float(rng.choice([0.0, 0.0, 0.2, 0.4])),
            float(rng.choice([0.0, 0.0, 0.2, 0.4])),
        )


@dataclass(frozen=True)
class HandBuilt:
    """A hand-built unit: no parts for noise.

    Parameters
    ----------
    leak
        Standard deviation of the response to each other concept.
    noise
        Scale of the noise, of which there are three kinds.
    threshold
        What is subtracted.
    signed
        Whether readouts below the threshold are negative, or 0.
    """

    kind: Kind
    parts: tuple[Detector, ...]
    seed: int
    leak: float
    noise: float
    noise_kind: str
    threshold: float
    signed: bool
    examples: int

    @classmethod
    def draw(cls, kind: Kind, words: Sequence[int], rng: np.random.Generator) -> HandBuilt:
        """Draw a unit's properties."""
        return cls(
            kind,
            tuple(Detector.draw(word, rng) for word in words),
            int(rng.integers(2**31)),
            float(rng.choice([0.0, 0.1, 0.2])),
            float(rng.choice([0.05, 0.15, 0.3])),
            str(rng.choice(["normal", "laplace", "lognormal"])),
            float(rng.choice([0.0, 0.2, 0.4])),
            bool(rng.random() < 0.35),
            60 if rng.random() < LONGER else 30,
        )


def draw_units(images: WorldImages, counts: dict[Kind, int] | None = None) -> list[HandBuilt]:
    """Draw the hand-built units of a world; every detector has another word where possible."""
    counts = COUNTS if counts is None else counts
    rng = np.random.default_rng([images.spec.seed, 3])
    pools = _pools(images, rng)
    units: list[HandBuilt] = []
    for kind, count in counts.items():
        for _ in range(count):
            parts = {"detector": 1, "noise": 0}.get(kind, 2 if rng.random() < 0.65 else 3)
            words: list[int] = []
            while len(words) < parts:
                word = _next(pools, rng)
                if all(_unrelated(images, word, other) for other in words):
                    words.append(word)
            units.append(HandBuilt.draw(kind, words, rng))
    return units


def readouts(unit: HandBuilt, images: WorldImages, split: Split) -> np.ndarray:
    """Return float32[n], a unit's readouts of some images."""
    draw = np.random.default_rng([unit.seed, len(split)])
    noise = unit.noise * _noise(unit.noise_kind, len(split), draw)
    if unit.kind == "noise":
        value = noise / unit.noise
    else:
        responses = np.stack([_response(d, unit, images, split, draw) for d in unit.parts])
        value = responses.max(0) if unit.kind == "max" else responses.sum(0)
        value = value + _leak(unit, images, split) + noise
    value = value - unit.threshold
    return (value if unit.signed else np.maximum(value, 0)).astype(np.float32)


def _response(
    part: Detector, unit: HandBuilt, images: WorldImages, split: Split, draw: np.random.Generator
) -> np.ndarray:
    """Return how strongly each image shows the word of a detector."""
    strength = np.exp(part.spread * draw.standard_normal(len(split)))
    strength *= draw.random(len(split)) >= part.missed
    present = split.true[:, part.word].astype(float)
    pictures = images.picture_words[:, part.word]
    if not pictures.any():  # of background or overlay
        return strength * present
    size = _size(pictures, split)
    strength *= np.where(size > 0, (size / 0.6) ** part.by_size, 0)
    kinds = np.array([d.kind for d in images.shown])
    alike = np.isin(kinds, kinds[pictures]) & ~pictures
    others = part.similar * (_size(alike, split) > 0) * strength_of_others(draw, len(split))
    return np.maximum(strength * present, others)


def strength_of_others(draw: np.random.Generator, count: int) -> np.ndarray:
    """Return how strongly similar concepts show, relative to the word."""
    return np.exp(0.4 * draw.standard_normal(count))


def _size(pictures: np.ndarray, split: Split) -> np.ndarray:
    """Return the largest size of one of some pictures in each image; 0 if there is none."""
    scenes = split.scenes
    second = pictures[scenes.second] & (scenes.second >= 0)
    return np.maximum(pictures[scenes.main] * scenes.size, second * scenes.small)


def _leak(unit: HandBuilt, images: WorldImages, split: Split) -> np.ndarray:
    """Return a weak response to every concept, the same in all its images."""
    concepts, number = np.unique([d.concept for d in images.shown], return_inverse=True)
    gain = unit.leak * np.random.default_rng(unit.seed).standard_normal(len(concepts))
    scenes = split.scenes
    second = np.where(scenes.second >= 0, gain[number[scenes.second]], 0)
    return gain[number[scenes.main]] + second


def _noise(kind: str, count: int, draw: np.random.Generator) -> np.ndarray:
    if kind == "laplace":
        return draw.laplace(size=count)
    if kind == "lognormal":
        return np.exp(0.8 * draw.standard_normal(count)) - 1
    return draw.standard_normal(count)


def _pools(images: WorldImages, rng: np.random.Generator) -> dict[str, list[int]]:
    """Return eligible words by what they are about, in random order, one of all synonyms."""
    enough = images.may_be_right & (images.probe.true.sum(0) >= FEWEST[0])
    enough &= images.unseen.true.sum(0) >= FEWEST[1]
    concepts = {d.concept for d in images.shown}
    pools: dict[str, list[int]] = {name: [] for name in SHARES}
    found: set[int] = set()
    for word in rng.permutation(np.flatnonzero(enough)).tolist():
        if int(images.synonyms[word]) in found:
            continue
        found.add(int(images.synonyms[word]))
        about = images.picture_words[:, word].any()
        general = about and images.words[word] not in concepts
        pools["general" if general else "specific" if about else "attribute"].append(word)
    return pools


def _next(pools: dict[str, list[int]], rng: np.random.Generator) -> int:
    """Take the next word of a pool, which goes to its end."""
    names = [name for name in SHARES if pools[name]]
    weight = np.array([SHARES[name] for name in names])
    pool = pools[names[rng.choice(len(names), p=weight / weight.sum())]]
    word = pool.pop(0)
    pool.append(word)
    return word


def _unrelated(images: WorldImages, one: int, other: int) -> bool:
    a, b = images.probe.true[:, one], images.probe.true[:, other]
    either = (images.picture_words[:, one] & images.picture_words[:, other]).any()
    return bool((a & b).sum() < ALIKE * (a | b).sum() and not either)


def hand_built_units(images: WorldImages, vectors: Vectors, embedder: str) -> Units:
    """Return the hand-built units of a world, seen through an embedder."""
    units = draw_units(images)
    probe = np.stack([readouts(unit, images, images.probe) for unit in units], 1)
    right = [images.right([part.word for part in unit.parts]) for unit in units]
    rng = np.random.default_rng([images.spec.seed, 4])
    sample = rng.permutation(len(images.probe))[:REFERENCE]
    examples = np.array([unit.examples for unit in units])
    return Units(
        world=images.spec.name,
        data=images.spec.data,
        embedder=embedder,
        subject="",
        words=images.words,
        evidence=whole_images(probe, examples, sample, vectors, images.probe.true),
        kind=tuple(unit.kind for unit in units),
        right=np.stack(right),
        unseen=UnseenImages(
            vectors.unseen,
            images.unseen.true,
            np.stack([readouts(unit, images, images.unseen) for unit in units], 1),
        ),
    )


def whole_images(
    readouts: np.ndarray, counts: np.ndarray, sample: np.ndarray, vectors: Vectors, true: np.ndarray
) -> Evidence:
    """Return evidence whose examples are whole images.

    Parameters
    ----------
    readouts
        float32[N n], of all probe images.
    counts
        int[n], examples of each unit.
    sample
        int[s], the probe images of the reference sample.
    true
        bool[N q], which words are true of which probe images.
    """
    strongest = np.argsort(-readouts, axis=0, kind="stable")[: counts.max()].T
    distinct, examples = np.unique(strongest, return_inverse=True)
    place = np.full(len(readouts), -1)
    place[sample] = np.arange(len(sample))
    return Evidence(
        words=vectors.words,
        images=vectors.probe[distinct],
        examples=examples.reshape(strongest.shape),
        readouts=np.take_along_axis(readouts.T, strongest, 1),
        counts=counts,
        null=vectors.null,
        reference=vectors.probe[sample],
        reference_readouts=readouts[sample],
        in_reference=place[strongest],
        population=len(readouts),
        annotations=true[sample],
    )
