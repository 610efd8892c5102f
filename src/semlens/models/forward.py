"""Running the whole model over images: logits, and readouts of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor

from semlens.data.prefetch import default_workers, prefetch
from semlens.errors import ModelError
from semlens.models.activations import first_tensor, measure_form, read
from semlens.models.subject import SubjectModel
from semlens.models.taps import evaluating, run_layers
from semlens.progress import report
from semlens.types import Readout

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
    named = output.get("logits") if isinstance(output, Mapping) else None
    scores = getattr(output, "logits", named)
    if scores is None and not _detections(output):
        scores = first_tensor(output)
    return scores


def _detections(output: Any) -> bool:
    if isinstance(output, Mapping):
        return "boxes" in output
    return isinstance(output, list | tuple) and any(isinstance(p, Mapping) for p in output)


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
    stage: str = "running the model",
) -> Float32[np.ndarray, "n classes"]:
    """Return the model's logits for some samples.

    Raises
    ------
    ModelError
        If the model does not put out one row of logits per image.
    """
    rows: list[np.ndarray] = []
    with evaluating(model.module):
        for batch in batches(model, reader, samples, batch_size, stage):
            scores = run_scores(model, batch)
            rows.append(scores.float().cpu().numpy())
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

    parts: dict[str, list[np.ndarray]] = {name: [] for name in layers}
    for batch in batches(model, reader, samples, batch_size):
        for name, values in run_layers(model.module, batch, layers, use).items():
            parts[name].append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}
