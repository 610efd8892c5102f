"""Words that a model proposes from a component's examples, for any method to score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32
from PIL import Image

from semlens.draw.example_picture import example_crop
from semlens.errors import ConceptError, reason_of
from semlens.lenses.concepts import ConceptSet
from semlens.models.model_libraries import NO_CODE
from semlens.progress import report_progress
from semlens.store.reader import Database

PROMPT = (
    "The picture is a grid of images. Name three visual concepts that all of them share: objects, "
    "parts, properties, styles or actions, of at most four words each. Answer with the three "
    "concepts only, separated by commas."
)
CELL = 128
"""Side of an image in the grid, in pixels."""


class CaptionModel:
    """Ask an image-text-to-text model of transformers about a grid of examples.

    Any checkpoint that ``AutoModelForImageTextToText`` loads will do. One with a chat template is
    asked with the prompt; another, such as BLIP, captions the grid. The answer is split at commas,
    semicolons and line ends. Answers are those of greedy decoding, so that they repeat.

    Parameters
    ----------
    name
        Folder, or ID on a hub.
    prompt
        The question.
    length
        Largest number of tokens of an answer.

    Raises
    ------
    ConceptError
        If transformers is not installed, or the model cannot be loaded.
    """

    def __init__(
        self, name: str, *, prompt: str = PROMPT, length: int = 40, device: str = "cpu"
    ) -> None:
        try:
            import transformers

            self._processor: Any = transformers.AutoProcessor.from_pretrained(name, **NO_CODE)
            model: Any = transformers.AutoModelForImageTextToText.from_pretrained(name, **NO_CODE)
        except Exception as error:  # hub clients and checkpoint readers raise many types
            raise ConceptError(
                f"Cannot load the vision-language model '{name}' ({reason_of(error)}).",
                "Expected a checkpoint for AutoModelForImageTextToText of transformers, without "
                "code of its own.",
                "Use a folder on this machine, and run: pip install 'semlens[hf]'",
            ) from error
        self._model, self._device = model.eval().to(device), device
        self.prompt, self.length = prompt, length

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image.Image]) -> list[str]:
        """Return the words of the model's answer."""
        inputs = self._inputs(grid(pictures)).to(self._device)
        tokens = self._model.generate(**inputs, max_new_tokens=self.length, do_sample=False)
        if self._chats:  # the answer follows the prompt
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        (answer,) = self._processor.batch_decode(tokens, skip_special_tokens=True)
        for separator in ";\n":
            answer = answer.replace(separator, ",")
        return [word for word in (part.strip(" .") for part in answer.split(",")) if word]

    @property
    def _chats(self) -> bool:
        return bool(getattr(self._processor, "chat_template", None))

    def _inputs(self, picture: Image.Image) -> Any:
        if not self._chats:
            return self._processor(images=picture, return_tensors="pt")
        content = [{"type": "image", "image": picture}, {"type": "text", "text": self.prompt}]
        return self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip


def grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return pictures in a square grid, row by row, each within its cell; at least one picture."""
    columns = ceil(len(pictures) ** 0.5)
    whole = Image.new("RGB", (columns * CELL, ceil(len(pictures) / columns) * CELL))
    for place, picture in enumerate(pictures):
        small = picture.convert("RGB")
        small.thumbnail((CELL, CELL))
        row, column = divmod(place, columns)
        left, upper = (CELL - small.width) // 2, (CELL - small.height) // 2
        whole.paste(small, (column * CELL + left, row * CELL + upper))
    return whole


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
