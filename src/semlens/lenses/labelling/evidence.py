"""What a labelling method sees: examples of components, a reference sample, and words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float16, Float32, Int64

from semlens.errors import ConceptError
from semlens.lenses.labelling.check_evidence import check_evidence
from semlens.streaming.aggregate import example_weights

_CELLS = 4_000_000
"""Largest number of values of a temporary array of one block of components."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of the n components of one layer, and the q words to label them with.

    Vectors are those of one embedder, of unit length. Readouts are multiplied by the component's
    sign, so that larger is stronger for every component.

    Parameters
    ----------
    words
        float32[q d], the text vectors.
    images
        float16 or float32[u d], the distinct images (or crops) of all examples.
    examples
        int64[n m], the rows of ``images`` that are the examples of each component, strongest
        first.
    readouts
        float32[n m], the readouts of the examples; no row increases.
    counts
        int64[n], how many of the m examples each component has, at least one. What follows them
        in ``examples`` and ``readouts`` is ignored.
    null
        float32[d], the text vector of the empty prompt; None for concepts that are images.
    background
        float32[b d], images of the same kind as the examples (whole, or crops), to compare the
        examples with. By default the reference sample, or without one the examples' own images.
    reference
        float32[s d], a random sample of the whole data.
    reference_readouts
        float32[s n], the readouts of the components on it.
    in_reference
        int64[n m], the row of each example's image in the reference sample, -1 if it is not in it;
        by default none of them is.
    population
        Number of images that the reference sample was drawn from, and whose strongest the examples
        are. By default, sample and examples are all there is.
    annotations
        bool[s q], which words are true of which images of the reference sample.

    Raises
    ------
    ConceptError
        If shapes do not fit, or values are not finite, not sorted or not of unit length.
    """

    words: Float32[np.ndarray, "q d"]
    images: Float32[np.ndarray, "u d"] | Float16[np.ndarray, "u d"]
    examples: Int64[np.ndarray, "n m"]
    readouts: Float32[np.ndarray, "n m"]
    counts: Int64[np.ndarray, " n"]
    null: Float32[np.ndarray, " d"] | None = None
    background: Float32[np.ndarray, "b d"] | None = None
    reference: Float32[np.ndarray, "s d"] | None = None
    reference_readouts: Float32[np.ndarray, "s n"] | None = None
    in_reference: Int64[np.ndarray, "n m"] | None = None
    population: int | None = None
    annotations: Bool[np.ndarray, "s q"] | None = None

    def __post_init__(self) -> None:
        """Check shapes and values."""
        check_evidence(self)

    @classmethod
    def of_vectors(
        cls,
        words: Float32[np.ndarray, "q d"],
        vectors: Float32[np.ndarray, "n m d"],
        readouts: Float32[np.ndarray, "n m"],
        counts: Int64[np.ndarray, " n"] | None = None,
        **others: Any,
    ) -> Evidence:
        """Make it from the vectors of each component's examples.

        Parameters
        ----------
        vectors
            float32[n m d], the examples of each component, strongest first.
        counts
            int64[n], how many of them are used; all by default.
        **others
            Further fields.
        """
        n, m, _ = vectors.shape
        counts = np.full(n, m) if counts is None else counts
        used = np.arange(m) < counts[:, None]
        examples = np.full((n, m), -1)
        examples[used] = np.arange(used.sum())
        images = vectors[used]
        return cls(words, images, examples, readouts, counts, **others)

    @classmethod
    def of_reference(
        cls,
        words: Float32[np.ndarray, "q d"],
        reference: Float32[np.ndarray, "s d"],
        readouts: Float32[np.ndarray, "s n"],
        top: int,
        **others: Any,
    ) -> Evidence:
        """Make it from a reference sample alone, whose strongest images are the examples.

        Parameters
        ----------
        top
            Examples per component; at most the size of the sample. Ties go to earlier images.
        **others
            Further fields.
        """
        top = min(top, len(reference))
        rows = np.argsort(-readouts, axis=0, kind="stable")[:top]
        strongest = np.take_along_axis(readouts, rows, 0).T.copy()
        counts = np.full(readouts.shape[1], top)
        return cls(
            words, reference, rows.T.copy(), strongest, counts,
            reference=reference, reference_readouts=readouts, in_reference=rows.T.copy(), **others,
        )  # fmt: skip

    def __len__(self) -> int:
        """Return the number of components."""
        return len(self.examples)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of components and of words: the shape of scores."""
        return len(self), len(self.words)

    def blocks(self, cells: int) -> Iterator[slice]:
        """Yield slices of the components, for temporary arrays of bounded size.

        Parameters
        ----------
        cells
            Values of the largest temporary array, for one component.
        """
        step = max(1, _CELLS // max(cells, 1))
        for start in range(0, len(self), step):
            yield slice(start, min(start + step, len(self)))

    def depth(self, top: int | None) -> int:
        """Return how many examples are compared at most, if ``top`` are asked for."""
        m = self.examples.shape[1]
        return m if top is None else min(top, m)

    def used(self, block: slice = slice(None), top: int | None = None) -> Bool[np.ndarray, "b t"]:
        """Return which of the first ``top`` places hold an example."""
        return np.arange(self.depth(top)) < self.counts[block, None]

    def vectors(self, block: slice, top: int | None = None) -> Float32[np.ndarray, "b t d"]:
        """Return the vectors of the first ``top`` examples; zeros in places without one."""
        used = self.used(block, top)
        rows = np.where(used, self.examples[block, : used.shape[1]], 0)
        vectors = self.images[rows].astype(np.float32)
        vectors[~used] = 0
        return vectors

    def weights(
        self, block: slice, top: int | None = None, *, by_readout: bool
    ) -> Float32[np.ndarray, "b t"]:
        """Return weights of the first ``top`` examples, with sum 1.

        Parameters
        ----------
        by_readout
            Whether they are proportional to the readouts
            (:func:`semlens.streaming.aggregate.example_weights`) or equal.
        """
        used = torch.from_numpy(self.used(block, top))
        readouts = torch.from_numpy(self.readouts[block, : used.shape[1]])
        return example_weights(used, readouts if by_readout else None).float().numpy()

    @property
    def images_to_compare(self) -> Float32[np.ndarray, "b d"]:
        """The background: images of the same kind as the examples."""
        if self.background is not None:
            return self.background
        return self.images.astype(np.float32) if self.reference is None else self.reference

    @cached_property
    def centre(self) -> Float32[np.ndarray, " d"]:
        """The mean of the background."""
        return self.images_to_compare.mean(0, dtype=np.float64).astype(np.float32)

    @cached_property
    def similarities(self) -> Float32[np.ndarray, "s q"]:
        """Cosine of each image of the reference sample with each word."""
        sample, _ = self.sample
        return sample @ self.words.T

    @property
    def sample(self) -> tuple[Float32[np.ndarray, "s d"], Float32[np.ndarray, "s n"]]:
        """Vectors and readouts of the reference sample.

        Raises
        ------
        ConceptError
            If there is none.
        """
        if self.reference is None or self.reference_readouts is None:
            raise ConceptError(
                "The evidence has no reference sample.",
                "Expected vectors and readouts of random images of the data.",
                "Build the database again with a reference sample (setting 'reference').",
            )
        return self.reference, self.reference_readouts
