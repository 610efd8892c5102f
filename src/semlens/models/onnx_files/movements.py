"""Operators that move, repeat or cut values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from onnx2torch.onnx_node import OnnxNode
from torch import Tensor, nn
from torch.nn import functional

from semlens.models.onnx_files.layers import Constants, Operation, operator

MOVEMENTS = set[str]()
"""Names of the operators that are converted here if their settings are constants."""


def _sizes(images: Tensor, fixed: Sequence[int], per_image: Sequence[int]) -> list[Any]:
    """Return sizes; those that grow are symbols while the network is captured."""
    return [
        size + rate * images.shape[0] if rate else size
        for size, rate in zip(fixed, per_image, strict=True)
    ]


def _reshape(x: Tensor, images: Tensor, fixed: Sequence[int], per_image: Sequence[int]) -> Tensor:
    if sum(map(bool, per_image)) == 1:
        return x.reshape([-1 if rate else n for n, rate in zip(fixed, per_image, strict=True)])
    return x.reshape(_sizes(images, fixed, per_image))


def _expand(x: Tensor, images: Tensor, fixed: Sequence[int], per_image: Sequence[int]) -> Tensor:
    return x.expand(_sizes(images, fixed, per_image))


def _filled(
    images: Tensor, fixed: Sequence[int], per_image: Sequence[int], value: float, dtype: torch.dtype
) -> Tensor:
    sizes = _sizes(images, fixed, per_image)
    return torch.full(sizes, value, dtype=dtype, device=images.device)


def _growing(node: OnnxNode) -> dict[str, list[int]]:
    # an empty list of numbers cannot be told from an attribute of another kind
    read = {a.name: list(a.ints) for a in node.proto.attribute}
    return {"fixed": read["fixed"], "per_image": read["per_image"]}


@operator(MOVEMENTS, "Reshape", inputs=2)
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    return Operation(_reshape, **_growing(node))


@operator(MOVEMENTS, "Expand", inputs=2)
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    return Operation(_expand, **_growing(node))


@operator(MOVEMENTS, "ConstantOfShape")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    given = node.attributes.get("value")
    value = torch.zeros(1) if given is None else given.to_torch()
    return Operation(_filled, **_growing(node), value=value.item(), dtype=value.dtype)


def _concatenate(*parts: Tensor, dim: int) -> Tensor:
    batch = max(part.shape[0] for part in parts)
    if dim % parts[0].ndim == 0 or all(part.shape[0] == batch for part in parts):
        return torch.cat(parts, dim)
    # a class token of a graph with a fixed batch of 1
    return torch.cat([part.expand(batch, *part.shape[1:]) for part in parts], dim)


@operator(MOVEMENTS, "Concat", inputs=0)
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    return Operation(_concatenate, dim=node.attributes["axis"])


def _split(x: Tensor, sizes: Sequence[int], dim: int) -> tuple[Tensor, ...]:
    return torch.split(x, list(sizes), dim)


@operator(MOVEMENTS, "Split")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    return Operation(_split, sizes=node.attributes["sizes"], dim=node.attributes.get("axis", 0))


def _slice(x: Tensor, bounds: Sequence[tuple[int, int, int, int]]) -> Tensor:
    for axis, start, stop, step in bounds:
        if step > 0:
            x = x[(*[slice(None)] * (axis % x.ndim), slice(start, stop, step))]
        else:
            order = list(range(x.shape[axis]))[start:stop:step]
            x = x.index_select(axis, torch.tensor(order, device=x.device))
    return x


@operator(MOVEMENTS, "Slice")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    if len(node.input_values) == 1:  # before opset 10
        starts, stops = node.attributes["starts"], node.attributes["ends"]
        axes, steps = node.attributes.get("axes", list(range(len(starts)))), [1] * len(starts)
    else:
        starts, stops = constant(1).tolist(), constant(2).tolist()
        axes = constant(3, torch.arange(len(starts))).tolist()
        steps = constant(4, torch.ones(len(starts), dtype=torch.int64)).tolist()
    return Operation(_slice, bounds=list(zip(axes, starts, stops, steps, strict=True)))


@operator(MOVEMENTS, "Pad")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    pads = node.attributes.get("pads") or constant(1).tolist()
    value = float(constant(2, node.attributes.get("value", 0.0)))
    rank = len(pads) // 2
    axes = constant(3, torch.arange(rank)).tolist()
    if min(axes) < 0 or sorted(axes) != list(range(rank)):
        raise NotImplementedError("Pad with axes is not implemented")
    order = sorted(range(rank), key=lambda i: -axes[i])  # torch lists the last axis first
    pairs = [(pads[i], pads[i + rank]) for i in order]
    while len(pairs) > 1 and pairs[-1] == (0, 0):
        pairs.pop()
    mode = modes[node.attributes.get("mode", "constant")]
    settings = {"value": value} if mode == "constant" else {}
    flat = [size for pair in pairs for size in pair]
    return Operation(functional.pad, pad=flat, mode=mode, **settings)


def _squeeze(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    return x.squeeze(dim)


def _unsqueeze(x: Tensor, dim: Sequence[int]) -> Tensor:
    rank = x.ndim + len(dim)
    for axis in sorted(axis % rank for axis in dim):
        x = x.unsqueeze(axis)
    return x


@operator(MOVEMENTS, "Squeeze", "Unsqueeze")
def _(node: OnnxNode, constant: Constants) -> nn.Module:
    axes = node.attributes.get("axes")
    given = tuple(constant(1).tolist() if axes is None else axes)
    return Operation(_squeeze if node.operation_type == "Squeeze" else _unsqueeze, dim=given)
