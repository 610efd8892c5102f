"""What a model returned for a batch, in the forms in which targets read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from semlens.errors import ModelError, RelevanceError
from semlens.models.answer import Answer
from semlens.models.output_tensor import described, tensors_of


@dataclass(frozen=True)
class ModelOutput:
    """The output of a model for b images, and its answer.

    Parameters
    ----------
    result
        As the model returned it.
    answer
        What its answer is, or why it has none; None if it was not measured, and the output itself
        is the answer.
    raw
        Raw values of the answer, see :class:`~semlens.models.answer.Answer`.
    size
        Height and width of the images, as the model got them.
    """

    result: Any
    answer: Answer | ModelError | None = None
    raw: Tensor | None = None
    size: tuple[int, int] = (0, 0)

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors of the output by path."""
        return tensors_of(self.result)

    @property
    def scores(self) -> Float[Tensor, "b scores"]:
        """The scores of the answer.

        Raises
        ------
        RelevanceError
            If the model has no answer.
        """
        if isinstance(self.answer, ModelError):
            raise RelevanceError(
                self.answer.value,
                "Expected one row of values per image, for the logit of a class.",
                "Choose a target that the output has: box:CLASS@x0,y0,x1,y1 of a detector, "
                "region:CLASS of a segmenter, or a function of the output, FILE.py:FUNCTION.",
            ) from self.answer
        if self.answer is not None and self.raw is not None:
            return self.answer.scores(self.raw)
        if not isinstance(self.result, Tensor) or self.result.ndim != 2:
            raise RelevanceError(
                f"The output is {described(self.result)}.",
                "Expected one row of values per image [b k].",
                "Pass the tensor with the answer.",
            )
        return self.result

    def find(
        self, ndims: Sequence[int], is_named: Callable[[str], bool], what: str
    ) -> tuple[str, Tensor]:
        """Return the path and the tensor of the output that has a number of axes; by name if open.

        Raises
        ------
        RelevanceError
            If there is none, or several.
        """
        fitting = {
            path: tensor
            for path, tensor in self.tensors.items()
            if tensor.ndim in ndims and tensor.is_floating_point()
        }
        main = {
            path: tensor
            for path, tensor in fitting.items()
            if not any(part.startswith("aux") for part in path.split("."))
        }
        found = {path: t for path, t in main.items() if is_named(path.split(".")[-1])} or main
        if len(found) != 1:
            raise RelevanceError(
                f"The model's output is {described(self.result)}.",
                f"Expected one tensor of {what}"
                + (f", not {' or '.join(found)}." if found else "."),
                "Choose another target, or a function of the output: FILE.py:FUNCTION.",
            )
        return next(iter(found.items()))


@contextmanager
def reading_output(
    answer: Answer | ModelError, size: tuple[int, int]
) -> Iterator[Callable[[Any], ModelOutput]]:
    """Watch a forward pass; yields the function from what the model returned to its output."""
    if isinstance(answer, ModelError):
        yield lambda result: ModelOutput(result, answer, None, size)
        return
    with answer.reading() as read:
        yield lambda result: ModelOutput(result, answer, read(result), size)
