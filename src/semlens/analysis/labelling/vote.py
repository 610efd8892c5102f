"""Votes: each image spreads one vote over the words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32, Float64
from scipy.special import softmax

from semlens.analysis.labelling.evidence import Evidence
from semlens.analysis.labelling.labeller import Labeller, Need
from semlens.analysis.labelling.semantic_lens import centred_words
from semlens.analysis.query_embedding import unit
from semlens.settings import setting

_SMALLEST = 1e-9
"""Smallest standard deviation that is divided by."""


class VoteSettings(Labeller):
    """Base of the two kinds of votes, which differ in the images that vote.

    Images and words are centred, v <- unit(v - mean of the background) and t <- unit(t - mean of
    the words), so that a modality gap and words near to everything lose their influence. With
    p_iw = v_i t_w, image i votes for word w with

        h_iw = softmax over words of (p_iw - mu_w) / (tau sigma_w^(kappa/2) sigma^(1 - kappa/2)),

    where mu_w and sigma_w are mean and standard deviation of p over the background, and sigma that
    of all p_iw - mu_w. With weights g_i of the images, the score is

        (sum_i g_i h_iw / sum_i g_i - mean of h_w) / (standard deviation of h_w)^(kappa/2),

    mean and deviation again over the background.

    kappa says how specific a word should be. 0 prefers general words, which few images set
    apart; 1 prefers specific ones. A method of semlens.
    """

    kappa: Annotated[float, setting("How specific words are: 0 general, 1 specific.", ge=0, le=2)]
    tau: Annotated[float, setting("Temperature of a vote.", gt=0)]


class Vote(VoteSettings):
    """Votes of the reference sample, weighted by how much a component exceeds its threshold.

    The threshold is the component's readout that the strongest share of the sample exceeds, and
    g_i = max(a_i - threshold, 0). A component that nothing sets apart, as all readouts are equal,
    has scores of 0. See :class:`VoteSettings` for the formula; the background is the sample
    itself.
    """

    needs: ClassVar[tuple[Need, ...]] = ("reference",)

    kappa: Annotated[
        float, setting("How specific words are: 0 general, 1 specific.", ge=0, le=2)
    ] = 0.5
    tau: Annotated[float, setting("Temperature of a vote.", gt=0)] = 1.5
    share: Annotated[float, setting("Share of the sample that votes.", gt=0, lt=1)] = 0.08

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        sample, readouts = evidence.sample
        ballots = Ballots.calibrate(sample, centred_words(evidence), self.kappa, self.tau)
        votes = ballots.of(sample)
        place = min(int(self.share * len(sample)), len(sample) - 1)
        scores = np.empty(evidence.shape, np.float32)
        for block in evidence.blocks(len(sample)):
            some = readouts[:, block]
            threshold = -np.partition(-some, place, axis=0)[place]
            weight = np.maximum(some - threshold, 0).T
            total = weight.sum(1, keepdims=True)
            mean = weight / np.where(total > 0, total, 1) @ votes
            scores[block] = np.where(total > 0, ballots.score(mean), 0)
        return scores


class ExampleVote(VoteSettings):
    """Votes of a component's strongest examples, all with the same weight.

    It needs no reference sample. See :class:`VoteSettings` for the formula.
    """

    needs: ClassVar[tuple[Need, ...]] = ("examples", "background")

    kappa: Annotated[
        float, setting("How specific words are: 0 general, 1 specific.", ge=0, le=2)
    ] = 0.5
    tau: Annotated[float, setting("Temperature of a vote.", gt=0)] = 1.5
    top: Annotated[int, setting("Number of examples.", ge=1)] = 60

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        background, words = evidence.images_to_compare, centred_words(evidence)
        ballots = Ballots.calibrate(background, words, self.kappa, self.tau)
        scores = np.empty(evidence.shape, np.float32)
        for block in evidence.blocks(evidence.depth(self.top) * len(words)):
            vectors = evidence.vectors(block, self.top)
            votes = ballots.of(vectors.reshape(-1, vectors.shape[2]))
            weight = evidence.weights(block, self.top, by_readout=False)
            votes = votes.reshape(*vectors.shape[:2], -1)
            scores[block] = ballots.score(np.matmul(weight[:, None], votes)[:, 0])
        return scores


_IMAGES = 2048
"""Images of the background that vote in one step."""


@dataclass(frozen=True, eq=False)
class Ballots:
    """How images vote on some words, calibrated on a background."""

    centre: Float32[np.ndarray, " d"]
    words: Float32[np.ndarray, "q d"]
    mean: Float32[np.ndarray, " q"]
    scale: Float32[np.ndarray, " q"]
    expected: Float64[np.ndarray, " q"]
    """Mean vote of the background."""
    spread: Float64[np.ndarray, " q"]
    """Its standard deviation, to the power of kappa / 2."""

    @classmethod
    def calibrate(
        cls,
        background: Float32[np.ndarray, "b d"],
        words: Float32[np.ndarray, "q d"],
        kappa: float,
        tau: float,
    ) -> Ballots:
        """Measure means and deviations on a background.

        Parameters
        ----------
        words
            float32[q d], centred.
        """
        centre = background.mean(0, dtype=np.float64).astype(np.float32)
        starts = range(0, len(background), _IMAGES)
        chunks = [unit(background[start : start + _IMAGES] - centre) for start in starts]
        mean, deviation = _moments(chunk @ words.T for chunk in chunks)
        common = np.sqrt((deviation**2).mean())
        scale = tau * np.maximum(deviation, _SMALLEST) ** (kappa / 2)
        scale = scale * max(common, _SMALLEST) ** (1 - kappa / 2)
        mean, scale = mean.astype(np.float32), scale.astype(np.float32)
        expected, spread = _moments(softmax((c @ words.T - mean) / scale, axis=1) for c in chunks)
        spread = np.maximum(spread, _SMALLEST) ** (kappa / 2)
        return cls(centre, words, mean, scale, expected, spread)

    def of(self, images: Float32[np.ndarray, "i d"]) -> Float32[np.ndarray, "i q"]:
        """Return the vote of each image on each word; the votes of an image sum to 1."""
        products = unit(images - self.centre) @ self.words.T
        return softmax((products - self.mean) / self.scale, axis=1)

    def score(self, votes: Float32[np.ndarray, "b q"]) -> Float64[np.ndarray, "b q"]:
        """Return scores from mean votes."""
        return (votes - self.expected) / self.spread


def _moments(
    chunks: Iterable[Float32[np.ndarray, "_ q"]],
) -> tuple[Float64[np.ndarray, " q"], Float64[np.ndarray, " q"]]:
    """Return mean and standard deviation of each column of stacked arrays.

    Values are small and near to their mean, so that sums of squares in 64 bits are exact enough.
    """
    count, total, squares = 0, np.float64(0), np.float64(0)
    for chunk in chunks:
        count += len(chunk)
        total = total + chunk.sum(0, dtype=np.float64)
        squares = squares + np.einsum("bq,bq->q", chunk, chunk, dtype=np.float64)
    mean = np.asarray(total / count)
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))
