"""The softmax, log-softmax or sigmoid at the end of a model, and the logits before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from semlens.errors import ModelError
from semlens.models.output_tensor import PROBABILITIES

_OPERATORS = {
    "softmax": "softmax", "log_softmax": "log_softmax", "sigmoid": "sigmoid", "sigmoid_": "sigmoid",
    "expit": "sigmoid",
}  # fmt: skip
"""Operators of PyTorch that make probabilities of logits."""


class FinalOperator(TorchFunctionMode):
    """Records the operators of a pass that make probabilities of logits."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Tensor, Tensor]] = []
        """Name, logits and probabilities."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator and keep its input and result."""
        kwargs = kwargs or {}
        written = getattr(func, "__name__", "")
        name = _OPERATORS.get(written)
        logits = (args[0] if args else kwargs.get("input")) if name else None
        if written.endswith("_") and isinstance(logits, Tensor):
            logits = logits.clone()
        result = func(*args, **kwargs)
        # attention has more axes
        if name and isinstance(logits, Tensor) and result.shape[2:].numel() == 1:
            self.calls.append((name, logits, result))
        return result

    def end(self, answer: Tensor) -> str | None:
        """Return the operator whose result an answer is, if it acts on each image by itself."""
        for name, logits, result in reversed(self.calls):
            if logits.numel() != answer.numel():
                continue
            rows = logits.detach().cpu().double().reshape(len(answer), -1)
            if rows.shape[1] == 1 and name != "sigmoid":  # always one
                continue
            if _equal(result, answer) and _equal(PROBABILITIES[name](rows), answer):
                return name
        return None

    def before(self, answer: Tensor, operator: str) -> Tensor:
        """Return the logits of which an operator made an answer."""
        for name, logits, result in reversed(self.calls):
            if name == operator and _equal(result, answer):
                return logits
        raise ModelError(
            f"The model's answer is not the result of a {operator}.",
            f"Expected it to end in a {operator}, as for the example images.",
            "Use a model that computes the same for all images.",
        )


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree up to rounding, and to axes of length one."""
    if a.numel() != b.numel():
        return False
    a, b = (tensor.detach().cpu().double().flatten() for tensor in (a, b))
    return bool(torch.isclose(a, b, rtol=1e-2, atol=1e-6, equal_nan=True).all())
