"""The activation vectors of a layer, one per position or token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jaxtyping import Float32
from torch import Tensor

from semlens.data.images import Images
from semlens.models.activations import LayerLayout, flatten
from semlens.models.hooks import run_layers
from semlens.models.subject import SubjectModel
from semlens.stages.batches import batch_inputs, prepared_batches


def layer_vectors(
    model: SubjectModel,
    images: Images,
    layout: LayerLayout,
    samples: Sequence[int],
    batch_size: int,
    workers: int,
) -> Iterator[Float32[Tensor, "b p c"] | None]:
    """Yield the vectors of the readable images of each batch, on the CPU; None if there are none.

    Parameters
    ----------
    samples
        Numbers of the images, in the order in which they are run.
    """
    for batch in prepared_batches(model, images.read, samples, batch_size, workers):
        ready = [item for item in batch if item.inputs is not None]
        if not ready:
            yield None
            continue
        outputs = run_layers(
            model.module, batch_inputs(model, ready), [layout.name],
            lambda _, output: flatten(layout, output), stop_early=True,
        )  # fmt: skip
        # a copy: what was computed in inference mode cannot be used in training
        yield outputs[layout.name].transpose(1, 2).cpu().clone()
