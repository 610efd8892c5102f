"""Mixed labels: whether the examples of a component show its label, and what they show if not.

The best word of a component may be that of a few strong examples: a clock among leaves. So a label
is held against each example. Where fewer than half of them show its word, the component is called
after what its examples do show, the most frequent first: ``mixed: letter, vegetation, clock``.

**An example shows a word** if it is nearer to the word than 5 % of crops that do not show it. Near
is the cosine of the crop and the word, less the means of the layer's crops and of the words. Crops
of the layer that do show the word are among the nearest, and how many they are is not known. So
mean and deviation of the others are taken from the lower half of the layer's crops, between their
5 % and 25 % quantiles, as of a normal distribution. This is an empirical null (Efron 2004, JASA
99:96-104) on one side, and unlike a quantile of all crops it holds where a concept is common: of
two classes, each is half of the data.

**The words of a mixed label** are found one after the other, three at most. The next is the word
with the most votes (:class:`semlens.lenses.labelling.vote.ExampleVote`) of the examples that show
none of the words before it, among the words that at least a sixth of all examples show. They say
what is to be seen, not that it is more than chance: random crops show some word as well.

An addition of semlens. What it finds on components of known content, and what it costs, is in
``docs/labelling.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from statistics import NormalDist

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int64

from semlens.lenses.labelling.chosen_method import ChosenMethod
from semlens.lenses.labelling.database_evidence import layer_evidence
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.ranking import MIXED_BELOW, PARTS, Ranking
from semlens.lenses.labelling.scored_blocks import cached_scores, layer_places
from semlens.lenses.labelling.semantic_lens import centred_words
from semlens.lenses.labelling.vote import Ballots, ExampleVote
from semlens.lenses.noise import LEVEL
from semlens.lenses.query_embedding import QueryEmbedding, unit
from semlens.store.reader import Database

PART = 1 / 6
"""Least share of the examples that show a word of a mixed label."""
LEAST_CROPS = 20
"""Crops of a layer from which their 5 % quantile is one of them; below, labels are not checked."""
_LOWER = (0.05, 0.25)
_WORDS = 256
"""Words whose cosines with all crops are computed in one step."""
_ROUNDING = np.float32(1e-6)


@dataclass(frozen=True, eq=False)
class Presence:
    """What a crop must exceed to show each of q words.

    Parameters
    ----------
    centre
        float32[d], the mean of the crops.
    directions
        float32[q d], the words less the mean of them and of the empty prompt, of unit length.
        A single image as a concept stays as it is.
    least
        float32[q], the largest cosine of a crop that does not show the word.
    """

    centre: Float32[np.ndarray, " d"]
    directions: Float32[np.ndarray, "q d"]
    least: Float32[np.ndarray, " q"]

    @classmethod
    def of(cls, evidence: Evidence) -> Presence | None:
        """Measure it on the crops of a layer, its background; None if there are too few."""
        crops = evidence.images_to_compare
        if len(crops) < LEAST_CROPS:
            return None
        crops = unit(crops - evidence.centre)
        words = evidence.words
        texts = words if evidence.null is None else np.concatenate([words, evidence.null[None]])
        directions = unit(words - texts.mean(0)) if len(texts) > 1 else words
        normal = NormalDist()
        low, high = (normal.inv_cdf(share) for share in _LOWER)
        least = np.empty(len(words), np.float32)
        for start in range(0, len(words), _WORDS):
            some = slice(start, start + _WORDS)
            first, second = np.quantile(crops @ directions[some].T, _LOWER, axis=0)
            deviation = (second - first) / (high - low)
            mean = second - high * deviation
            least[some] = mean + normal.inv_cdf(1 - LEVEL) * deviation
        return cls(evidence.centre, directions, least + _ROUNDING)

    def shown(
        self, images: Float32[np.ndarray, "i d"], words: Int64[np.ndarray, " q"] | slice
    ) -> Bool[np.ndarray, "i q"]:
        """Return which images show which of some words."""
        return unit(images - self.centre) @ self.directions[words].T > self.least[words]

    def share(self, evidence: Evidence, word: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        """Return the share of each component's examples that show a word of its own."""
        share = np.empty(len(evidence), np.float32)
        for block in evidence.blocks(evidence.examples.shape[1] * evidence.words.shape[1]):
            near = unit(evidence.vectors(block).reshape(-1, self.centre.size) - self.centre)
            near = near.reshape(*evidence.examples[block].shape, -1)
            cosine = np.matmul(near, self.directions[word[block], :, None])[..., 0]
            shows = (cosine > self.least[word[block], None]) & evidence.used(block)
            share[block] = shows.sum(1) / evidence.counts[block]
        return share


