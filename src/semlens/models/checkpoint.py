"""Weights from a local file: safetensors or a weights-only state dict, never a pickle of code."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from semlens.errors import ModelError, SemlensError
from semlens.models.hooks import FAILURES

_NESTED = ("state_dict", "model", "model_state_dict", "state_dict_ema")
_PREFIXES = ("module.", "model.", "_orig_mod.")
_UNREADABLE = (*FAILURES, SafetensorError, pickle.UnpicklingError, EOFError, OSError)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict.

    Raises
    ------
    ModelError
        If the file is missing, cannot be read, or holds something else.
    """
    remedy = "Save the state dict with torch.save(model.state_dict(), PATH) or as safetensors."
    if not path.is_file():
        raise ModelError(f"'{path}' is no file.", "Expected a checkpoint.", "Check the path.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"'{path}' cannot be read as weights ({reason}).",
            "Expected safetensors or a state dict that loads with weights_only=True.",
            remedy,
        ) from error
    while isinstance(loaded, Mapping):
        inner = next((loaded[k] for k in _NESTED if isinstance(loaded.get(k), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ModelError(
            f"'{path}' holds a {type(loaded).__name__}.", "Expected a state dict.", remedy
        )
    state = dict(loaded)
    while prefix := next(
        (p for p in _PREFIXES if state and all(n.startswith(p) for n in state)), ""
    ):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def classes_in(state: Mapping[str, Tensor], module: nn.Module) -> int | None:
    """Return the number of logits of a checkpoint if it differs from that of ``module``.

    A checkpoint of the same architecture with another head differs in the rows of the
    classifier only; 0 stands for one without a head. None: the heads are the same, or it is
    another architecture.
    """
    mine = module.state_dict()
    others = {
        name: (mine[name].shape, state[name].shape)
        for name in mine
        if name in state and mine[name].shape != state[name].shape
    }
    rows = {theirs[0] for ours, theirs in others.values() if ours[1:] == theirs[1:] and theirs}
    if len(rows) == 1 and all(ours[1:] == theirs[1:] for ours, theirs in others.values()):
        return rows.pop()
    absent = {tuple(name.rpartition(".")[::2]) for name in mine if name not in state}
    one = len({layer for layer, _ in absent}) == 1
    return 0 if one and all(kind in ("weight", "bias") for _, kind in absent) else None


def load_state(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights that must fit exactly.

    Raises
    ------
    ModelError
        If names or shapes differ.
    """
    mine = module.state_dict()
    lacking = sorted(set(mine) - set(state))
    faults = {
        "missing": [name for name in lacking if not name.endswith("num_batches_tracked")],
        "unknown": sorted(set(state) - set(mine)),
        "of another shape": [k for k in mine if k in state and mine[k].shape != state[k].shape],
    }
    parts = [f"{len(n)} {kind} (first: {n[0]})" for kind, n in faults.items() if n]
    if parts:
        raise ModelError(
            f"The weights of '{path}' do not fit {type(module).__name__}: {', '.join(parts)}.",
            "Expected the same names and shapes.",
            "Name the architecture that the checkpoint was made with.",
        )
    module.load_state_dict(dict(state), strict=False)


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a checkpoint of this very architecture into a module.

    Raises
    ------
    ModelError
        If it cannot be read, or names or shapes differ.
    """
    state, mine = read_state(path), module.state_dict()
    for prefix in _PREFIXES:  # which read_state takes off, though the module may have it itself
        if not set(state) <= set(mine) and all(prefix + name in mine for name in state):
            state = {prefix + name: value for name, value in state.items()}
    load_state(module, state, path)


def refuse_missing(names: Iterable[str], spec: str, kind: type[SemlensError]) -> None:
    """Refuse a checkpoint without weights that the model needs; a bare encoder's pooler is not.

    Raises
    ------
    SemlensError
        Of the ``kind`` given.
    """
    missing = sorted(name for name in names if "pooler" not in name)
    if missing:
        raise kind(
            f"The weights of '{spec}' lack {len(missing)} tensors (first: {missing[0]}).",
            "Expected all that its config.json asks for.",
            "Check that the checkpoint is complete and of this architecture.",
        )
