"""Applying the weights of ``y = w x + b`` forwards and transposed: dense layers and convolutions.

A rule for weighted sums decides which weights multiply which part of the input; how they are
applied is decided here, so that each rule is written once for all kinds of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.canonicalize import CONV, TRANSPOSED
from semlens.relevance.captured_graph import OpNode, pair

aten = torch.ops.aten


class Dense:
    """Apply the weights of a dense layer: float[U ... i] to float[U ... o]."""

    windowed: ClassVar[bool] = True

    def __init__(self, node: OpNode) -> None:
        self.weight: Tensor = node.arg(1)
        self.bias: Tensor | None = node.arg(2)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply weights [o i]."""
        return functional.linear(x, weight, bias)

    def apply_transposed(
        self, signal: BackwardSignal, weight: Tensor, shape: Sequence[int]
    ) -> BackwardSignal:
        """Apply the transposed weights."""
        return BackwardSignal(signal.values @ weight)

    def to_memory_format(self, weight: Tensor) -> Tensor:
        """Return the weights as they are."""
        return weight


class Convolution:
    """Apply the weights of a 2D convolution, with groups, stride and dilation."""

    windowed: ClassVar[bool] = True

    def __init__(self, node: OpNode) -> None:
        self.weight: Tensor = self.to_memory_format(node.arg(1))
        self.bias: Tensor | None = node.arg(2)
        self.stride, self.dilation = pair(node.arg(3, 1)), pair(node.arg(5, 1))
        self.groups: int = node.arg(6, 1)
        self.padding, after = _padding_before_after(
            node.arg(4, 0), self.weight.shape[-2:], self.dilation
        )
        self.extra_padding = tuple(b - a for a, b in zip(self.padding, after, strict=True))

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve with weights [o i/groups h w]."""
        if any(self.extra_padding):
            x = functional.pad(x, (0, self.extra_padding[1], 0, self.extra_padding[0]))
        return functional.conv2d(
            x, weight, bias, self.stride, self.padding, self.dilation, self.groups
        )

    def apply_transposed(
        self, signal: BackwardSignal, weight: Tensor, shape: Sequence[int]
    ) -> BackwardSignal:
        """Apply the transposed convolution; a window grows by the kernel."""
        return self._transposed(signal, weight, shape, self.groups)

    def count_pixels(self, ones: Tensor) -> Tensor:
        """Count the input pixels under each position of the kernel."""
        kernel = ones.new_ones(1, 1, *self.weight.shape[-2:])
        if any(self.extra_padding):
            ones = functional.pad(ones, (0, self.extra_padding[1], 0, self.extra_padding[0]))
        return functional.conv2d(ones, kernel, None, self.stride, self.padding, self.dilation)

    def sum_over_kernel(self, signal: BackwardSignal, shape: Sequence[int]) -> BackwardSignal:
        """Sum over the kernel's positions."""
        kernel = signal.values.new_ones(1, 1, *self.weight.shape[-2:])
        return self._transposed(signal, kernel, shape, 1)

    def to_memory_format(self, weight: Tensor) -> Tensor:
        """Store the channels last, the fastest format for convolutions on CPU and GPU."""
        return weight.contiguous(memory_format=torch.channels_last)

    def _transposed(
        self, signal: BackwardSignal, weight: Tensor, shape: Sequence[int], groups: int
    ) -> BackwardSignal:
        if signal.corner is None:
            size = (shape[-2], shape[-1])
            full = [
                (cells - 1) * stride + dilation * (kernel - 1) + 1
                for cells, stride, dilation, kernel in zip(
                    signal.window, self.stride, self.dilation, weight.shape[-2:], strict=True
                )
            ]
            if self._is_point(weight, groups):
                return signal.from_batch(self._strided_point(signal.as_batch(), weight, size))
            # positions that no kernel reaches, because of the stride or uneven padding
            missing = [
                max(0, length - (reached - 2 * pad))
                for length, reached, pad in zip(size, full, self.padding, strict=True)
            ]
            result = functional.conv_transpose2d(
                signal.as_batch(), weight, None, self.stride, self.padding,
                [min(m, s - 1) for m, s in zip(missing, self.stride, strict=True)],
                groups, self.dilation,
            )  # fmt: skip
            return signal.from_batch(_pad_or_crop(result, size))
        if self._is_point(weight, groups):
            size = tuple((p - 1) * s + 1 for p, s in zip(signal.window, self.stride, strict=True))
            result = self._strided_point(signal.as_batch(), weight, size)
        else:
            result = functional.conv_transpose2d(
                signal.as_batch(), weight, None, self.stride, 0, 0, groups, self.dilation
            )
        device = signal.corner.device
        corner = signal.corner * torch.tensor(self.stride, device=device)
        return signal.from_batch(result, corner - torch.tensor(self.padding, device=device))

    def _is_point(self, weight: Tensor, groups: int) -> bool:
        """Whether this is a 1 x 1 kernel with a stride, which skips most positions."""
        plain = groups == 1 and max(self.padding) == 0
        return plain and tuple(weight.shape[-2:]) == (1, 1) and max(self.stride) > 1

    def _strided_point(self, batch: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
        dense = functional.conv2d(batch, weight.transpose(0, 1))
        result = dense.new_zeros(len(batch), weight.shape[1], *size)
        result = result.contiguous(memory_format=torch.channels_last)
        rows, columns = (
            (n - 1) * s + 1 for n, s in zip(dense.shape[-2:], self.stride, strict=True)
        )
        result[:, :, : rows : self.stride[0], : columns : self.stride[1]] = dense
        return result


def _pad_or_crop(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Pad maps with zeros, or crop them, to ``size``."""
    missing = (size[0] - maps.shape[-2], size[1] - maps.shape[-1])
    return functional.pad(maps, (0, missing[1], 0, missing[0])) if any(missing) else maps


def _padding_before_after(
    value: Any, kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the padding before (top, left) and after (bottom, right) the map."""
    if isinstance(value, tuple) and isinstance(value[0], tuple):
        return value
    if value == "valid":
        return (0, 0), (0, 0)
    if value == "same":
        padding = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        before = (padding[0] // 2, padding[1] // 2)
        return before, (padding[0] - before[0], padding[1] - before[1])
    symmetric = pair(value)
    return symmetric, symmetric


class WholeConvolution:
    """Apply the weights of a convolution of 1 to 3 dimensions, or of a transposed one.

    The signal covers whole maps: these convolutions are rare, or have no windows.
    """

    windowed: ClassVar[bool] = False

    def __init__(self, node: OpNode) -> None:
        self.weight: Tensor = node.arg(1)
        self.bias: Tensor | None = node.arg(2)
        self.transposed = node.target in TRANSPOSED
        kernel = self.weight.shape[2:]
        last = (6, 7) if self.transposed else (6, 5)
        self.groups: int = node.arg(last[0], 1)
        self.stride = _each(node.arg(3, 1), kernel)
        self.dilation = _each(node.arg(last[1], 1), kernel)
        self.output_padding = _each(node.arg(5, 0) if self.transposed else 0, kernel)
        padding, total = node.arg(4, 0), [0] * len(kernel)
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(self.dilation, kernel, strict=True)]
        no_number = isinstance(padding, str)
        self.padding = [size // 2 for size in total] if no_number else _each(padding, kernel)
        self.extra_padding = [size % 2 for size in total]

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve with weights of the shape of the layer's."""
        if any(self.extra_padding):
            x = functional.pad(x, [n for size in reversed(self.extra_padding) for n in (0, size)])
        return self._convolve(x, weight, bias, self.transposed, self.output_padding)

    def apply_transposed(
        self, signal: BackwardSignal, weight: Tensor, shape: Sequence[int]
    ) -> BackwardSignal:
        """Apply the transposed weights, to an input of ``shape``."""
        batch, remainder = signal.as_batch(), [0] * len(self.stride)
        if not self.transposed:  # positions at the end that no kernel reaches
            lengths = [n + extra for n, extra in zip(shape[2:], self.extra_padding, strict=True)]
            remainder = [
                (length + 2 * pad - dilation * (kernel - 1) - 1) % stride
                for length, pad, dilation, kernel, stride in zip(
                    lengths, self.padding, self.dilation, weight.shape[2:], self.stride, strict=True
                )
            ]
        result = self._convolve(batch, weight, None, not self.transposed, remainder)
        return signal.from_batch(result[(..., *(slice(length) for length in shape[2:]))])

    def to_memory_format(self, weight: Tensor) -> Tensor:
        """Return the weights as they are."""
        return weight

    def _convolve(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        transposed: bool,
        output_padding: Sequence[int],
    ) -> Tensor:
        return torch.convolution(
            x, weight, bias, self.stride, self.padding, self.dilation,
            transposed, output_padding, self.groups,
        )  # fmt: skip


def _each(value: int | Sequence[int], kernel: Sequence[int]) -> list[int]:
    """Return an argument for each dimension of the kernel; one number stands for all."""
    sizes = [value] if isinstance(value, int) else list(value)
    return sizes * len(kernel) if len(sizes) == 1 else sizes


Operator = Dense | Convolution | WholeConvolution
"""Applies the weights of ``y = w x + b`` in both directions."""


def weights_operator(node: OpNode) -> Operator:
    """Return what applies the weights of a dense layer or convolution."""
    if node.target == aten.linear.default:
        return Dense(node)
    return Convolution(node) if node.target in CONV else WholeConvolution(node)
