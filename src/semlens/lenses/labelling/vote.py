"""Votes: each image spreads one vote over the words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float16, Float32, Float64, Int64
from scipy.sparse import coo_array
from scipy.special import softmax

from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller, Need
from semlens.lenses.labelling.semantic_lens import centred_words
from semlens.lenses.query_embedding import unit
from semlens.settings import setting

_SMALLEST = 1e-9
"""Smallest standard deviation that is divided by."""
_IMAGES = 2048
"""Images that vote in one step."""


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

    def scores(self, images: Float32[np.ndarray, "i d"]) -> Float32[np.ndarray, "i q"]:
        """Return what each image alone says for each word: its vote above that of the background.

        The score of a component is a weighted mean of these.
        """
        return ((self.of(images) - self.expected) / self.spread).astype(np.float32)

    def weighted_sums(
        self,
        images: Float32[np.ndarray, "u d"] | Float16[np.ndarray, "u d"],
        rows: Int64[np.ndarray, "n m"],
        weight: Float32[np.ndarray, "n m"],
    ) -> Float32[np.ndarray, "n q"]:
        """Return the sum over m images, for each of n components, of weight times score.

        Each image votes once, however many components share it.

        Parameters
        ----------
        rows
            Rows of ``images``; any number where the weight is 0.
        """
        sums = np.zeros((len(rows), len(self.words)), np.float32)
        component, place = np.nonzero(weight)
        row, image = np.unique(rows[component, place], return_inverse=True)
        shape = len(rows), len(row)
        entries = coo_array((weight[component, place], (component, image)), shape=shape).tocsc()
        for start in range(0, len(row), _IMAGES):
            some = slice(start, start + _IMAGES)
            part = entries[:, some].tocsr()
            present = np.flatnonzero(np.diff(part.indptr))
            sums[present] += part[present] @ self.scores(images[row[some]].astype(np.float32))
        return sums


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

    kappa: Annotated[
        float, setting("How specific words are: 0 general, 1 specific.", ge=0, le=2)
    ] = 0.5
    tau: Annotated[float, setting("Temperature of a vote.", gt=0)] = 1.5


class Vote(VoteSettings):
    """Votes of all images, weighted by how much a component exceeds its threshold.

    The threshold is the readout that the strongest share of the reference sample exceeds, and
    g_i = max(a_i - threshold, 0). Of a component's m strongest images, which are all known, each
    counts once. If s images of the sample are not among them, each of these counts for (N - m) / s
    of the N images of the data. So the sums estimate those over all images, and of a component
    that few images activate, these are heard. If more than the share have the largest readout, as
    of a binary component, the threshold is the largest readout below it. A component that nothing
    sets apart, as all readouts are equal, has scores of 0.

    See :class:`VoteSettings` for the formula. The background of the sample is the sample itself.
    If examples are crops, they are compared with crops: for them, the means and deviations of the
    formula are those of the layer's crops.
    """

    needs: ClassVar[tuple[Need, ...]] = ("examples", "background", "reference")

    share: Annotated[
        float, setting("Share of the reference sample above the threshold.", gt=0, lt=1)
    ] = 0.08
    top: Annotated[
        int | None, setting("Examples beside the sample; None for all, 0 for none.", ge=0)
    ] = None

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        sample, readouts = evidence.sample
        words, background = centred_words(evidence), evidence.images_to_compare
        ballots = Ballots.calibrate(sample, words, self.kappa, self.tau)
        crops = background is not sample
        own = Ballots.calibrate(background, words, self.kappa, self.tau) if crops else ballots
        said = ballots.scores(sample)
        place = min(int(self.share * len(sample)), len(sample) - 1)
        threshold = _below_maximum(-np.partition(-readouts, place, axis=0)[place], readouts)
        span = np.maximum(readouts.max(0), evidence.readouts[:, 0]) - threshold
        span = np.where(span > 0, span, 1)  # weights up to 1, so that sums do not overflow

        used = evidence.used(top=self.top)
        strength = evidence.readouts[:, : used.shape[1]]
        weight = np.maximum(strength - threshold[:, None], 0) / span[:, None]
        weight[~used] = 0
        scores = own.weighted_sums(evidence.images, evidence.examples[:, : used.shape[1]], weight)
        total = weight.sum(1, dtype=np.float64)
        for block in evidence.blocks(len(sample)):
            rest = np.maximum(readouts[:, block] - threshold[block], 0) / span[block]
            rest = rest.T * self._represented(evidence, block)
            scores[block] += rest @ said
            total[block] += rest.sum(1, dtype=np.float64)
        return scores / np.where(total > 0, total, 1)[:, None].astype(np.float32)

    def _represented(self, evidence: Evidence, block: slice) -> Float32[np.ndarray, "b s"]:
        """Return how many images of the data each one of the sample stands for; examples: 0."""
        used = evidence.used(block, self.top)
        count = np.ones((len(used), len(evidence.sample[0])), np.float32)
        if evidence.in_reference is not None:
            places = evidence.in_reference[block, : used.shape[1]]
            component, place = np.nonzero(used & (places >= 0))
            count[component, places[component, place]] = 0
        if evidence.population is not None:
            size = np.maximum(count.sum(1), 1)
            count *= ((evidence.population - used.sum(1)) / size).astype(np.float32)[:, None]
        return count


def _below_maximum(
    threshold: Float32[np.ndarray, " n"], readouts: Float32[np.ndarray, "s n"]
) -> Float32[np.ndarray, " n"]:
    """Replace thresholds at the maximum by the largest readout below it, if there is one."""
    largest = readouts.max(0)
    below = np.where(readouts < largest, readouts, -np.inf).max(0)
    return np.where((threshold < largest) | np.isinf(below), threshold, below)


class ExampleVote(VoteSettings):
    """Votes of a component's strongest examples, all with the same weight.

    It needs no reference sample. See :class:`VoteSettings` for the formula.
    """

    needs: ClassVar[tuple[Need, ...]] = ("examples", "background")

    top: Annotated[int, setting("Number of examples.", ge=1)] = 60

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        background, words = evidence.images_to_compare, centred_words(evidence)
        ballots = Ballots.calibrate(background, words, self.kappa, self.tau)
        weight = evidence.weights(slice(None), self.top, by_readout=False)
        return ballots.weighted_sums(
            evidence.images, evidence.examples[:, : weight.shape[1]], weight
        )
