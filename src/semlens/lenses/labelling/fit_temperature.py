"""The temperature of SoftWPMI for an embedder, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float32
from scipy.stats import rankdata

from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.soft_wpmi import MutualInformation
from semlens.errors import ConceptError

TEMPERATURES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Temperatures that are compared by default."""


def fit_temperature(
    method: MutualInformation,
    evidence: Evidence,
    temperatures: Sequence[float] = TEMPERATURES,
) -> MutualInformation:
    """Return the method with the temperature that is best by :func:`separation`.

    A temperature that is too high looks at the nearest word of each image only, one that is too
    low at averages, in which words differ little. What is best depends on how far apart the
    embedder keeps images and words. Ties go to the earlier temperature.

    Parameters
    ----------
    evidence
        At least two components with at least two examples each; the more, the better.

    Raises
    ------
    ConceptError
        If there are fewer, or no temperature.
    """
    if not temperatures:
        raise ConceptError(
            "There is no temperature to choose from.", "Expected at least one.", "Pass some."
        )
    settings = method.model_dump()
    found = [type(method).model_validate({**settings, "temperature": t}) for t in temperatures]
    measured = [separation(one, evidence) for one in found]
    return found[int(np.argmax(measured))]


def separation(method: MutualInformation, evidence: Evidence) -> float:
    """Return how well words chosen on half of the examples single components out on the other.

    The examples of each component are divided by odd and even rank. On one half each component
    gets its best word. By that word's score on the other half, the component is compared with all
    others: the result is the share of others that score less, ties counting half, averaged over
    components and over both directions. It is 1 if labels fit no other component, and 0.5 if
    they say nothing. No truth is needed, and a word that is best for all components gains nothing.

    Raises
    ------
    ConceptError
        If there are fewer than two components with two examples.
    """
    enough = evidence.counts >= 2
    if enough.sum() < 2:
        raise ConceptError(
            f"{enough.sum()} components have two examples or more.",
            "Expected at least two, to compare halves of their examples.",
            "Set the temperature by hand.",
        )
    halves = [method.scores(_half(evidence, enough, start)) for start in (0, 1)]
    return float(np.mean([_share_below(a, b) for a, b in (halves, halves[::-1])]))


def _share_below(chosen: Float32[np.ndarray, "n q"], tested: Float32[np.ndarray, "n q"]) -> float:
    words = chosen.argmax(1)
    rank = np.diagonal(rankdata(tested[:, words], axis=0))
    return float((rank.mean() - 1) / (len(words) - 1))


def _half(evidence: Evidence, rows: np.ndarray, start: int) -> Evidence:
    """Return every second example of some components."""
    return replace(
        evidence,
        examples=evidence.examples[rows, start::2],
        readouts=evidence.readouts[rows, start::2],
        counts=(evidence.counts[rows] + 1 - start) // 2,
        reference=None,
        reference_readouts=None,
        in_reference=None,
        population=None,
        annotations=None,
    )
