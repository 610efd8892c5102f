"""Loading weights from a local file: safetensors or a weights-only state dict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from semlens.errors import ModelError, SemlensError, reason_of
from semlens.regular_files import is_file

_NESTED = ("state_dict", "model", "model_state_dict", "state_dict_ema")
_PREFIXES = ("module.", "model.", "_orig_mod.")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict.

    Raises
    ------
    ModelError
        If the file is missing, cannot be read, or does not hold a state dict.
    """
    remedy = "Save the state dict with torch.save(model.state_dict(), PATH) or as safetensors."
    if not is_file(path):
        raise ModelError(f"'{path}' is not a file.", "Expected a checkpoint.", "Check the path.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle may make the readers raise anything
        raise ModelError(
            f"'{path}' cannot be read as weights ({reason_of(error)}).",
            "Expected safetensors or a state dict that loads with weights_only=True.",
            remedy,
        ) from error
    outer: list[Any] = []  # a dict may contain itself
    while isinstance(loaded, Mapping) and not any(loaded is one for one in outer):
        outer.append(loaded)
        loaded = next((loaded[k] for k in _NESTED if isinstance(loaded.get(k), Mapping)), loaded)
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise ModelError(
            f"'{path}' contains a {type(loaded).__name__}.",
            "Expected a state dict: tensors by name.",
            remedy,
        )
    state = dict(loaded)
    while prefix := next(
        (p for p in _PREFIXES if state and all(n.startswith(p) for n in state)), ""
    ):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def classes_in(state: Mapping[str, Tensor], module: nn.Module) -> int | None:
    """Return the number of logits of a checkpoint if it differs from that of ``module``.

    A checkpoint of the same architecture with another head differs only in the rows of the
    classifier; 0 means that it has no head. None means that the heads are equal, or that the
    checkpoint is of another architecture.
    """
    expected = module.state_dict()
    different_shapes = {
        name: (expected[name].shape, state[name].shape)
        for name in expected
        if name in state and expected[name].shape != state[name].shape
    }
    class_counts = {
        found_shape[0]
        for expected_shape, found_shape in different_shapes.values()
        if expected_shape[1:] == found_shape[1:] and found_shape
    }
    if len(class_counts) == 1 and all(
        expected_shape[1:] == found_shape[1:]
        for expected_shape, found_shape in different_shapes.values()
    ):
        return class_counts.pop()
    missing = {tuple(name.rpartition(".")[::2]) for name in expected if name not in state}
    one_layer = len({layer for layer, _ in missing}) == 1
    return (
        0
        if one_layer and all(tensor_name in ("weight", "bias") for _, tensor_name in missing)
        else None
    )


def load_state(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights whose names and shapes must match exactly.

    Raises
    ------
    ModelError
        If names or shapes differ.
    """
    expected = module.state_dict()
    missing = sorted(set(expected) - set(state))
    problems = {
        "missing": [name for name in missing if not name.endswith("num_batches_tracked")],
        "unknown": sorted(set(state) - set(expected)),
        "of another shape": [
            k for k in expected if k in state and expected[k].shape != state[k].shape
        ],
    }
    descriptions = [
        f"{len(names)} {problem} (first: {names[0]})"
        for problem, names in problems.items()
        if names
    ]
    if descriptions:
        raise ModelError(
            f"The weights of '{path}' do not fit {type(module).__name__}: "
            f"{', '.join(descriptions)}.",
            "Expected the same names and shapes.",
            "Use the architecture that the checkpoint was saved from.",
        )
    module.load_state_dict(dict(state), strict=False)


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a checkpoint of the same architecture into a module.

    Raises
    ------
    ModelError
        If it cannot be read, or names or shapes differ.
    """
    state, expected = read_state(path), module.state_dict()
    for prefix in _PREFIXES:  # read_state removes it, but the module's own names may have it
        if not set(state) <= set(expected) and all(prefix + name in expected for name in state):
            state = {prefix + name: value for name, value in state.items()}
    load_state(module, state, path)


def check_missing_weights(names: Iterable[str], spec: str, error_type: type[SemlensError]) -> None:
    """Raise an error if a checkpoint lacks weights; the pooler of a bare encoder is optional.

    Raises
    ------
    SemlensError
        Of type ``error_type``.
    """
    missing = sorted(name for name in names if "pooler" not in name)
    if missing:
        raise error_type(
            f"The weights of '{spec}' lack {len(missing)} tensors (first: {missing[0]}).",
            "Expected all tensors that its config.json describes.",
            "Check that the checkpoint is complete and of this architecture.",
        )
