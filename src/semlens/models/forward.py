"""Running a model over images: logits, readouts of layers, and logits with ablated components."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from PIL import Image
from torch import Tensor

from semlens.data.prefetch import default_workers, prefetch
from semlens.errors import DataError, ModelError, RelevanceError
from semlens.models.ablation import batched_ablation, pruned
from semlens.models.activations import compute_readouts, measure_layout
from semlens.models.answer import Answer, NoPredictionWarning
from semlens.models.hooks import call_model, evaluating, run_layers
from semlens.models.model_output import ModelOutput, reading_output
from semlens.models.output_tensor import DECLARE
from semlens.models.subject import SubjectModel
from semlens.models.target import Target
from semlens.progress import report_progress
from semlens.types import Component, Readout

ImageReader = Callable[[int], Image.Image]


def batches(
    model: SubjectModel,
    reader: ImageReader,
    samples: Sequence[int],
    batch_size: int,
    stage: str | None = "running the model",
) -> Iterator[Tensor]:
    """Yield preprocessed samples as batches float[b 3 h w], decoded ahead in threads.

    Progress is reported as ``stage``, unless it is None.
    """
    buffer: list[Tensor] = []
    stream = prefetch(lambda i: model.prepare(reader(i)), samples, default_workers())
    for done, inputs in enumerate(stream, start=1):
        buffer.append(inputs)
        if len(buffer) == batch_size or done == len(samples):
            yield model.batch(buffer)
            if stage is not None:
                report_progress(stage, done, len(samples))
            buffer = []


def run_scores(model: SubjectModel, batch: Tensor) -> Tensor:
    """Run the model over a batch and return its scores [b classes]; see :class:`Answer`.

    There are several rows per image inside :func:`~semlens.models.ablation.batched_ablation`.

    Raises
    ------
    ModelError
        If it does not return one row of logits per image.
    """
    return model.answer.run(model.module, batch)


def run_output(model: SubjectModel, batch: Tensor) -> ModelOutput:
    """Run the model over a batch and return its output, which targets are read off."""
    answer = model.answer_error or model.answer
    with reading_output(answer, (batch.shape[-2], batch.shape[-1])) as read:
        return read(call_model(model.module, batch))


def check_classes(model: SubjectModel, targets: Iterable[int | None]) -> None:
    """Compare the class names of a model, and the classes of samples, with its answer.

    A model without logits, such as a detector, passes.

    Parameters
    ----------
    targets
        Logit of the class of each sample, if known.

    Raises
    ------
    ModelError
        If there are more or fewer names than logits, or names are known and it is open which
        tensor of the output has the logits.
    DataError
        If a class of the data is mapped to a logit that the model does not have.
    """
    largest = max((target for target in targets if target is not None), default=None)
    names_of = {"class names": model.classes, "WordNet ids": model.synsets}
    known = {kind: names for kind, names in names_of.items() if names is not None}
    error = model.answer_error
    if error is not None:
        is_open = error.remedy.endswith(DECLARE)  # the user decides
        if is_open and (known or largest is not None or model.output is not None):
            raise error
        return
    count = model.answer.width
    for kind, names in known.items():
        if len(names) != count and (model.answer.task != "binary" or len(names) != 2):
            raise ModelError(
                f"There are {len(names)} {kind}, but the model returns {count} logits.",
                "Expected one for each logit, in this order.",
                "Check that the list belongs to this model, or leave it out.",
            )
    if largest is not None and largest >= model.answer.count:
        raise DataError(
            f"A class of the data is mapped to logit {largest}, but the model returns {count}.",
            f"Expected logits from 0 to {count - 1}.",
            "Correct the file of classes.",
        )


@torch.inference_mode()
def logits(
    model: SubjectModel,
    reader: ImageReader,
    samples: Sequence[int],
    batch_size: int = 32,
    stage: str | None = "running the model",
) -> Float32[np.ndarray, "n classes"]:
    """Return the model's logits for some samples; see :class:`~semlens.models.answer.Answer`.

    Raises
    ------
    ModelError
        If the model does not return one row of logits per image.
    """
    stream = batches(model, reader, samples, batch_size, stage)
    with evaluating(model.module):
        rows = [run_scores(model, batch).cpu().float().numpy() for batch in stream]
    return np.concatenate(rows)


def predict(
    model: SubjectModel,
    reader: ImageReader,
    samples: Sequence[int],
    batch_size: int = 32,
    stage: str | None = "running the model",
) -> Int64[np.ndarray, " n"]:
    """Return the predicted class of some samples; -1 where a logit is not a number.

    Raises
    ------
    ModelError
        If the model returns no logits of classes.
    """
    model.answer.check_classes()
    return predicted_classes(model, logits(model, reader, samples, batch_size, stage))


def predicted_classes(
    model: SubjectModel, scores: Float32[np.ndarray, "n classes"]
) -> Int64[np.ndarray, " n"]:
    """Return the class of the largest score of each image; -1, with a notice, where one is NaN.

    Raises
    ------
    ModelError
        If the scores are not those of classes.
    """
    predicted = model.answer.predicted(torch.from_numpy(scores)).numpy()
    missing = int((predicted < 0).sum())
    if missing:
        warnings.warn(
            f"The model's logits are not numbers for {missing} of {len(predicted)} images: these "
            "have no prediction, and do not count as right.",
            NoPredictionWarning,
            stacklevel=3,
        )
    return predicted


def readouts(
    model: SubjectModel,
    reader: ImageReader,
    samples: Sequence[int],
    layers: Sequence[str],
    readout: Readout = "mean",
    batch_size: int = 32,
) -> dict[str, Float32[np.ndarray, "n c"]]:
    """Return the raw readouts of all components of some layers for each sample."""
    stream = batches(model, reader, samples, batch_size)
    return _readouts_and_logits(model, stream, layers, readout, None)[0]


def readouts_and_logits(
    model: SubjectModel,
    reader: ImageReader,
    samples: Sequence[int],
    layers: Sequence[str],
    readout: Readout = "mean",
    batch_size: int = 32,
) -> tuple[dict[str, Float32[np.ndarray, "n c"]], Float32[np.ndarray, "n classes"] | None]:
    """Return :func:`readouts` and the logits from the same passes; None for a model without."""
    stream = batches(model, reader, samples, batch_size)
    return readouts_and_logits_of(model, stream, layers, readout)


def readouts_and_logits_of(
    model: SubjectModel, stream: Iterable[Tensor], layers: Sequence[str], readout: Readout = "mean"
) -> tuple[dict[str, Float32[np.ndarray, "n c"]], Float32[np.ndarray, "n classes"] | None]:
    """Return the same as :func:`readouts_and_logits` for batches of preprocessed images."""
    return _readouts_and_logits(
        model, stream, layers, readout, None if model.answer_error else model.answer
    )


def _reducer(
    model: SubjectModel, layers: Sequence[str], readout: Readout
) -> Callable[[str, Any], Float32[np.ndarray, "b c"]]:
    """Return the function from a layer's output to its readouts."""
    axes = model.axes(layers)

    def reduce(name: str, output: Any) -> Float32[np.ndarray, "b c"]:
        layout = measure_layout(name, output, axes[name])
        return compute_readouts(layout, output, readout).value.cpu().numpy()

    return reduce


