"""Batches that are halved where the device has too little memory for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from semlens.errors import ModelError

T = TypeVar("T")


class SmallerBatchWarning(UserWarning):
    """Batches were halved, since the device ran out of memory."""


class FittingBatches:
    """Runs batches whole, or in parts that fit into memory; parts stay small once one did not.

    Which samples belong to a batch does not change: results agree to rounding.
    """

    def __init__(self) -> None:
        self._largest: int | None = None

    def run(self, compute: Callable[[Tensor], T], batch: Tensor, join: Callable[[list[T]], T]) -> T:
        """Return ``compute(batch)``, or what ``join`` makes of its results for parts.

        Raises
        ------
        ModelError
            If a single sample does not fit.
        """
        while True:
            size = min(self._largest or len(batch), len(batch))
            try:
                if size == len(batch):
                    return compute(batch)
                return join([compute(part) for part in batch.split(size)])
            except (RuntimeError, ModelError) as error:
                if not out_of_memory(error):
                    raise
                if size == 1:
                    raise ModelError(
                        "One image does not fit into the memory of the device.",
                        "Expected enough for a forward pass.",
                        "Use a device with more memory, such as --device cpu.",
                    ) from error
                self._largest = size // 2
            # outside of the except clause, whose traceback keeps the tensors of the failed pass
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            warnings.warn(
                f"The device has too little memory for {size} images at once: passes have "
                f"{self._largest}. --batch-size {self._largest} says so from the start.",
                SmallerBatchWarning,
                stacklevel=2,
            )


def out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch, as the error itself or its cause, has no memory left on a GPU or the CPU."""
    cause = error.__cause__ if isinstance(error, ModelError) else error
    return isinstance(cause, torch.OutOfMemoryError) or (
        isinstance(cause, RuntimeError) and "allocate memory" in str(cause)
    )
