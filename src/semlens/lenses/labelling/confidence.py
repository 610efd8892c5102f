"""How likely it is that the best word of a component is right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64
from scipy.special import expit

from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.semantic_lens import centred_words

NEAR_SYNONYM = 0.75
"""Cosine of centred words from which they are near-synonyms, between which nothing is decided."""
FEATURES = ("above noise", "margin", "words")
"""What the probability is computed from:

- how far the best word's score is above those of the same word for components without a meaning,
  in standard deviations of these; its inverse hyperbolic sine, so that it grows slowly
- the distance to the best word that is no near-synonym, as a share of that to the median word
- the logarithm of the number of words
"""
UNSURE = 0.2
"""Confidence below which a label is shown with a question mark."""
DECIDED = 0.5
"""Confidence from which a label stands alone: it is more likely right than wrong."""
CLOSE = 0.1
"""Margin, as a share of the best score, below which two words are about equally good. On the demo
such a label changes in half of the bootstrap samples of the images, and in one of eight beyond."""
ANY = "any"
"""The calibration on several embedders, for those of which there is none."""
_SMALLEST = 1e-9


@dataclass(frozen=True, eq=False)
class Confidence:
    """Probabilities that the best word of each component is right.

    Parameters
    ----------
    values
        float32[n], from 0 to 1.
    calibrated
        Whether they were fitted for this embedder. If not, take them for an order only.
    """

    values: Float32[np.ndarray, " n"]
    calibrated: bool


@dataclass(frozen=True)
class Calibration:
    """A logistic regression on :func:`features`.

    Parameters
    ----------
    embedder
        Its specification, or ``ANY``.
    fingerprint
        That of the embedder; "" for ``ANY``.
    method
        Name of the labelling method.
    parameters
        Those of the method.
    bias, weights
        The logit is the bias plus the sum of weights times features.
    low, high
        Range of each feature in the fit; values beyond count as these.
    fitted_on
        The worlds, the number of labels, and the share of right ones.
    """

    embedder: str
    fingerprint: str
    method: str
    parameters: Mapping[str, Any]
    bias: float
    weights: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    fitted_on: Mapping[str, Any]

    def probabilities(self, found: Float64[np.ndarray, "n f"]) -> Float32[np.ndarray, " n"]:
        """Return the probability of each row of features."""
        inside = found.clip(self.low, self.high)
        return expit(self.bias + inside @ np.array(self.weights)).astype(np.float32)


def confidence_of(
    embedder: str,
    method: str,
    scores: Float32[np.ndarray, "n q"],
    evidence: Evidence,
    noise: Float32[np.ndarray, "c q"],
) -> Confidence | None:
    """Return how likely it is that the best word of each component is right.

    A word is right if it is a name of what activates the component, or if at least 80 % of the
    images that it is true of show this. The probability was fitted on components of known content,
    among them ones that no word of the vocabulary is right for
    (``python -m benchmarks label_confidence``): it says whether a word fits, which a score above
    noise does not.

    Parameters
    ----------
    embedder
        Fingerprint of the embedder.
    method
        Name of a method, with its default parameters.
    scores
        float32[n q], of this method.
    noise
        float32[c q], those of components without a meaning
        (:func:`semlens.lenses.labelling.meaningless.meaningless`).

    Returns
    -------
    :
        None if there is no calibration for the method.
    """
    known = calibrations_of(method)
    own = [one for one in known if one.fingerprint == embedder]
    chosen = own or [one for one in known if one.embedder == ANY]
    if not chosen:
        return None
    return Confidence(chosen[0].probabilities(features(scores, evidence, noise)), bool(own))


def rival(
    label: str | None, candidates: Sequence[str], scores: Sequence[float], confidence: float
) -> str | None:
    """Return the second word, if it cannot be told which of the two is right; else None.

    That is so if its score is within a tenth of the best one's (``CLOSE``), and the label is not
    more likely right than wrong (``DECIDED``), or that is not known.

    Parameters
    ----------
    label
        The best word, or None if it is below the threshold; a mixed label has no rival.
    candidates, scores
        The best words, best first, among them this one; a word may be there twice.
    """
    if label is None or label not in candidates[:1] or confidence >= DECIDED:
        return None
    others = ((w, s) for w, s in zip(candidates, scores, strict=True) if w != label)
    second = next(others, None)
    close = second is not None and scores[0] - second[1] < CLOSE * abs(scores[0])
    return second[0] if second is not None and close else None


def as_shown(label: str | None, confidence: float, rival: str | None = None) -> str | None:
    """Return a label as people see it: ``dog``, ``dog?`` or ``unsure: dog / wolf``.

    Parameters
    ----------
    rival
        The word that may be right instead (:func:`rival`).
    """
    if label is None:
        return None
    mark = "?" if confidence < UNSURE else ""
    return f"{label}{mark}" if rival is None else f"unsure: {label} / {rival}{mark}"


def is_calibrated(embedder: str, method: str) -> bool:
    """Return whether probabilities of a method were fitted for an embedder, by its fingerprint."""
    return any(one.fingerprint == embedder for one in calibrations_of(method))


def calibrations_of(method: str) -> list[Calibration]:
    """Return the calibrations of a method, of all embedders."""
    return [one for one in calibrations() if one.method == method]


def features(
    scores: Float32[np.ndarray, "n q"],
    evidence: Evidence,
    noise: Float32[np.ndarray, "c q"],
) -> Float64[np.ndarray, "n f"]:
    """Return what the probability is computed from, in the order of ``FEATURES``."""
    n, q = scores.shape
    words, best = centred_words(evidence), scores.argmax(1)
    top = scores.max(1).astype(np.float64)
    margin = np.empty(n)
    for block in evidence.blocks(q):
        same = words[best[block]] @ words.T >= NEAR_SYNONYM
        same[np.arange(len(same)), best[block]] = True
        other = np.where(same, -np.inf, scores[block]).max(1)
        span = top[block] - np.median(scores[block], axis=1)
        distance = np.minimum(top[block] - other, span)  # of a single word: all
        margin[block] = np.where(span > 0, distance / np.where(span > 0, span, 1), 0)
    usual = noise.mean(0, dtype=np.float64)[best]
    spread = np.maximum(noise.std(0, dtype=np.float64)[best], _SMALLEST)
    above = np.arcsinh((top - usual) / spread)
    return np.stack([above, margin, np.full(n, np.log(q))], axis=1)


@lru_cache(maxsize=1)
def calibrations() -> tuple[Calibration, ...]:
    """Return the calibrations that are shipped."""
    text = files("semlens").joinpath("assets", "labels", "confidence.json").read_text("utf-8")
    saved: list[dict[str, Any]] = json.loads(text)["calibrations"]
    for one in saved:
        one.update({name: tuple(one[name]) for name in ("weights", "low", "high")})
    return tuple(Calibration(**one) for one in saved)