@torch.inference_mode()
def readouts_and_output(
    model: SubjectModel, batch: Tensor, layers: Sequence[str], readout: Readout = "mean"
) -> tuple[dict[str, Float32[np.ndarray, "b c"]], ModelOutput]:
    """Return the readouts of a batch, and the output of the same pass, as :func:`run_output`."""
    reduce = _reducer(model, layers, readout)
    found: list[ModelOutput] = []
    answer = model.answer_error or model.answer
    with reading_output(answer, (batch.shape[-2], batch.shape[-1])) as read:
        values = run_layers(
            model.module, batch, layers, reduce, on_output=lambda out: found.append(read(out))
        )
    return values, found[0]


def _readouts_and_logits(
    model: SubjectModel,
    stream: Iterable[Tensor],
    layers: Sequence[str],
    readout: Readout,
    answer: Answer | None,
) -> tuple[dict[str, Float32[np.ndarray, "n c"]], Float32[np.ndarray, "n classes"] | None]:
    reduce = _reducer(model, layers, readout)
    scores: list[np.ndarray] = []

    def run(batch: Tensor) -> dict[str, np.ndarray]:
        if answer is None:
            return run_layers(model.module, batch, layers, reduce)
        found: list[Tensor] = []
        with answer.reading() as read:
            result = run_layers(
                model.module, batch, layers, reduce, on_output=lambda out: found.append(read(out))
            )
        scores.append(answer.scores(found[0]).cpu().float().numpy())
        return result

    batch_readouts = [run(batch) for batch in stream]
    by_layer = {
        name: np.concatenate([batch_values[name] for batch_values in batch_readouts])
        for name in layers
    }
    return by_layer, np.concatenate(scores) if scores else None


@torch.inference_mode()
def compare_ablated(
    model: SubjectModel, batch: Tensor, components: Sequence[Component]
) -> tuple[Float[Tensor, "b classes"], Float[Tensor, "b classes"]]:
    """Return the logits of a batch with all components, and without some (paper, 4.3.3).

    Raises
    ------
    ModelError
        If the model outputs no logits.
    """
    with evaluating(model.module):
        before = run_scores(model, batch)
        with pruned(model, components):
            return before, run_scores(model, batch)


IMAGES_PER_PASS = 128
"""Images that run through the part of the model after the ablated layer together."""


