"""Corrected weights: saved to a file, and loaded into a model."""

from __future__ import annotations

import copy
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from semlens.errors import ModelError
from semlens.lenses.result import Result
from semlens.models.checkpoint import load_weights
from semlens.models.load import WEIGHTS
from semlens.models.subject import SubjectModel
from semlens.regular_files import user_path
from semlens.store.atomic_files import save_tensors


@dataclass(frozen=True, repr=False)
class CorrectedModel(Result, ABC):
    """A copy of a model with corrected weights.

    Parameters
    ----------
    model
        The copy. It has no SPEC that loads it until :meth:`save_weights` is called.
    base
        SPEC of the original model.
    """

    model: SubjectModel
    base: str

    @property
    def state(self) -> dict[str, Tensor]:
        """State dict of the corrected module."""
        return self.model.module.state_dict()

    def save_weights(self, path: str | Path) -> SubjectModel:
        """Write the weights as safetensors, and return the model with a SPEC that loads them.

        Raises
        ------
        ModelError
            If the path does not end in ``.safetensors``.
        StoreError
            If the file cannot be written.
        """
        return replace(self.model, spec=_spec(self.base, save_weights(path, self.state)))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON; ``weights`` is None until they are saved."""
        spec = self.model.spec
        return {"base": self.base, "model": spec, "weights": spec.partition(WEIGHTS)[2] or None}


def save_weights(path: str | Path, state: Mapping[str, Tensor]) -> Path:
    """Write a state dict as safetensors, atomically; return the absolute path.

    Raises
    ------
    ModelError
        If the path does not end in ``.safetensors``.
    StoreError
        If the file cannot be written.
    """
    file = check_weights(path).expanduser().resolve()
    # cloned because safetensors refuses tensors that share memory (tied weights)
    save_tensors(file, {name: value.detach().clone() for name, value in state.items()})
    return file


def check_weights(path: str | Path) -> Path:
    """Raise a ModelError if the path does not end in ``.safetensors``, before long work begins."""
    if Path(path).suffix.lower() != ".safetensors":
        raise ModelError(
            f"Cannot write weights to '{path}'.",
            "Expected a path that ends in .safetensors.",
            "Choose another path.",
        )
    return Path(path)


def with_weights(model: SubjectModel, path: str | Path) -> SubjectModel:
    """Return a copy of a model with weights from a file; its SPEC includes the file.

    Raises
    ------
    ModelError
        If the weights do not fit the model.
    """
    file = user_path(path).resolve()
    module = copy.deepcopy(model.with_dictionaries(()).module)
    load_weights(module, file)
    changed = replace(model, module=module, spec=_spec(model.spec, file))
    return changed.with_dictionaries(model.dictionaries.values())


def _spec(base: str, file: Path) -> str:
    return f"{base.partition(WEIGHTS)[0]}{WEIGHTS}{file}"
