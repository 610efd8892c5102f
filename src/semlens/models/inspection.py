"""What a model is like before a build: its layers, and whether it gives the same answer twice."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from semlens.errors import LayerError, ModelError
from semlens.models.activations import LayerLayout, compute_readouts, first_tensor, layout_of_image
from semlens.models.hooks import call_model, evaluating, layer_modules, reading_layers, run_layers
from semlens.models.load import ModelLike, as_model
from semlens.models.subject import SubjectModel, weights_digest
from semlens.types import Readout


@dataclass(frozen=True, repr=False)
class LayerList:
    """The layers of a model whose output can be read, in the order in which they run.

    Parameters
    ----------
    model
        SPEC of the model.
    layouts
        Layout of each layer's output; None if the order of its four axes is not known.
    table
        One row per layer.
    output
        What the model answers with, in words, or why that is not known.
    """

    model: str
    layouts: Mapping[str, LayerLayout | None]
    table: pd.DataFrame
    output: str

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per layer.

        ``runs`` is how often the layer runs in a forward pass. A ``block`` is one of several
        similar modules in a chain, and a good choice. ``note`` says why a layer cannot be chosen.
        """
        return self.table.copy()

    def __repr__(self) -> str:
        """Return the table as text."""
        head = f"{self.model}: {len(self.table)} layers. {self.output}"
        return f"{head}\n{self.table.to_string(index=False)}"


@torch.inference_mode()
def layers(model: ModelLike) -> LayerList:
    """List the layers of a model whose outputs can be read, in execution order.

    Parameters
    ----------
    model
        A subject model, or what :func:`build` takes as one.

    Raises
    ------
    ModelError
        If it cannot be loaded.

    Examples
    --------
    >>> table = layers("semlens/demo").to_pandas()
    >>> list(table.loc[table["block"], "layer"])
    ['layer1', 'layer2', 'layer3']
    """
    model = as_model(model)
    modules = {name: child for name, child in layer_modules(model.module).items() if name}
    axes = model.axes(list(modules))
    blocks = set(_blocks(model.module))
    layouts: dict[str, LayerLayout | None] = {}
    shapes: dict[str, list[int]] = {}
    runs = Counter[str]()

    def record(name: str, output: Any) -> None:
        runs[name] += 1
        try:
            layouts[name] = layout_of_image(name, output, axes[name])
        except LayerError:
            if axes[name].order != "unknown" or len(first_tensor(output)) != 1:
                return
            layouts[name] = None
        shapes[name] = list(first_tensor(output).shape[1:])

    with evaluating(model.module), reading_layers(model.module, modules, record):
        call_model(model.module, model.example[:1])
    rows = [
        {
            "layer": name,
            "module": type(modules[name]).__name__,
            "form": layout.form if layout else "-",
            "shape": " x ".join(str(size) for size in shapes[name]),
            "components": layout.components if layout else 0,
            "map": f"{layout.height} x {layout.width}" if layout and layout.height else "-",
            "runs": runs[name],
            "block": bool(
                name in blocks and layout and layout.height * layout.width > 1 and runs[name] == 1
            ),
            "note": _note(layout, runs[name]),
        }
        for name, layout in layouts.items()
    ]
    error = model.answer_error
    output = model.answer.sentence() if error is None else f"{error.value} {error.remedy}"
    return LayerList(model.spec, layouts, pd.DataFrame(rows), output)


def _note(layout: LayerLayout | None, runs: int) -> str:
    if runs > 1:
        return "runs more than once: choose the block that contains it"
    if layout is None:
        return "order of axes not known: set layout"
    if layout.form == "tokens" and not layout.height:
        return "tokens without a grid: cropped by relevance or not at all"
    return ""


def _blocks(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Yield the names of outermost modules that have siblings of the same type."""
    containers = {
        name: c for name, c in module.named_children() if next(c.children(), None) is not None
    }
    counts = Counter(type(child) for child in containers.values())
    for name, child in containers.items():
        repeated = counts[type(child)] > 1
        if repeated:
            yield prefix + name
        if not repeated or isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            yield from _blocks(child, f"{prefix}{name}.")


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
