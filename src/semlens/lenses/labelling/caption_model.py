"""A vision-language model from transformers that proposes words."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from PIL import Image

from semlens.errors import ConceptError, reason_of
from semlens.models.model_libraries import NO_CODE

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
