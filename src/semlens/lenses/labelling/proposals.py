"""Words that a model proposes from a component's examples, for any method to score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32
from PIL import Image

from semlens.draw.example_picture import example_crop
from semlens.errors import ConceptError
from semlens.lenses.concepts import ConceptSet
from semlens.progress import report_progress
from semlens.store.reader import Database

Proposer = Callable[[Sequence[Image.Image]], Sequence[str]]
"""From the pictures of a component's strongest examples, strongest first, to words: the slot for
a vision-language model, or for captions that a language model summarises."""

PICTURES = 9
"""Pictures shown to a proposer, as in Contrastive Semantic Projection (a grid of 3 x 3)."""
LONGEST = 40
"""Characters of a proposed word; longer answers are no labels (the same source)."""


@dataclass(frozen=True, eq=False)
class Proposals:
    """Words that a model proposed for n components.

    A vocabulary of one's own may not have the right word. Proposals of a model that sees the
    examples do not end at a vocabulary, but need not be right either; so they are embedded and
    scored like any other words. This is the way of LINE and of Contrastive Semantic Projection
    (arXiv:2604.22477), which add the proposals to the vocabulary.

    Parameters
    ----------
    rows
        The components' rows.
    words
        Distinct words, in the order in which they were first proposed.
    proposed
        bool[n w], which words were proposed for which component.
    """

    rows: tuple[int, ...]
    words: tuple[str, ...]
    proposed: Bool[np.ndarray, "n w"]

    def concept_set(self, name: str = "proposals") -> ConceptSet:
        """Return the words as a concept set, which :meth:`ConceptSet.join` adds to others.

        Raises
        ------
        ConceptError
            If there are no words.
        """
        return ConceptSet.of(self.words, name)

    def own(self, scores: Float32[np.ndarray, "n w"]) -> Float32[np.ndarray, "n w"]:
        """Return scores with minus infinity for words proposed for other components only."""
        return np.where(self.proposed, scores, np.float32(-np.inf))


def propose_words(
    database: Database, rows: Sequence[int], proposer: Proposer, *, pictures: int = PICTURES
) -> Proposals:
    """Ask a model for words for each component.

    Words that differ in case or spacing only are one. Empty and overlong ones are left out, and a
    component may end up with none.

    Parameters
    ----------
    rows
        Rows of components.
    pictures
        Examples that the model sees; as crops, from thumbnails or from the images.

    Raises
    ------
    ConceptError
        If the proposer returns something other than texts.
    DataError, StaleError
        If an image is needed, and is missing or has changed.
    """
    found: dict[str, str] = {}
    of_component: list[list[str]] = []
    for number, row in enumerate(rows):
        crops = [example_crop(database, example) for example in database.examples_of(row, pictures)]
        words = _checked(proposer(crops)) if crops else []
        for word in words:
            found.setdefault(word.casefold(), word)
        of_component.append([word.casefold() for word in words])
        report_progress("proposing words", number + 1, len(rows))
    place = {key: number for number, key in enumerate(found)}
    proposed = np.zeros((len(rows), len(found)), bool)
    for component, keys in enumerate(of_component):
        proposed[component, [place[key] for key in keys]] = True
    return Proposals(tuple(rows), tuple(found.values()), proposed)


def _checked(answer: object) -> list[str]:
    texts = answer if isinstance(answer, Sequence) and not isinstance(answer, str) else None
    wrong = next((text for text in texts or [] if not isinstance(text, str)), None)
    if texts is None or wrong is not None:
        raise ConceptError(
            f"The proposer returned {answer!r:.100}.",
            "Expected a sequence of texts.",
            "Split its answer into words.",
        )
    words = [" ".join(str(text).split()) for text in texts]
    return [word for word in words if 0 < len(word) <= LONGEST]
