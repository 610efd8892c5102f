"""An accelerator that computes on the CPU and is as strict as a GPU.

Tensors say that they are on the device ``emulated:0`` and hold their values in a tensor on the CPU,
so that results are real.  An operation on tensors of different devices fails as it would on a GPU,
and so does one without a CUDA kernel (where PyTorch is built with CUDA: its kernels are registered
without a GPU, too).  Copies to the CPU and values that Python reads are counted, since each makes
the CPU wait.

What it does not show: streams, memory, half-precision kernels, and CUDA's own arithmetic.
"""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from semlens.relevance import captured_graph, lrp_engine

CPU = torch.device("cpu")
DEVICE_TYPE = "emulated"
MIXED = {
    "aten::copy_", "aten::index.Tensor", "aten::index", "aten::index_put", "aten::index_put_",
    "aten::_index_put_impl_",
}  # fmt: skip
"""Operators that take tensors of both devices: copies, and tensors that CPU indices select from."""
COMPOSITE = (
    "CompositeImplicitAutograd", "CompositeExplicitAutograd",
    "CompositeExplicitAutogradNonFunctional",
)  # fmt: skip


class EmulatedTensor(Tensor):
    """A tensor on the emulated device; ``values`` is on the CPU."""

    values: Tensor
    accelerator: Accelerator

    @staticmethod
    def __new__(cls, values: Tensor, accelerator: Accelerator) -> EmulatedTensor:
        made = Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), storage_offset=values.storage_offset(),
            dtype=values.dtype, device=f"{DEVICE_TYPE}:0",
        )  # fmt: skip
        made.values, made.accelerator = values, accelerator
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self) -> str:
        return f"{self.values!r} on the emulated device"

    def tolist(self) -> Any:
        """Read the values, which waits for the device."""
        self.accelerator.waits["copy"] += 1
        return self.values.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refuse, as a tensor on a GPU does."""
        raise TypeError("can't convert a device's tensor to numpy. Use Tensor.cpu() first")

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        made = EmulatedTensor(self.values.clone(), self.accelerator)
        if isinstance(self, nn.Parameter):
            return nn.Parameter(made, self.requires_grad)
        return made.requires_grad_(self.requires_grad)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        first = next(x for x in tree_leaves((args, kwargs)) if isinstance(x, EmulatedTensor))
        return first.accelerator.run(func, args, kwargs or {})


@dataclass
class Accelerator:
    """The device's rules, and what was done.

    Parameters
    ----------
    float64
        Whether it computes in double precision; Apple's GPUs do not.
    memory
        Bytes that the result of a convolution may have, or None for any number.
    """

    float64: bool = True
    memory: int | None = None
    waits: Counter[str] = field(default_factory=Counter)
    """What made the CPU wait: ``copy`` (a tensor to the CPU), ``value`` (a number for Python)."""
    operators: Counter[str] = field(default_factory=Counter)

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operator on the CPU, if the device could."""
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        mine = [leaf for leaf in given if isinstance(leaf, EmulatedTensor)]
        asked = kwargs.get("device")
        goal = torch.device(asked) if asked is not None else mine[0].device if mine else CPU
        if goal.type == "cpu" and not mine:
            return func(*args, **kwargs)
        self._check(func, given, mine)
        plain_args, plain = tree_map_only(EmulatedTensor, lambda x: x.values, (args, kwargs))
        if asked is not None:
            plain["device"] = CPU
        if plain.get("pin_memory"):
            plain["pin_memory"] = False
        result = func(*plain_args, **plain)
        if goal.type == "cpu":
            self.waits["copy"] += 1
            return result
        if func is torch.ops.aten.copy_.default and not isinstance(args[0], EmulatedTensor):
            self.waits["copy"] += 1
            return args[0]
        result = tree_map_only(Tensor, lambda x: EmulatedTensor(x, self), result)
        self._check_types(func, result)
        if self.memory is not None and func.name() == "aten::convolution":
            if result.nbytes > self.memory:
                raise torch.OutOfMemoryError(f"out of memory: {result.nbytes} bytes")
        return return_and_correct_aliasing(func, args, kwargs, result) if mine else result

    def _check(self, func: Any, given: list[Tensor], mine: list[Tensor]) -> None:
        name = func.name()
        self.operators[name] += 1
        if name in {"aten::_local_scalar_dense", "aten::equal", "aten::nonzero"}:
            self.waits["value"] += 1
        other = [leaf for leaf in given if not isinstance(leaf, EmulatedTensor)]
        if mine and name not in MIXED and any(leaf.dim() for leaf in other):
            shapes = [(tuple(leaf.shape), str(leaf.device)) for leaf in given]
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {name} got {shapes}"
            )
        if name in MIXED and name != "aten::copy_" and not isinstance(given[0], EmulatedTensor):
            raise RuntimeError(f"{name}: a tensor on the CPU cannot be indexed by one on the GPU")
        if torch.backends.cuda.is_built() and not _has_kernel(func, "CUDA", *COMPOSITE):
            raise NotImplementedError(f"{name} has no CUDA kernel")

    def _check_types(self, func: Any, result: Any) -> None:
        doubles = [
            x for x in tree_leaves(result) if isinstance(x, Tensor) and x.dtype == torch.double
        ]
        if doubles and not self.float64:
            raise TypeError(f"{func.name()}: the device does not support float64")


