"""Which layers a model has, and what each puts out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from semlens.errors import LayerError
from semlens.models.activations import LayerLayout, first_tensor, measure_form
from semlens.models.hooks import evaluating, reading_layers
from semlens.models.load import load_model
from semlens.models.subject import SubjectModel


@dataclass(frozen=True, repr=False)
class LayerList:
    """The layers of a model whose output can be read, in the order in which they run.

    Parameters
    ----------
    model
        Its SPEC.
    forms
        What each puts out; None where the order of its four axes is not known.
    table
        One row per layer.
    """

    model: str
    forms: Mapping[str, LayerLayout | None]
    table: pd.DataFrame

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per layer.

        ``runs`` counts in a forward pass; a ``block`` is one of several that the model is a chain
        of, and a good choice; ``note`` says what stands in the way of choosing a layer.
        """
        return self.table.copy()

    def __repr__(self) -> str:
        """Return the table as text."""
        return f"{self.model}: {len(self.table)} layers\n{self.table.to_string(index=False)}"


@torch.inference_mode()
def layers(model: SubjectModel | str) -> LayerList:
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
    >>> table = layers("semlens/demo").to_pandas()
    >>> list(table.loc[table["block"], "layer"])
    ['layer1', 'layer2', 'layer3']
    """
    if isinstance(model, str):
        model = load_model(model)
    kinds = {name: child for name, child in model.module.named_modules() if name}
    layouts = model.layouts(list(kinds))
    blocks = set(_blocks(model.module))
    forms: dict[str, LayerLayout | None] = {}
    shapes: dict[str, list[int]] = {}
    runs = Counter[str]()

    def seen(name: str, output: Any) -> None:
        runs[name] += 1
        try:
            forms[name] = measure_form(name, output, layouts[name])
        except LayerError:
            if layouts[name] != "unknown":
                return
            forms[name] = None
        shapes[name] = list(first_tensor(output).shape[1:])

    with evaluating(model.module), reading_layers(model.module, kinds, seen):
        model.module(model.example[:1])
    rows = [
        {
            "layer": name,
            "module": type(kinds[name]).__name__,
            "form": form.form if form else "-",
            "shape": " x ".join(str(size) for size in shapes[name]),
            "components": form.components if form else 0,
            "map": f"{form.height} x {form.width}" if form and form.height else "-",
            "runs": runs[name],
            "block": bool(name in blocks and form and form.height > 1 and runs[name] == 1),
            "note": _note(form, runs[name]),
        }
        for name, form in forms.items()
    ]
    return LayerList(model.spec, forms, pd.DataFrame(rows))


def _note(form: LayerLayout | None, runs: int) -> str:
    if runs > 1:
        return "runs more than once: take the block around it"
    if form is None:
        return "order of axes not known: give a layout"
    if form.form == "tokens" and not form.height:
        return "tokens without a grid: cropped by relevance or not at all"
    return ""


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
