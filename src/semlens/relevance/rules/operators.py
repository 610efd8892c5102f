"""The two weighted sums of vision models, and the way back through their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from semlens.relevance.flow import Flow
from semlens.relevance.graph import Node, pair

aten = torch.ops.aten


class Dense:
    """A dense layer: float[U ... i] to float[U ... o]."""

    def __init__(self, node: Node) -> None:
        self.weight: Tensor = node.arg(1)
        self.bias: Tensor | None = node.arg(2)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply weights [o i]."""
        return functional.linear(x, weight, bias)

    def back(self, flow: Flow, weight: Tensor, shape: Sequence[int]) -> Flow:
        """Apply the transposed weights."""
        return Flow(flow.values @ weight)

    def format(self, weight: Tensor) -> Tensor:
        """Return the weights as they are."""
        return weight


class Convolution:
    """A two-dimensional convolution, with groups, stride and dilation."""

    def __init__(self, node: Node) -> None:
        self.weight: Tensor = self.format(node.arg(1))
        self.bias: Tensor | None = node.arg(2)
        self.stride, self.dilation = pair(node.arg(3, 1)), pair(node.arg(5, 1))
        self.groups: int = node.arg(6, 1)
        kernel = self.weight.shape[-2:]
        before, after = _padding(node.arg(4, 0), kernel, self.dilation)
        self.padding = before
        self.uneven = tuple(b - a for a, b in zip(before, after, strict=True))

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve with weights [o i/groups h w]."""
        if any(self.uneven):
            x = functional.pad(x, (0, self.uneven[1], 0, self.uneven[0]))
        return functional.conv2d(
            x, weight, bias, self.stride, self.padding, self.dilation, self.groups
        )

    def back(self, flow: Flow, weight: Tensor, shape: Sequence[int]) -> Flow:
        """Convolve with the transposed weights; a window grows by the kernel."""
        return self._transposed(flow, weight, shape, self.groups)

    def spread(self, ones: Tensor) -> Tensor:
        """Count the pixels under each position of the kernel."""
        kernel = ones.new_ones(1, 1, *self.weight.shape[-2:])
        if any(self.uneven):
            ones = functional.pad(ones, (0, self.uneven[1], 0, self.uneven[0]))
        return functional.conv2d(ones, kernel, None, self.stride, self.padding, self.dilation)

    def gather(self, flow: Flow, shape: Sequence[int]) -> Flow:
        """Sum over the kernel's positions."""
        kernel = flow.values.new_ones(1, 1, *self.weight.shape[-2:])
        return self._transposed(flow, kernel, shape, 1)

    def format(self, weight: Tensor) -> Tensor:
        """Put the channels last, which convolutions on CPU and GPU are fastest with."""
        return weight.contiguous(memory_format=torch.channels_last)

    def _transposed(self, flow: Flow, weight: Tensor, shape: Sequence[int], groups: int) -> Flow:
        if flow.corner is None:
            size = (shape[-2], shape[-1])
            full = [
                (place - 1) * stride + dilation * (width - 1) + 1
                for place, stride, dilation, width in zip(
                    flow.window, self.stride, self.dilation, weight.shape[-2:], strict=True
                )
            ]
            if self._is_point(weight, groups):
                return flow.like(self._strided_point(flow.flat(), weight, size))
            # positions that no kernel reaches: stride leaves them over, or uneven padding
            missing = [
                max(0, length - (got - 2 * pad))
                for length, got, pad in zip(size, full, self.padding, strict=True)
            ]
            out = functional.conv_transpose2d(
                flow.flat(), weight, None, self.stride, self.padding,
                [min(m, s - 1) for m, s in zip(missing, self.stride, strict=True)],
                groups, self.dilation,
            )  # fmt: skip
            return flow.like(_cropped(out, size))
        if self._is_point(weight, groups):
            size = tuple((p - 1) * s + 1 for p, s in zip(flow.window, self.stride, strict=True))
            out = self._strided_point(flow.flat(), weight, size)
        else:
            out = functional.conv_transpose2d(
                flow.flat(), weight, None, self.stride, 0, 0, groups, self.dilation
            )
        device = flow.corner.device
        corner = flow.corner * torch.tensor(self.stride, device=device)
        return flow.like(out, corner - torch.tensor(self.padding, device=device))

    def _is_point(self, weight: Tensor, groups: int) -> bool:
        """Whether the kernel is a 1 x 1 one with a stride, which most positions never see."""
        plain = groups == 1 and max(self.padding) == 0
        return plain and tuple(weight.shape[-2:]) == (1, 1) and max(self.stride) > 1

    def _strided_point(self, flat: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
        small = functional.conv2d(flat, weight.transpose(0, 1))
        out = small.new_zeros(len(flat), weight.shape[1], *size)
        out = out.contiguous(memory_format=torch.channels_last)
        rows, columns = (
            (n - 1) * s + 1 for n, s in zip(small.shape[-2:], self.stride, strict=True)
        )
        out[:, :, : rows : self.stride[0], : columns : self.stride[1]] = small
        return out


def _cropped(out: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bring maps to ``size``, with zeros or without what is too much."""
    more = (size[0] - out.shape[-2], size[1] - out.shape[-1])
    return functional.pad(out, (0, more[1], 0, more[0])) if any(more) else out


def _padding(
    value: Any, kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the padding before (top, left) and after (bottom, right)."""
    if isinstance(value, tuple) and isinstance(value[0], tuple):
        return value
    if value == "valid":
        return (0, 0), (0, 0)
    if value == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        before = (total[0] // 2, total[1] // 2)
        return before, (total[0] - before[0], total[1] - before[1])
    both = pair(value)
    return both, both


Operator = Dense | Convolution
"""``y = w x + b`` for one kind of weights."""