def _has_kernel(func: Any, *keys: str) -> bool:
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key) for key in keys)


class _Intercept(TorchDispatchMode):
    """Sends operators that name the device to the accelerator, in one thread."""

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__()
        self.accelerator = accelerator

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.accelerator.run(func, args, kwargs or {})


@cache
def register_device() -> ModuleType:
    """Give PyTorch's place for a device of one's own the name ``emulated``, once per process."""
    module = ModuleType(f"torch.{DEVICE_TYPE}")
    module.is_available, module.device_count = (lambda: False), (lambda: 1)
    module._is_in_bad_fork, module.manual_seed_all = (lambda: False), (lambda seed: None)
    module.is_initialized, module._lazy_init = (lambda: True), (lambda: None)
    module.current_device = lambda: 0
    _setup_privateuseone_for_python_backend(DEVICE_TYPE, module)
    return module


@contextmanager
def emulated_accelerator(
    *, float64: bool = True, memory: int | None = None
) -> Iterator[Accelerator]:
    """Provide the device ``emulated:0``, in all threads that start within.

    A capture for LRP is made on the CPU and moved to the device, because ``torch.export`` does not
    trace a tensor that emulates.
    """
    module = register_device()
    accelerator = Accelerator(float64, memory)
    run_thread = threading.Thread.run

    def run_intercepted(thread: threading.Thread) -> None:
        with _Intercept(accelerator):
            run_thread(thread)

    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "is_available", lambda: True)  # other tests run without it
        # Tensors of inference mode cannot have emulated views.
        patch.setattr(torch._C, "_InferenceMode", lambda mode: torch.set_grad_enabled(not mode))
        patch.setattr(threading.Thread, "run", run_intercepted)
        patch.setattr(lrp_engine, "capture", _capture_and_move(lrp_engine.capture, accelerator))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor: made on the CPU, then copied
        try:
            with _Intercept(accelerator):
                yield accelerator
        finally:
            torch._C._set_only_lift_cpu_tensors(False)
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)


def _capture_and_move(
    capture: Callable[[nn.Module, Tensor], captured_graph.CapturedGraph], accelerator: Accelerator
) -> Callable[[nn.Module, Tensor], captured_graph.CapturedGraph]:
    def to_device(value: Any) -> Any:
        if isinstance(value, Tensor):
            return EmulatedTensor(value.detach(), accelerator)
        return torch.device(DEVICE_TYPE, 0) if isinstance(value, torch.device) else value

    def moved(module: nn.Module, example: Tensor) -> captured_graph.CapturedGraph:
        if next(module.parameters(), example).device.type == "cpu":
            return capture(module, example)
        with sdpa_kernel(
            SDPBackend.MATH
        ):  # the CPU's fused attention orders its result differently
            graph = capture(copy.deepcopy(module).to(CPU), example.to(CPU))
        for node in graph.nodes:
            node.args, node.kwargs = tree_map(to_device, (node.args, node.kwargs))
        return graph

    return moved
