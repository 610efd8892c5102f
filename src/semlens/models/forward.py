"""Running the whole model over images: logits, readouts of layers, logits without components."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64
from PIL import Image
from torch import Tensor

from semlens.data.prefetch import default_workers, prefetch
from semlens.errors import ModelError
from semlens.models.activations import first_tensor, measure_form, read
from semlens.models.hooks import batched_ablation, evaluating, pruned, run_layers
from semlens.models.subject import SubjectModel
from semlens.progress import report
from semlens.types import Component, Readout

Reader = Callable[[int], Image.Image]

NO_LOGITS = (
    "Expected a classifier, with one row of logits per image.",
    "Use a model with a classification head. Detectors and segmenters have no targets yet.",
)
"""What is expected of a model that is asked for classes, and the remedy."""


def batches(
    model: SubjectModel,
    reader: Reader,
    samples: Sequence[int],
    batch_size: int,
    stage: str | None = "running the model",
) -> Iterator[Tensor]:
    """Yield preprocessed samples as batches float[b 3 h w], decoded ahead.

    How many samples are done is reported as progress of ``stage``, if there is one.
    """
    held: list[Tensor] = []
    stream = prefetch(lambda i: model.preprocess(reader(i)), samples, default_workers())
    for done, inputs in enumerate(stream, start=1):
        held.append(inputs)
        if len(held) == batch_size or done == len(samples):
            yield model.batch(held)
            if stage is not None:
                report(stage, done, len(samples))
            held = []


def class_scores(output: Any) -> Tensor | None:
    """Return the tensor of a model's output that holds its logits, or its first one.

    None for a detector's output: boxes of each image, of which none is a class's logit.
    """
    named: Mapping[str, Any] = output if isinstance(output, Mapping) else {}
    parts = output if isinstance(output, list | tuple) else ()
    detects = "boxes" in named or any(isinstance(part, Mapping) for part in parts)
    scores = getattr(output, "logits", named.get("logits"))
    return scores if scores is not None or detects else first_tensor(output)


def run_scores(model: SubjectModel, batch: Tensor) -> Tensor:
    """Run the model over a batch and return its logits [b classes].

    Raises
    ------
    ModelError
        If it does not put out one row of logits per image.
    """
    output = model.module(batch)
    scores = class_scores(output)
    if scores is None or scores.ndim != 2 or len(scores) % len(batch):  # or some rows for each
        met = type(output).__name__ if scores is None else f"a tensor {list(scores.shape)}"
        raise ModelError(f"The model puts out {met}, no logits [b classes].", *NO_LOGITS)
    return scores


@torch.inference_mode()
def check_logits(model: SubjectModel) -> None:
    """Refuse a model that puts out no logits, such as a detector.

    Raises
    ------
    ModelError
        If it does not put out one row of logits per image.
    """
    with evaluating(model.module):
        run_scores(model, model.example)


@torch.inference_mode()
def logits(
    model: SubjectModel,
    reader: Reader,
    samples: Sequence[int],
    batch_size: int = 32,
    stage: str | None = "running the model",
) -> Float32[np.ndarray, "n classes"]:
    """Return the model's logits for some samples.

    Raises
    ------
    ModelError
        If the model does not put out one row of logits per image.
    """
    stream = batches(model, reader, samples, batch_size, stage)
    with evaluating(model.module):
        rows = [run_scores(model, batch).float().cpu().numpy() for batch in stream]
    return np.concatenate(rows)


def readouts(
    model: SubjectModel,
    reader: Reader,
    samples: Sequence[int],
    layers: Sequence[str],
    readout: Readout = "mean",
    batch_size: int = 32,
) -> dict[str, Float32[np.ndarray, "n c"]]:
    """Return the raw readouts of every component of some layers, sample by sample."""
    layouts = model.layouts(layers)

    def use(name: str, output: Any) -> np.ndarray:
        form = measure_form(name, output, layouts[name])
        return read(form, output, readout).value.cpu().numpy()

    stream = batches(model, reader, samples, batch_size)
    parts = [run_layers(model.module, batch, layers, use) for batch in stream]
    return {name: np.concatenate([part[name] for part in parts]) for name in layers}


ROWS = 128
"""Images that pass the part of the model behind the ablated layer at once."""


@torch.inference_mode()
def ablated_logits(
    model: SubjectModel,
    reader: Reader,
    samples: Sequence[int],
    target: int,
    units: Sequence[Sequence[Component]],
    to: Mapping[Component, float],
) -> tuple[Float64[np.ndarray, " s"], Float64[np.ndarray, "n s"]]:
    """Return the class's logit of each sample with all components, and without each unit.

    Parameters
    ----------
    units
        Components that are ablated together.
    to
        What each component becomes, in units of its activation.

    Raises
    ------
    ModelError
        If the model puts out no logits, or none of the class.
    """
    size = min(32, max(1, ROWS // (len(units) + 1)))
    ways = _AblationPasses(model, target, units, to)
    stream = batches(model, reader, samples, size, "ablating")
    with evaluating(model.module):
        found = [(_scores(model, batch, target), ways(batch)) for batch in stream]
    return np.concatenate([one for one, _ in found]), np.hstack([without for _, without in found])


def _scores(model: SubjectModel, batch: Tensor, target: int) -> Float64[np.ndarray, " b"]:
    """Return the class's logit of every image of a batch."""
    scores = run_scores(model, batch)
    if not 0 <= target < scores.shape[1]:
        raise ModelError(
            f"The model has no logit {target}.",
            f"Expected one from 0 to {scores.shape[1] - 1}.",
            "Choose one of them.",
        )
    return scores[:, target].double().cpu().numpy()