def check_labels(
    database: Database, ranked: Ranking, embedding: QueryEmbedding, method: ChosenMethod
) -> Ranking:
    """Hold the best word of each component against its examples.

    Returns
    -------
    Ranking
        With ``shown`` and ``parts``. Of a mixed label, no confidence is known.
    """
    shown = np.full(len(ranked.rows), np.nan, np.float32)
    parts = np.full((len(shown), PARTS), -1)
    for layer, place in layer_places(database, ranked.rows):
        rows, words = ranked.rows[place], ranked.concept[place, 0]

        def compute(
            layer: str = layer,
            rows: Int64[np.ndarray, " n"] = rows,
            words: Int64[np.ndarray, " n"] = words,
        ) -> pd.DataFrame:
            evidence = layer_evidence(database, layer, embedding, rows)
            share, found = shown_words(evidence, words, embedding.names)
            columns = {f"part{at}": found[:, at] for at in range(PARTS)}
            return pd.DataFrame({"shown": share, **columns})

        key = [LEVEL, MIXED_BELOW, PART, PARTS, rows.tolist()]
        table = cached_scores(database, "label-shown", layer, embedding, method, key, compute)
        shown[place] = table["shown"].to_numpy(np.float32)
        parts[place] = table[[f"part{at}" for at in range(PARTS)]].to_numpy(np.int64)
    checked = replace(ranked, shown=shown, parts=parts)
    confidence = np.where(checked.is_mixed, np.float32(np.nan), ranked.confidence)
    return replace(checked, confidence=confidence)


def shown_words(
    evidence: Evidence, words: Int64[np.ndarray, " n"], names: Sequence[str]
) -> tuple[Float32[np.ndarray, " n"], Int64[np.ndarray, "n p"]]:
    """Return the share of examples that show each component's word, and what they show instead.

    Parameters
    ----------
    words
        The best word of each component.
    names
        Of all words; several may be equal, of which one is enough.

    Returns
    -------
    shown
        float32[n]; NaN if there are too few crops to tell.
    parts
        int64[n p], the words of a mixed label, most frequent first; -1 for none.
    """
    parts = np.full((len(evidence), PARTS), -1)
    presence = Presence.of(evidence)
    if presence is None:
        return np.full(len(evidence), np.nan, np.float32), parts
    share = presence.share(evidence, words)
    few = np.flatnonzero(share < MIXED_BELOW)
    if len(few):
        settings = ExampleVote()
        centred = centred_words(evidence)
        background = evidence.images_to_compare
        ballots = Ballots.calibrate(background, centred, settings.kappa, settings.tau)
        _, first = np.unique(names, return_index=True)
        every = np.zeros(len(names), bool)
        every[first] = True
        for component in few.tolist():
            found = evidence.examples[component, : evidence.counts[component]]
            images = evidence.images[found].astype(np.float32)
            shows = presence.shown(images, slice(None)) & every
            chosen = _parts(shows, ballots.scores(images))
            parts[component, : len(chosen)] = chosen
    return share, parts


def _parts(shows: Bool[np.ndarray, "m q"], votes: Float32[np.ndarray, "m q"]) -> list[int]:
    """Return the words of a mixed label, from what each of m examples shows and votes for."""
    count = shows.sum(0)
    left, chosen = np.ones(len(shows), bool), list[int]()
    while len(chosen) < PARTS and left.any():
        # what few of the rest show would say little of them
        new = shows[left].sum(0)
        open_ = new >= max(ceil(PART * len(shows)), 1)
        if not open_.any():
            break
        word = int(np.where(open_, votes[left].mean(0), -np.inf).argmax())
        chosen.append(word)
        left &= ~shows[:, word]
    return sorted(chosen, key=lambda word: -int(count[word]))
