"""Which layers a model has, and what each puts out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from semlens.errors import LayerError
from semlens.models.activations import LayerForm, first_tensor, measure_form
from semlens.models.load import load_model
from semlens.models.subject import SubjectModel
from semlens.models.taps import evaluating, tapped


@dataclass(frozen=True)
class Layer:
    """One layer of a model.

    Parameters
    ----------
    form
        What it puts out; None where the order of its four axes is not known.
    module
        Class of the module.
    shape
        Of its output for one image.
    runs
        How often it runs in a forward pass.
    block
        Whether it is one of several blocks that a model is a chain of: a good choice.
    """

    name: str
    form: LayerForm | None
    module: str
    shape: tuple[int, ...]
    runs: int
    block: bool

    @property
    def note(self) -> str:
        """What stands in the way of choosing it, or a limit of it."""
        if self.runs > 1:
            return "runs more than once: take the block around it"
        if self.form is None:
            return "order of axes not known: give a layout"
        lacking = self.form.form == "tokens" and not self.form.height
        return "tokens without a grid: examples are not cropped by activation" if lacking else ""


@dataclass(frozen=True, repr=False)
class Layers:
    """The layers of a model whose output can be read, in the order in which they run."""

    model: str
    layers: tuple[Layer, ...]

    def __iter__(self) -> Iterator[Layer]:
        """Go through the layers."""
        return iter(self.layers)

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self.layers)

    def __repr__(self) -> str:
        """Return the table as text."""
        return f"{self.model}: {len(self)} layers\n{self.to_pandas().to_string(index=False)}"

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per layer."""
        rows = [
            {
                "layer": layer.name,
                "module": layer.module,
                "form": form.form if form else "-",
                "shape": " x ".join(str(size) for size in layer.shape),
                "components": form.components if form else 0,
                "map": f"{form.height} x {form.width}" if form and form.height else "-",
                "runs": layer.runs,
                "block": layer.block,
                "note": layer.note,
            }
            for layer in self
            for form in (layer.form,)
        ]
        return pd.DataFrame(rows)


@torch.inference_mode()
def layers(model: SubjectModel | str) -> Layers:
    """List the layers of a model that can be read, in the order in which they run.

    Parameters
    ----------
    model
        A subject model, or the SPEC of one.

    Raises
    ------
    ModelError
        If the SPEC cannot be loaded.

    Examples
    --------
    >>> [layer.name for layer in layers("semlens/demo") if layer.block]
    ['layer1', 'layer2', 'layer3']
    """
    if isinstance(model, str):
        model = load_model(model)
    kinds = {name: child for name, child in model.module.named_modules() if name}
    layouts = model.layouts(list(kinds))
    blocks = set(_blocks(model.module))
    found: dict[str, Layer] = {}

    def seen(name: str, output: Any) -> None:
        tensor = first_tensor(output)
        runs = found[name].runs + 1 if name in found else 1
        form = None
        try:
            form = measure_form(name, output, layouts[name])
        except LayerError:
            if layouts[name] != "unknown":
                return
        spread = form is not None and form.height * form.width > 1
        found[name] = Layer(
            name, form, type(kinds[name]).__name__, tuple(tensor.shape[1:]), runs,
            name in blocks and spread and runs == 1,
        )  # fmt: skip

    with evaluating(model.module), tapped(model.module, kinds, seen):
        model.module(model.example[:1])
    return Layers(model.spec, tuple(found.values()))


def _blocks(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """Name the modules that stand beside others of their kind, outside of such modules."""
    inner = {name: c for name, c in module.named_children() if next(c.children(), None) is not None}
    kinds = Counter(type(child) for child in inner.values())
    for name, child in inner.items():
        alike = kinds[type(child)] > 1
        if alike:
            yield prefix + name
        if not alike or isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            yield from _blocks(child, f"{prefix}{name}.")
