"""What made-up words reach: a search for a word without a meaning should have no hit.

The components of a model are not random crops: any direction in semantic space, also that of a
word that does not exist, is closer to some of them than random crops are. A search by words is
therefore compared with searches for made-up words, half of them of random syllables and half of
random letters. Each component's alignment is standardised by its own with these words.

- A search has **any hit** only if its best one is better than that of 95 % of the words of both
  kinds, over the components that are searched (a quantile as in conformal prediction, Vovk et al.
  2005). So a search for a made-up word has a hit with a probability of at most 5 %, however many
  components there are.
- **Which** are hits follows from p-values, the share of made-up words and components of the layer
  with as large a value, by Benjamini and Hochberg (1995).
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil

import numpy as np
from jaxtyping import Float32, Float64, Int64

from semlens.embedders.embedder import Embedder
from semlens.lenses.noise import LEVEL, SEED, cached_on_database
from semlens.lenses.query_embedding import (
    QueryEmbedding,
    directions,
    embed_texts_of,
    null_vector,
)
from semlens.lenses.search.noise import benjamini_hochberg
from semlens.lenses.search.query import Query
from semlens.store.reader import Database

WORDS = 192
"""Made-up words of each kind."""
FEWEST = 32
"""An embedder that knows parts of fewer of one kind refuses such words by itself."""
REACHES = 8
"""Kinds of searches that are remembered, by their numbers of terms: each takes megabytes."""
_CONSONANTS, _VOWELS = list("bcdfghjklmnprstvwz"), list("aeiou")
_SMALL = 1e-6


def made_up_words(count: int = WORDS, seed: int = SEED) -> tuple[list[str], list[str]]:
    """Return different words of 2 to 5 random syllables ('vodizu'), and of 3 to 10 letters."""
    rng = np.random.default_rng((seed, WORDS))
    letters = sorted({*_CONSONANTS, *_VOWELS, *"qxy"})

    def spoken() -> str:
        size = int(rng.integers(2, 6))
        pairs = zip(rng.choice(_CONSONANTS, size), rng.choice(_VOWELS, size), strict=True)
        return "".join(consonant + vowel for consonant, vowel in pairs)

    def unspoken() -> str:
        return "".join(rng.choice(letters, int(rng.integers(3, 11))))

    kinds: list[list[str]] = []
    for make in (spoken, unspoken):
        words: dict[str, None] = {}
        while len(words) < count:
            words[make()] = None
        kinds.append(list(words))
    return kinds[0], kinds[1]


def made_up_thresholds(
    database: Database,
    rows: Int64[np.ndarray, " n"],
    query: Query,
    alignments: Float32[np.ndarray, " n"],
) -> Float32[np.ndarray, " n"]:
    """Return the alignment that each component must exceed; ``rows`` ascend.

    Minus infinity for a query with images or components: no word stands in for these.
    """
    lowest = np.full(len(rows), -np.inf, np.float32)
    if query.texts is None or not len(rows):
        return lowest
    reach = measured_reach(database, query.texts, query.templates)
    if reach is None:
        return lowest
    # rows ascend: those of a layer are one slice
    ends = np.searchsorted(rows, [entry.first + entry.rows for entry in database.manifest.layers])
    layers = {
        number: slice(start, end)
        for number, (start, end) in enumerate(pairwise([0, *ends.tolist()]))
        if end > start
    }
    single = reach.best_hit(np.array(list(layers)))
    standard = (alignments - reach.mean[rows]) / reach.deviation[rows]
    least = np.full(len(rows), single)
    if standard.max() > single:
        p_values = np.ones(len(rows))
        for number, part in layers.items():
            p_values[part] = reach.p_value(number, standard[part])
        level = benjamini_hochberg(p_values)
        for number, part in layers.items():
            least[part] = min(single, reach.quantile(number, level))
    return (reach.mean[rows] + least * reach.deviation[rows]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Reach:
    """Alignments of n components with made-up queries, standardised by component."""

    mean: Float32[np.ndarray, " n"]
    deviation: Float32[np.ndarray, " n"]
    largest: tuple[Float32[np.ndarray, "l _"], ...]
    """The largest of each layer, for the queries of each kind."""
    tails: tuple[Float32[np.ndarray, " _"], ...]
    """The largest 5 % of each layer, in ascending order."""
    totals: tuple[int, ...]
    """Number of values of each layer."""

    def best_hit(self, layers: Int64[np.ndarray, " l"]) -> float:
        """Return what the best hit in some layers must exceed."""
        limits: list[float] = []
        for largest in self.largest:
            best = np.sort(largest[layers].max(0))
            limits.append(float(best[ceil((len(best) + 1) * (1 - LEVEL)) - 1]))
        return max(limits)

    def p_value(self, layer: int, values: Float32[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
        """Return the share of the layer's values that are as large; 1 for those not in the tail."""
        tail = self.tails[layer]
        reached = len(tail) - np.searchsorted(tail, values, side="left")
        return np.where(reached < len(tail), reached / self.totals[layer], 1.0)

    def quantile(self, layer: int, p_value: float) -> float:
        """Return what at most a share of ``p_value`` of the layer's values exceed."""
        tail = self.tails[layer]
        return float(tail[len(tail) - 1 - min(int(p_value * self.totals[layer]), len(tail) - 1)])


