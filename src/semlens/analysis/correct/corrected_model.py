"""Corrected weights: written to a file, and models that have them and can be loaded again."""

from __future__ import annotations

import copy
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from semlens.analysis.result import Result
from semlens.errors import ModelError
from semlens.models.checkpoint import load_weights
from semlens.models.load import WEIGHTS
from semlens.models.subject import SubjectModel
from semlens.store.atomic_files import save_tensors


@dataclass(frozen=True, repr=False)
class CorrectedModel(Result, ABC):
    """A copy of a model with other weights, and what was done to it."""

    model: SubjectModel
    """The copy; :meth:`save_weights` gives it a SPEC."""
    base: str
    """SPEC of the model before."""

    @property
    def state(self) -> dict[str, Tensor]:
        """The new weights: a state dict for the same module."""
        return self.model.module.state_dict()

    def save_weights(self, path: str | Path) -> SubjectModel:
        """Write the weights as safetensors, and return the model with a SPEC that loads them.

        Raises
        ------
        ModelError
            If the path does not end in ``.safetensors``.
        StoreError
            If it cannot be written.
        """
        return replace(self.model, spec=_spec(self.base, save_weights(path, self.state)))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program; ``weights`` is None until they are written."""
        spec = self.model.spec
        return {"base": self.base, "model": spec, "weights": spec.partition(WEIGHTS)[2] or None}


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
    if Path(path).suffix.lower() != ".safetensors":
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
    return replace(model, module=module, spec=_spec(model.spec, file))


def _spec(base: str, file: Path) -> str:
    return f"{base.partition(WEIGHTS)[0]}{WEIGHTS}{file}"