class _AblationPasses:
    """Logits of a batch without each unit, by as few passes as the model allows.

    The units of one layer share a pass up to it where that gives the same logits; the first
    batch finds out. It does not where a shortcut or a second branch goes past the layer.
    """

    def __init__(
        self,
        model: SubjectModel,
        target: int,
        units: Sequence[Sequence[Component]],
        to: Mapping[Component, float],
    ) -> None:
        self.model, self.target, self.units, self.to = model, target, units, to
        self.shared: dict[str, list[int]] = {}
        self.single: list[int] = []
        for place, unit in enumerate(units):
            layers = {component.layer for component in unit}
            if len(layers) == 1:
                self.shared.setdefault(layers.pop(), []).append(place)
            else:
                self.single.append(place)
        self.proven: set[str] = set()

    def __call__(self, batch: Tensor) -> Float64[np.ndarray, "n b"]:
        """Return the logits of a batch, unit by unit."""
        found = np.zeros((len(self.units), len(batch)))
        step = max(1, ROWS // len(batch))
        for layer, places in list(self.shared.items()):
            if layer not in self.proven and not self._agrees(batch, layer, places):
                self.single += self.shared.pop(layer)
                continue
            self.proven.add(layer)
            for part in (places[i : i + step] for i in range(0, len(places), step)):
                found[part] = self._together(batch, layer, part)
        for place in self.single:
            found[place] = self._alone(batch, place)
        return found

    def _alone(self, batch: Tensor, place: int) -> Float64[np.ndarray, " b"]:
        with pruned(self.model, self.units[place], self.to):
            return _scores(self.model, batch, self.target)

    def _together(
        self, batch: Tensor, layer: str, places: Sequence[int]
    ) -> Float64[np.ndarray, "n b"]:
        versions = [{c.index: self.to[c] for c in self.units[place]} for place in places]
        with batched_ablation(self.model, layer, versions):
            return _scores(self.model, batch, self.target).reshape(len(places), len(batch))

    def _agrees(self, batch: Tensor, layer: str, places: Sequence[int]) -> bool:
        """Say whether the shared pass gives what passes of their own give.

        Two images at least, since one would be broadcast against what goes past the layer.
        """
        if len(batch) == 1:
            batch = torch.cat([batch, batch.flip(-1)])
        some = [places[0], places[-1]]
        try:
            together = self._together(batch, layer, some)
        except (RuntimeError, ValueError, IndexError):  # shapes that do not fit past the layer
            return False
        alone = np.stack([self._alone(batch, place) for place in some])
        return bool(np.allclose(together, alone, rtol=1e-4, atol=1e-4))
