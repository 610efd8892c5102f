"""Corrected weights: written to a file, and a model that has them and can be loaded again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from semlens.errors import ModelError
from semlens.models.checkpoint import load_weights
from semlens.models.load import WEIGHTS
from semlens.models.subject import SubjectModel
from semlens.store.files import save_tensors

ENDS = (".safetensors",)


def save_weights(path: str | Path, state: Mapping[str, Tensor]) -> Path:
    """Write a state dict as safetensors, whole or not at all; return the absolute path.

    Raises
    ------
    ModelError
        If the path ends in something else.
    StoreError
        If it cannot be written.
    """
    file = check_weights(path).expanduser().resolve()
    # clones: tensors that share memory (tied weights) are written one by one
    save_tensors(file, {name: value.detach().clone() for name, value in state.items()})
    return file


def check_weights(path: str | Path) -> Path:
    """Refuse a path that weights are not written to, before long work begins."""
    if Path(path).suffix.lower() not in ENDS:
        raise ModelError(
            f"Weights cannot be written to '{path}'.",
            "Expected a path that ends in .safetensors.",
            "Choose another one.",
        )
    return Path(path)


def with_weights(model: SubjectModel, path: str | Path) -> SubjectModel:
    """Return a copy of a model with the weights of a file; its SPEC loads it again.

    Raises
    ------
    ModelError
        If the weights do not fit.
    """
    file = Path(path).expanduser().resolve()
    module = copy.deepcopy(model.module)
    load_weights(module, file)
    return replace(model, module=module, spec=f"{model.spec.partition(WEIGHTS)[0]}{WEIGHTS}{file}")
