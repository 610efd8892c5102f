"""Labelling methods as plain loops in float64, each written from its formula, and planted data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from semlens.lenses.labelling.evidence import Evidence


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@dataclass
class Planted:
    """Unit k fires on images that show word k."""

    evidence: Evidence
    truth: np.ndarray


def planted(
    units: int = 20, words: int = 60, images: int = 1500, top: int = 20, dim: int = 24,
    noise: float = 0.1, gap: float = 0.0, seed: int = 0,
) -> Planted:  # fmt: skip
    """Each image shows one word; its vector is that word's, with noise and a common direction.

    ``gap`` is the length of the common direction of images; that of texts is orthogonal to it.
    """
    draw = np.random.default_rng(seed)
    text = unit(draw.normal(size=(words, dim)))
    shown = draw.integers(0, words, images)
    image_side, text_side = np.linalg.qr(draw.normal(size=(dim, 2)))[0].T
    vectors = unit(text[shown] + noise * draw.normal(size=(images, dim)) + gap * image_side)
    truth = draw.permutation(words)[:units]
    readouts = 1.0 * (shown[:, None] == truth) + 0.2 * draw.random((images, units))
    text_vectors = unit(text + gap * text_side)
    marks = shown[:, None] == np.arange(words)
    evidence = Evidence.of_reference(
        text_vectors.astype(np.float32), vectors.astype(np.float32),
        readouts.astype(np.float32), top, annotations=marks,
    )  # fmt: skip
    return Planted(evidence, truth)


def small(seed: int = 0, n: int = 5, q: int = 7, s: int = 60, m: int = 6, dim: int = 8, **others):
    """Random evidence with examples that are not in the reference, and unequal counts."""
    draw = np.random.default_rng(seed)
    counts = draw.integers(2, m + 1, n)
    readouts = -np.sort(-draw.gamma(1, 2, (n, m)), axis=1)
    fields = {
        "null": unit(draw.normal(size=dim)).astype(np.float32),
        "reference": unit(draw.normal(size=(s, dim)) + 0.4).astype(np.float32),
        "reference_readouts": np.maximum(draw.normal(size=(s, n)), 0).astype(np.float32),
        "annotations": draw.random((s, q)) < 0.2,
    }
    return Evidence.of_vectors(
        unit(draw.normal(size=(q, dim)) + 0.3).astype(np.float32),
        unit(draw.normal(size=(n, m, dim)) + 0.4).astype(np.float32),
        readouts.astype(np.float32), counts, **{**fields, **others},
    )  # fmt: skip


def examples_of(e: Evidence, k: int, top: int):
    """Vectors and readouts of the first examples of a component, in float64."""
    count = min(e.counts[k], top)
    return e.images[e.examples[k, :count]].astype(float), e.readouts[k, :count].astype(float)


def by_readout(a):
    """Weights proportional to readouts, shifted if some are negative."""
    a = a - min(a.min(), 0)
    return a / a.sum() if a.sum() > 0 else np.full(len(a), 1 / len(a))


def softmax(x):
    x = [math.exp(v - max(x)) for v in x]
    return np.array(x) / sum(x)


def semantic_lens(e, aggregate="mean", centred="none", top=10**9):
    words = e.words.astype(float)
    background = e.background if e.background is not None else e.reference
    scores = np.zeros(e.shape)
    for k in range(len(e)):
        v, a = examples_of(e, k, top)
        theta = {
            "mean": v.mean(0),
            "median": np.median(v, 0),
            "weighted": (by_readout(a)[:, None] * v).sum(0),
        }[aggregate]
        if centred in ("images", "both"):
            theta = theta - background.astype(float).mean(0)
        for w, t in enumerate(words):
            if centred in ("words", "both"):
                scores[k, w] = unit(theta) @ unit(t - words.mean(0))
            else:
                scores[k, w] = unit(theta) @ t - unit(theta) @ e.null.astype(float)
    return scores


def mutual_information(e, top, a, lam, log):
    words = e.words.astype(float)
    given = np.zeros(e.shape)
    for k in range(len(e)):
        for rank, v in enumerate(examples_of(e, k, top)[0]):
            p = softmax([a * (v @ t) for t in words])
            for w in range(len(words)):
                given[k, w] += log(p[w], rank)
    prior = np.log(np.exp(given).mean(0))
    return given - lam * prior


def soft_wpmi(e, top=100, a=10.0, lam=1.0):
    def log(p, rank):
        b = 0.998 - rank / top * (0.998 - 0.97)
        return math.log(1 + b * (p - 1) + 1e-7)

    return mutual_information(e, top, a, lam, log)


def wpmi(e):
    return mutual_information(e, 28, 2.0, 0.6, lambda p, rank: math.log(p + 1e-7))


def weighted_dissect(e):
    words = e.words.astype(float)
    prior = np.mean([softmax(words @ v / 10) for v in e.reference.astype(float)], axis=0)
    scores = np.zeros(e.shape)
    for k in range(len(e)):
        v, a = examples_of(e, k, 30)
        p = sum(g * softmax(words @ x / 10) for g, x in zip(by_readout(a), v, strict=True))
        scores[k] = np.log(p + 1e-6) - np.log(prior)
    return scores


def on_reference(e, score):
    """Scores of a function of readouts and cosines, one component and word at a time."""
    p = e.reference.astype(float) @ e.words.astype(float).T
    a = e.reference_readouts.astype(float)
    return np.array([[score(a[:, k], p[:, w]) for w in range(p.shape[1])] for k in range(len(e))])


def cos_cubed(e, floor=0.0):
    def score(a, p):
        a, p = (a - a.mean()) ** 3, (p - p.mean()) ** 3
        return (a @ p) / max(np.linalg.norm(a), floor) / max(np.linalg.norm(p), floor)

    return on_reference(e, score)


def correlation(e):
    return on_reference(e, lambda a, p: np.corrcoef(a, p)[0, 1])


def rank_reorder(e, share=0.05):
    def score(a, p):
        count = int(len(a) * share)
        rows = sorted(range(len(a)), key=lambda i: -a[i])[:count]
        target, cosine = a[rows], p[rows]
        ascending = np.sort(target)
        pairs = np.mean([[abs(x - y) ** 3 for x in target] for y in target])
        error = 0.0
        for i in range(count):
            rank = sum(cosine < cosine[i])
            error += abs(target[i] - ascending[rank]) ** 3 / count
        return -error / pairs / max(cosine.mean(), 1e-3) ** 0.5

    return on_reference(e, score)


def invert(e, share=0.02):
    return on_reference(e, lambda a, p: roc_auc_score(p >= np.quantile(p, 1 - share), a))


def annotated_invert(e):
    scores = np.zeros(e.shape)
    for k, w in np.ndindex(e.shape):
        true = e.annotations[:, w]
        if 0 < true.mean() <= 0.5:
            scores[k, w] = roc_auc_score(true, e.reference_readouts[:, k])
    return scores


def csp(e, gamma):
    scores = np.zeros(e.shape)
    sample, readouts = e.reference.astype(float), e.reference_readouts.astype(float)
    for k in range(len(e)):
        v, a = examples_of(e, k, 30)
        low = sample[readouts[:, k] < readouts[:, k].mean()]
        total = np.zeros(sample.shape[1])
        for g, x in zip(by_readout(a), v, strict=True):
            near = low[np.argmax(low @ x)]
            total += g * (x - gamma * (near @ x) * near)
        scores[k] = e.words.astype(float) @ unit(total)
    return scores


def ballots(background, words, kappa, tau):
    """The function from an image's vector to its vote above that of the background, per word."""
    background, words = background.astype(float), words.astype(float)
    t, centre = unit(words - words.mean(0)), background.mean(0)
    p = unit(background - centre) @ t.T
    mu, sigma = p.mean(0), p.std(0)
    common = (p - mu).std()

    def vote_of(x):
        z = unit(x - centre) @ t.T
        return softmax((z - mu) / (tau * sigma ** (kappa / 2) * common ** (1 - kappa / 2)))

    h = np.array([vote_of(x) for x in background])
    return lambda x: (vote_of(x) - h.mean(0)) / h.std(0) ** (kappa / 2)


