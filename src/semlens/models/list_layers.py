"""Listing the layers of a model and the layouts of their outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from semlens.errors import LayerError
from semlens.models.activations import LayerLayout, first_tensor, layout_of_image
from semlens.models.hooks import call_model, evaluating, layer_modules, reading_layers
from semlens.models.load import load_model
from semlens.models.subject import SubjectModel


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
    """

    model: str
    layouts: Mapping[str, LayerLayout | None]
    table: pd.DataFrame

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per layer.

        ``runs`` is how often the layer runs in a forward pass. A ``block`` is one of several
        similar modules in a chain, and a good choice. ``note`` says why a layer cannot be chosen.
        """
        return self.table.copy()

    def __repr__(self) -> str:
        """Return the table as text."""
        return f"{self.model}: {len(self.table)} layers\n{self.table.to_string(index=False)}"


@torch.inference_mode()
def layers(model: SubjectModel | str) -> LayerList:
    """List the layers of a model whose outputs can be read, in execution order.

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
    >>> table = layers("semlens/demo").to_pandas()
    >>> list(table.loc[table["block"], "layer"])
    ['layer1', 'layer2', 'layer3']
    """
    if isinstance(model, str):
        model = load_model(model)
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
            "block": bool(name in blocks and layout and layout.height > 1 and runs[name] == 1),
            "note": _note(layout, runs[name]),
        }
        for name, layout in layouts.items()
    ]
    return LayerList(model.spec, layouts, pd.DataFrame(rows))


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