def measured_reach(
    database: Database, terms: tuple[int, int], templates: tuple[str, ...]
) -> Reach | None:
    """Compare all components with made-up queries of as many positive and negative terms.

    None if the embedder refuses made-up words. The results of the last few kinds of searches are
    remembered, and the vectors of the words are kept in the database.
    """
    last: OrderedDict[object, tuple[Reach | None]]
    last = cached_on_database(database, ("made-up",), OrderedDict)
    key = terms, templates
    found = last.get(key)
    if found is None:
        found = last[key] = (_measure(database, terms, templates),)
    with suppress(KeyError):  # another thread may have removed it
        last.move_to_end(key)
        while len(last) > REACHES:
            last.popitem(last=False)
    return found[0]


def _measure(
    database: Database, terms: tuple[int, int], templates: tuple[str, ...]
) -> Reach | None:
    embedder: Embedder = database.embedder
    kinds = [[w for w in words if embedder.understands(w)] for words in made_up_words()]
    kinds = [words for words in kinds if len(words) >= FEWEST]
    if not kinds:
        return None
    ends = np.cumsum([len(words) for words in kinds])[:-1]
    # all in one go, so that progress counts to the end once
    vectors = embed_texts_of(database, [word for words in kinds for word in words], templates)
    null = null_vector(embedder, templates)
    embeddings = [
        QueryEmbedding(part, tuple(words), null, embedder.fingerprint)
        for words, part in zip(kinds, np.split(vectors, ends), strict=True)
    ]
    probes = np.concatenate([_directions(one, terms) for one in embeddings])
    mean = np.zeros(database.manifest.rows, np.float32)
    deviation = np.full(database.manifest.rows, _SMALL, np.float32)
    largest: list[np.ndarray] = []
    tails: list[np.ndarray] = []
    totals: list[int] = []
    for name in database.layers:
        rows = database.rows(name)
        rows = rows[database.has_examples[rows]]
        values = database.products(probes, rows)
        mean[rows], deviation[rows] = values.mean(1), np.maximum(values.std(1), _SMALL)
        values = (values - mean[rows, None]) / deviation[rows, None]
        largest.append(values.max(0, initial=-np.inf))
        tails.append(np.sort(values.ravel())[values.size - ceil(LEVEL * values.size) :].copy())
        totals.append(values.size)
    by_kind = tuple(np.split(np.stack(largest), ends, 1))
    return Reach(mean, deviation, by_kind, tuple(tails), tuple(totals))


def _directions(words: QueryEmbedding, terms: tuple[int, int]) -> Float32[np.ndarray, "q d"]:
    """Return directions of a query per word, which has others at random as further terms."""
    vectors = words.vectors
    rng = np.random.default_rng((SEED, *terms))

    def pooled(count: int) -> Float32[np.ndarray, "q d"]:
        others = rng.integers(0, len(vectors), (len(vectors), count - 1))
        mean = (vectors + vectors[others].sum(1)) / count
        return directions(replace(words, vectors=mean))

    positive, negative = terms
    probes = pooled(positive)
    return probes - rng.permutation(pooled(negative)) if negative else probes