def vote_examples(e, kappa=0.5, tau=1.5, top=60):
    said = ballots(e.reference if e.background is None else e.background, e.words, kappa, tau)
    return np.array(
        [np.mean([said(x) for x in examples_of(e, k, top)[0]], axis=0) for k in range(len(e))]
    )


def vote(e, kappa=0.5, tau=1.5, share=0.08, top=10**9):
    said = ballots(e.reference, e.words, kappa, tau)
    said_of_examples = said if e.background is None else ballots(e.background, e.words, kappa, tau)
    scores = np.zeros(e.shape)
    for k in range(len(e)):
        a = e.reference_readouts[:, k].astype(float)
        floor = sorted(a, reverse=True)[int(share * len(a))]
        if floor == a.max() > a.min():
            floor = a[a < a.max()].max()
        v, strongest = examples_of(e, k, top)
        voters = [(r - floor, said_of_examples(x)) for x, r in zip(v, strongest, strict=True)]
        known = set() if e.in_reference is None else set(e.in_reference[k, : len(v)])
        rest = [i for i in range(len(a)) if i not in known]
        factor = 1 if e.population is None else (e.population - len(v)) / len(rest)
        voters += [(factor * (a[i] - floor), said(e.reference[i].astype(float))) for i in rest]
        voters = [(g, h) for g, h in voters if g > 0]
        scores[k] = sum(g * h for g, h in voters) / sum(g for g, _ in voters)
    return scores
