"""Which layers a model has, and what each puts out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from semlens.errors import LayerError
from semlens.models.activations import LayerForm, measure_form
from semlens.models.subject import SubjectModel
from semlens.models.taps import evaluating, tapped


@torch.inference_mode()
def survey(model: SubjectModel) -> list[tuple[LayerForm, str, int]]:
    """List the layers whose output can be read, in the order in which they run.

    Returns
    -------
    list
        (form, class of the module, runs per forward pass) per layer.
    """
    names = [name for name, _ in model.module.named_modules() if name]
    forms: dict[str, LayerForm] = {}
    runs: dict[str, int] = {}

    def seen(name: str, output: Any) -> None:
        runs[name] = runs.get(name, 0) + 1
        try:
            forms[name] = measure_form(name, output)
        except LayerError:
            return

    grey = Image.fromarray(np.full((256, 256, 3), 128, np.uint8))
    with evaluating(model.module), tapped(model.module, names, seen):
        model.module(model.batch([model.preprocess(grey)]))
    kinds = dict(model.module.named_modules())
    return [(form, type(kinds[name]).__name__, runs[name]) for name, form in forms.items()]
