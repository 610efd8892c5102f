"""Weights of small modules as int8 safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

SCALE_SUFFIX = ".scale"


def quantise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Quantise matrices and kernels to int8 with an fp16 scale per output row, the rest to fp16."""
    packed: dict[str, Tensor] = {}
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        if value.ndim < 2:
            packed[name] = value.half().contiguous()
            continue
        rows = value.detach().flatten(1)
        scale = (rows.abs().amax(1) / 127).clamp(min=1e-7).half()
        rounded = (rows / scale.float()[:, None]).round().clamp(-127, 127)
        packed[name] = rounded.reshape(value.shape).to(torch.int8).contiguous()
        packed[name + SCALE_SUFFIX] = scale
    return packed


def dequantise(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the float32 tensors of a state from :func:`quantise`."""
    state: dict[str, Tensor] = {}
    for name, value in packed.items():
        scale = packed.get(name + SCALE_SUFFIX)
        if scale is not None:
            state[name] = value.float() * scale.float().reshape(-1, *[1] * (value.ndim - 1))
        elif not (name.endswith(SCALE_SUFFIX) and name.removesuffix(SCALE_SUFFIX) in packed):
            state[name] = value.float()
    return state


def save_quantised(module: nn.Module, path: Path) -> None:
    """Write the state of ``module`` to int8 safetensors."""
    save_file(quantise(module.state_dict()), path)


def load_quantised(module: nn.Module, path: Path) -> None:
    """Load int8 safetensors into ``module``; counters that were not stored keep their value."""
    missing, unexpected = module.load_state_dict(dequantise(load_file(path)), strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(
            f"{path} does not match {type(module).__name__}: missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}. Rebuild it with 'python -m demo_world pack'."
        )
