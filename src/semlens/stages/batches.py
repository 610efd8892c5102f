"""Images on their way into the model: read and preprocessed ahead by threads, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from PIL import Image
from torch import Tensor

from semlens.data.prefetch import prefetch
from semlens.errors import ImageError
from semlens.models.subject import SubjectModel


@dataclass(frozen=True)
class PreparedSample:
    """A sample that is ready for the model, or the reason why it is not."""

    number: int
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
    """Yield samples in their order, ``batch_size`` at a time."""

    def prepare(number: int) -> PreparedSample:
        try:
            image = read(number)
            return PreparedSample(number, model.preprocess(image), image.size)
        except ImageError as error:
            return PreparedSample(number, None, reason=str(error))

    stream = prefetch(prepare, samples, workers, ahead=2 * batch_size)
    while batch := list(islice(stream, batch_size)):
        yield batch


def batch_inputs(model: SubjectModel, batch: Iterable[PreparedSample]) -> Tensor:
    """Join what is ready into one batch on the model's device."""
    return model.batch([one.inputs for one in batch if one.inputs is not None])
