"""Small synthetic worlds, of which the right words are known, made in seconds."""

from __future__ import annotations

import numpy as np

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
RATE = (100, 1_000, 10_000)
"""One image in so many shows the word of a rare component."""


def units(draw: np.random.Generator, *shape: int) -> np.ndarray:
    """Return random unit vectors."""
    vectors = draw.standard_normal(shape, np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


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


def world(seed: int, gap: float, noise: float = 0.5) -> tuple[Evidence, np.ndarray]:
    """Return a synthetic world of 20 components and 60 words, and the right words.

    Parameters
    ----------
    gap
        Length of what all images, and in another direction all texts, have in common.
    noise
        Standard deviation of each of an image's 24 values about those of its word.
    """
    draw = np.random.default_rng(seed)
    words, dim, images = 60, 24, 1500
    text = units(draw, words, dim)
    shown = draw.integers(0, words, images)
    truth = draw.permutation(words)[:20]
    common = np.linalg.qr(draw.standard_normal((dim, 2)))[0].T.astype(np.float32)
    vectors = text[shown] + noise * draw.standard_normal((images, dim), np.float32)
    vectors, text = vectors + gap * common[0], text + gap * common[1]
    readouts = (shown[:, None] == truth) + 0.2 * draw.random((images, len(truth)), np.float32)
    evidence = Evidence.of_reference(
        text / np.linalg.norm(text, axis=1, keepdims=True),
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        readouts.astype(np.float32),
        20,
        annotations=shown[:, None] == np.arange(words),
    )
    return evidence, truth


def rare_world(
    seed: int, leak: float, *, each: int = 5, meaningless: bool = False
) -> tuple[Evidence, np.ndarray]:
    """Return a synthetic world of rare components, in the order of ``RATE``, and the right words.

    40 common words, of no component, share the other images.

    Parameters
    ----------
    leak
        Strength with which a component activates on images that do not show its word: about one
        image in six, and seldom more than this.
    each
        Components of each rate.
    meaningless
        Whether the images show common words only, so that no word is right.
    """
    draw = np.random.default_rng(seed)
    images, common, dim, sample, top = 20_000, 40, 32, 2048, 30
    truth = common + np.arange(each * len(RATE))
    text = units(draw, common + len(truth), dim)
    fires = np.full(images, -1)
    times = np.repeat([images // rate for rate in RATE], each)
    fires[draw.permutation(images)[: times.sum()]] = np.repeat(truth, times)
    elsewhere = draw.integers(0, common, images)
    shown = np.where((fires < 0) | meaningless, elsewhere, fires)
    vectors = text[shown] + 0.3 * draw.standard_normal((images, dim), np.float32)
    readouts = (fires[:, None] == truth) * (0.5 + draw.random((images, len(truth)), np.float32))
    readouts += leak * np.maximum(draw.standard_normal(readouts.shape, np.float32) - 1, 0)
    strongest = np.argsort(-readouts, axis=0, kind="stable")[:top].T.copy()
    distinct, examples = np.unique(strongest, return_inverse=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = draw.permutation(images)[:sample]
    place = np.full(images, -1)
    place[chosen] = np.arange(sample)
    evidence = Evidence(
        text,
        vectors[distinct],
        examples.reshape(strongest.shape),
        np.take_along_axis(readouts.T, strongest, 1),
        np.full(len(truth), top),
        reference=vectors[chosen],
        reference_readouts=readouts[chosen],
        in_reference=place[strongest],
        population=images,
    )
    return evidence, truth


def planted(seed: int, embedder: str) -> Units:
    """Return units of a small synthetic world, of which some have no content."""
    evidence, truth = world(seed, 0.0, noise=0.9 if embedder == "a" else 1.2)
    sample, readouts = evidence.sample
    marks = evidence.annotations
    assert marks is not None  # noqa: S101 - it has them
    draw = np.random.default_rng(seed)
    noise = draw.permuted(readouts[:, :10], axis=0)
    readouts = np.concatenate([readouts, noise], axis=1)
    right = np.zeros((readouts.shape[1], len(evidence.words)), bool)
    right[np.arange(len(truth)), truth] = True
    return Units(
        f"planted {seed}", "broad", embedder, "", tuple(map(str, range(len(evidence.words)))),
        Evidence.of_reference(evidence.words, sample, readouts, 20, annotations=marks),
        ("detector",) * len(truth) + ("noise",) * 10, right,
        UnseenImages(sample, marks, readouts),
    )  # fmt: skip