@torch.inference_mode()
def logits_without(
    model: SubjectModel,
    reader: ImageReader,
    samples: Sequence[int],
    target: Target,
    units: Sequence[Sequence[Component]],
    to: Mapping[Component, float],
) -> tuple[Float64[np.ndarray, " s"], Float64[np.ndarray, "n s"]]:
    """Return a target of each sample for the intact model, and with each unit ablated.

    What the target holds, such as the region where a class is predicted, is that of the intact
    model.

    Parameters
    ----------
    units
        Each a group of components that are ablated together.
    to
        Value that replaces each component, in units of its activation.

    Raises
    ------
    RelevanceError
        If the model's output has no such target.
    """
    size = min(32, max(1, IMAGES_PER_PASS // (len(units) + 1)))
    ablate = _AblationPasses(model, target, units, to)
    stream = batches(model, reader, samples, size, "ablating")
    with evaluating(model.module):
        results = [ablate(batch) for batch in stream]
    return np.concatenate([intact for intact, _ in results]), np.hstack(
        [ablated for _, ablated in results]
    )


def target_values(
    model: SubjectModel, batch: Tensor, target: Target, choice: Tensor | None = None
) -> Float64[np.ndarray, " b"]:
    """Return a target of every image of a batch; a choice may be held from another pass."""
    output = run_output(model, batch)
    choice = target.choice(output) if choice is None else choice
    return target.held_value(output, choice).cpu().double().numpy()


class _AblationPasses:
    """A target of a batch with each unit ablated, in as few passes as the model allows.

    The units of one layer share a pass up to that layer if this gives the same logits, which is
    tested on the first batch. It does not if a shortcut or a second branch bypasses the layer.
    """

    def __init__(
        self,
        model: SubjectModel,
        target: Target,
        units: Sequence[Sequence[Component]],
        to: Mapping[Component, float],
    ) -> None:
        self.model, self.target, self.units, self.to = model, target, units, to
        self.units_by_layer: dict[str, list[int]] = {}
        self.separate_units: list[int] = []
        for index, unit in enumerate(units):
            layers = {component.layer for component in unit}
            if len(layers) == 1:
                self.units_by_layer.setdefault(layers.pop(), []).append(index)
            else:
                self.separate_units.append(index)
        self.verified_layers: set[str] = set()

    def __call__(
        self, batch: Tensor
    ) -> tuple[Float64[np.ndarray, " b"], Float64[np.ndarray, "n b"]]:
        """Return the target of a batch, and that for each unit."""
        output = run_output(self.model, batch)
        held = self.target.choice(output)
        intact = self.target.held_value(output, held).cpu().double().numpy()
        ablated = np.zeros((len(self.units), len(batch)))
        units_per_pass = max(1, IMAGES_PER_PASS // len(batch))
        for layer, indices in list(self.units_by_layer.items()):
            if layer not in self.verified_layers and not self._shared_pass_is_exact(
                batch, layer, indices
            ):
                self.separate_units += self.units_by_layer.pop(layer)
                continue
            self.verified_layers.add(layer)
            for chunk in (
                indices[i : i + units_per_pass] for i in range(0, len(indices), units_per_pass)
            ):
                ablated[chunk] = self._shared_pass(batch, held, layer, chunk)
        for index in self.separate_units:
            ablated[index] = self._separate_pass(batch, held, index)
        return intact, ablated

    def _separate_pass(
        self, batch: Tensor, held: Tensor | None, index: int
    ) -> Float64[np.ndarray, " b"]:
        with pruned(self.model, self.units[index], self.to):
            return target_values(self.model, batch, self.target, held)

    def _shared_pass(
        self, batch: Tensor, held: Tensor | None, layer: str, indices: Sequence[int]
    ) -> Float64[np.ndarray, "n b"]:
        if held is not None:
            held = held.repeat(len(indices), *[1] * (held.ndim - 1))
        versions = [{c.index: self.to[c] for c in self.units[index]} for index in indices]
        with batched_ablation(self.model, layer, versions):
            values = target_values(self.model, batch, self.target, held)
        return values.reshape(len(indices), len(batch))

    def _shared_pass_is_exact(self, batch: Tensor, layer: str, indices: Sequence[int]) -> bool:
        """Whether the shared pass gives the same logits as separate passes.

        Tested on at least two images, since one would be broadcast against a bypassing branch.
        """
        if len(batch) == 1:
            batch = torch.cat([batch, batch.flip(-1)])
        held = self.target.choice(run_output(self.model, batch))
        probed = [indices[0], indices[-1]]
        try:
            shared = self._shared_pass(batch, held, layer, probed)
        except (ModelError, RelevanceError, ValueError, IndexError, RuntimeError):
            return False  # shapes that do not match after the layer
        separate = np.stack([self._separate_pass(batch, held, index) for index in probed])
        return bool(np.allclose(shared, separate, rtol=1e-4, atol=1e-4))
