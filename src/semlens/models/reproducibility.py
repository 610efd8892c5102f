"""Whether a model gives the same answer twice; a database of one that does not means nothing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from semlens.errors import ModelError
from semlens.models.activations import LayerLayout, compute_readouts, first_tensor
from semlens.models.hooks import call_model, evaluating, reading_layers, run_layers
from semlens.models.subject import SubjectModel, weights_digest
from semlens.types import Readout

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Largest difference by precision, as a share of the largest value; rounding stays far below."""
COARSE_TOLERANCE = 0.03
"""The same for half precision."""
OUTPUT = "the output"


class BatchDependenceWarning(UserWarning):
    """The model's answer for an image depends on the other images of its batch."""


def check_reproducible(
    model: SubjectModel, layouts: Sequence[LayerLayout], readout: Readout
) -> None:
    """Run one batch twice, and one of its images alone, and compare the readouts of layers.

    Raises
    ------
    ModelError
        If the readouts differ between the two runs, or the weights change.

    Warns
    -----
    BatchDependenceWarning
        If the readouts for an image differ in a batch of its own.
    """
    before = weights_digest(model.module)
    batch = model.example
    first, second = (_readouts(model, batch, layouts, readout) for _ in range(2))
    training = _still_training(model.module, batch)
    hint = (
        f"In training mode even after eval(): {', '.join(training[:5])}."
        if training
        else "Remove dropout, noise and updates from the forward pass."
    )
    if weights_digest(model.module) != before:
        raise ModelError(
            f"A forward pass changes the weights or statistics of {type(model.module).__name__}.",
            "Expected a model that stays as it is.",
            hint,
        )
    tolerance = TOLERANCE.get(batch.dtype, COARSE_TOLERANCE)
    for name in first:
        difference = relative_difference(first[name], second[name])
        if difference > tolerance:
            source = _first_difference(model.module, batch, tolerance)
            raise ModelError(
                f"The model gives two answers for one batch: {name} differs by "
                f"{difference:.2g} of its largest value"
                + (f", from module '{source}' on." if source else "."),
                "Expected a deterministic model.",
                hint,
            )
    alone = _readouts(model, batch[:1], layouts, readout)
    for name in first:
        difference = relative_difference(first[name][:1], alone.get(name, first[name][:1]))
        if difference > tolerance:
            warnings.warn(
                f"What {name} gives for an image depends on the other images of its "
                f"batch: alone, it differs by {difference:.2g} of the largest value. The "
                "database holds for this batch size and order of images only.",
                BatchDependenceWarning,
                stacklevel=2,
            )
            return


def relative_difference(a: Float[Tensor, ...], b: Float[Tensor, ...]) -> float:
    """Return the largest difference, as a share of the largest magnitude; NaN equals NaN."""
    a, b = a.double().nan_to_num(), b.double().nan_to_num()
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-30))


def _readouts(
    model: SubjectModel, batch: Tensor, layouts: Sequence[LayerLayout], readout: Readout
) -> dict[str, Tensor]:
    """Return the readouts [b c] of the layers, and the output of the model if it is a tensor."""
    by_name, found = {layout.name: layout for layout in layouts}, dict[str, Tensor]()

    def keep(output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None and tensor.is_floating_point() and len(tensor) == len(batch):
            found[OUTPUT] = tensor.cpu()

    layers = run_layers(
        model.module, batch, by_name,
        lambda name, output: compute_readouts(by_name[name], output, readout).value.cpu(),
        on_output=keep,
    )  # fmt: skip
    return {f"layer '{name}'": values for name, values in layers.items()} | found


@torch.inference_mode()
def _still_training(module: nn.Module, batch: Tensor) -> list[str]:
    """Return the modules that are in training mode after a pass in evaluation mode."""
    with evaluating(module):
        call_model(module, batch[:2])
        return [name or type(module).__name__ for name, m in module.named_modules() if m.training]


@torch.inference_mode()
def _first_difference(module: nn.Module, batch: Tensor, tolerance: float) -> str | None:
    """Return the first module, in the order of execution, whose outputs of two passes differ."""
    names = [name for name, child in module.named_modules() if name and not list(child.children())]
    passes: list[list[tuple[str, Tensor]]] = []
    for _ in range(2):
        outputs: list[tuple[str, Tensor]] = []

        def keep(name: str, output: Any, outputs: list[tuple[str, Tensor]] = outputs) -> None:
            tensor = first_tensor(output)
            if tensor is not None and tensor.is_floating_point():
                outputs.append((name, tensor.cpu().clone()))

        with evaluating(module), reading_layers(module, names, keep):
            call_model(module, batch[:2])
        passes.append(outputs)
    for (name, a), (_, b) in zip(*passes, strict=False):
        if relative_difference(a, b) > tolerance:
            return name
    return None
