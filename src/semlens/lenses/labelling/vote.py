"""Votes: each image spreads one vote over the words."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from jaxtyping import Float32

from semlens.lenses.labelling.ballots import Ballots
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller, Need
from semlens.lenses.labelling.semantic_lens import centred_words
from semlens.settings import setting


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
