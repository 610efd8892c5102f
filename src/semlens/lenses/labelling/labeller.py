"""The interface of a labelling method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float32, Int64

from semlens.errors import ConceptError
from semlens.lenses.labelling.evidence import Evidence
from semlens.settings import Settings

Need = Literal["examples", "background", "reference", "annotations"]
"""Parts of the evidence: the strongest examples, images of their kind to compare them with, the
reference sample with its readouts, and annotations of that sample."""


class Labeller(Settings, ABC):
    """A labelling method; its fields are its parameters.

    A subclass sets ``needs`` and implements ``_scores``. Invalid parameters raise a
    :class:`semlens.errors.RecipeError`.
    """

    needs: ClassVar[tuple[Need, ...]]
    """What it uses of the evidence, besides the words."""
    relative: ClassVar[bool] = False
    """Whether scores of a component depend on which other components are scored with it."""

    @abstractmethod
    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        """Score every word for every component; higher is better."""

    def scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        """Score every word for every component; higher is better.

        Only the order of the words within a component means something in every method. Words of the
        same vector, as a name that is in two categories, are scored as one word: else they would
        share the votes.

        Raises
        ------
        ConceptError
            If the evidence lacks what the method needs, or the result is not one finite score of
            each word for each component.
        """
        method = type(self).__name__
        if "annotations" in self.needs and evidence.annotations is None:
            raise ConceptError(
                f"{method} needs annotations, and there are none.",
                "Expected which words are true of which images of the reference sample.",
                "Pass annotations, or choose a method that does without.",
            )
        if "reference" in self.needs and evidence.reference is None:
            raise ConceptError(
                f"{method} needs a reference sample, and the database was built without one.",
                "Expected vectors and readouts of random images of the data.",
                "Build the database again with a reference sample (setting 'reference'), or "
                "choose a method that does without, such as semantic-lens or vote-examples.",
            )
        once, copies = _distinct_words(evidence)
        scores = self._scores(once)
        scores = scores if copies is None else scores[:, copies]
        if scores.shape != evidence.shape or not np.isfinite(scores).all():
            raise ConceptError(
                f"{method} gave scores of shape {scores.shape}"
                + (", not all finite." if scores.shape == evidence.shape else "."),
                f"Expected finite scores of shape {evidence.shape}: components by words.",
                "Report this to the author of the method.",
            )
        return scores.astype(np.float32, copy=False)


def _distinct_words(evidence: Evidence) -> tuple[Evidence, Int64[np.ndarray, " q"] | None]:
    """Return evidence with each word once, and which of them each word is; None for all of them.

    Words that are annotated apart are kept.
    """
    if evidence.annotations is not None:
        return evidence, None
    words, copies = np.unique(evidence.words, axis=0, return_inverse=True)
    if len(words) == len(copies):
        return evidence, None
    return replace(evidence, words=words), copies.reshape(-1)
