"""Batches of samples, read and preprocessed ahead in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from PIL import Image
from torch import Tensor

from semlens.data.prefetch import prefetch
from semlens.errors import ImageError
from semlens.models.subject import SubjectModel


@dataclass(frozen=True)
class PreparedSample:
    """A preprocessed sample, or the reason why it cannot be read."""

    sample: int
    inputs: Tensor | None
    size: tuple[int, int] = (0, 0)
    """Width and height of the original."""
    reason: str = ""


def prepared_batches(
    model: SubjectModel,
    read: Callable[[int], Image.Image],
    samples: Iterable[int],
    batch_size: int,
    workers: int,
) -> Iterator[list[PreparedSample]]:
    """Yield preprocessed samples in order, ``batch_size`` at a time."""

    def prepare(sample: int) -> PreparedSample:
        try:
            image = read(sample)
            return PreparedSample(sample, model.prepare(image), image.size)
        except ImageError as error:
            return PreparedSample(sample, None, reason=str(error))

    stream = prefetch(prepare, samples, workers, ahead=2 * batch_size)
    while batch := list(islice(stream, batch_size)):
        yield batch


def batch_inputs(model: SubjectModel, batch: Iterable[PreparedSample]) -> Tensor:
    """Stack the readable samples to one batch on the model's device, in its fastest format."""
    inputs = model.batch([item.inputs for item in batch if item.inputs is not None])
    if not model.takes_channels_last:
        return inputs
    return inputs.contiguous(memory_format=torch.channels_last)
